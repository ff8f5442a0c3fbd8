"""The VM's filter of system calls, run as the kernel would run it."""

import errno
import json
import subprocess
from collections import Counter

import pytest
from tools.syscall_numbers import TABLE, from_headers

from mulligan.drivers.bubblewrap.seccomp import (
    ARCHITECTURES,
    FAMILIES,
    PROTOCOLS,
    groups,
    numbers,
    program,
)
from mulligan.errors import ConfigError
from support.bpf import ALLOW, ERRNO, KILL, verdict

OTHER_ARCH = 0x40000003  # i386
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
MOST = 4096  # of a filter's instructions, BPF_MAXINSNS
every_machine = pytest.mark.parametrize("machine", ARCHITECTURES)


def answer(machine: str, name: str, *arguments: int) -> int:
    number = numbers(machine)[name]
    return verdict(program(machine), ARCHITECTURES[machine], number, *arguments)


def test_every_call_is_in_one_group() -> None:
    listed = Counter(name for _, _, calls in groups().values() for name in calls)
    assert [name for name, count in listed.items() if count > 1] == []
    assert set(listed) == {name for machine in ARCHITECTURES for name in numbers(machine)}


def test_every_group_has_an_answer_and_a_reason() -> None:
    for name, (kind, why, calls) in groups().items():
        assert kind in ("allow", "arguments") or hasattr(errno, kind), name
        assert len(why) > 10, name
        assert calls, name


@every_machine
def test_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    try:
        known = from_headers(machine)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this host has no headers of the kernel")
    if machine == "x86_64":
        assert len(known) > 300
    table = json.loads(TABLE.read_text())[machine]
    newest = max(table.values())  # headers may be of a newer kernel
    known = {name: number for name, number in known.items() if number <= newest}
    assert {name: table.get(name) for name in known} == known


@every_machine
def test_calls_are_answered_as_their_group_says(machine: str) -> None:
    verdicts = {"allow": ALLOW, "EPERM": EPERM, "ENOSYS": ENOSYS}
    for kind, _, calls in groups().values():
        for name in calls:
            if kind != "arguments" and name in numbers(machine):
                assert answer(machine, name, 0, 0, 0) == verdicts[kind], name


@every_machine
def test_what_is_unknown_is_not_there(machine: str) -> None:
    """A call of a newer kernel is answered as by one that does not have it."""
    known = set(numbers(machine).values())
    arch = ARCHITECTURES[machine]
    for number in {*range(max(known) + 200), 0x3FFFFFFF} - known:
        assert verdict(program(machine), arch, number) == ENOSYS, number


@every_machine
def test_the_kernel_takes_it(machine: str) -> None:
    assert len(program(machine)) % 8 == 0
    assert len(program(machine)) // 8 < MOST // 4


@every_machine
@pytest.mark.parametrize(
    "name",
    ["keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup"]
    + ["fsopen", "fsmount", "mount_setattr", "kexec_load", "init_module", "finit_module", "ptrace"]
    + ["open_by_handle_at", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "clone3"]
    + ["swapon", "reboot", "syslog", "settimeofday", "chroot", "acct", "quotactl", "kcmp"],
)
def test_nobody_in_a_vm_needs(machine: str, name: str) -> None:
    assert answer(machine, name) in (EPERM, ENOSYS)


@every_machine
def test_sockets(machine: str) -> None:
    for family in range(64):
        expected = ALLOW if family in FAMILIES else ERRNO | errno.EAFNOSUPPORT
        assert answer(machine, "socket", family, 1, 0) == expected, family
        pair = ALLOW if family == 1 else ERRNO | errno.EAFNOSUPPORT
        assert answer(machine, "socketpair", family, 1, 0) == pair, family
    for family in (2, 10):
        for protocol in range(300):
            expected = ALLOW if protocol in PROTOCOLS else ERRNO | errno.EPROTONOSUPPORT
            assert answer(machine, "socket", family, 1 | 0o2004000, protocol) == expected
        for kind in range(16):
            expected = ALLOW if kind in (1, 2, 3) else ERRNO | errno.ESOCKTNOSUPPORT
            assert answer(machine, "socket", family, kind | 0o2000000) == expected, kind
    assert answer(machine, "socket", 16, 3, 0) == ALLOW
    for protocol in range(1, 32):
        assert answer(machine, "socket", 16, 3, protocol) == ERRNO | errno.EPROTONOSUPPORT
    assert answer(machine, "socket", (1 << 32) | 40, 1, 0) == ERRNO | errno.EAFNOSUPPORT


@every_machine
def test_no_namespace_is_made_by_clone(machine: str) -> None:
    fork, thread = 0x1200011, 0x3D0F00  # as the C library calls it
    assert answer(machine, "clone", fork) == ALLOW
    assert answer(machine, "clone", thread) == ALLOW
    spaces = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    for flag in (*spaces, 0x8000):
        assert answer(machine, "clone", fork | flag) == EPERM, hex(flag)
        assert answer(machine, "clone", (1 << 40) | fork | flag) == EPERM, hex(flag)


@every_machine
def test_the_agents_own_namespaces(machine: str) -> None:
    for flag in (0x20000, 0x2000000):  # CLONE_NEWNS, CLONE_NEWCGROUP
        assert answer(machine, "unshare", flag) == ALLOW
    assert answer(machine, "setns", 5, 0x20000) == ALLOW
    for flags in (0, 0x10000000, 0x10020000, 0x200, 0x80):
        assert answer(machine, "unshare", flags) == EPERM, hex(flags)
        assert answer(machine, "setns", 5, flags) == EPERM, hex(flags)


@every_machine
def test_keyrings_can_be_left_and_nothing_else(machine: str) -> None:
    assert answer(machine, "keyctl", 1) == ALLOW
    for operation in (0, *range(2, 40)):
        assert answer(machine, "keyctl", operation) == EPERM


@every_machine
def test_nobody_types_into_terminals(machine: str) -> None:
    for request in (0x5412, 0x541C, (1 << 32) | 0x5412):  # TIOCSTI, TIOCLINUX
        assert answer(machine, "ioctl", 0, request) == EPERM
    for request in (0x5401, 0x5413, 0x5421, 0x541B):  # TCGETS, TIOCGWINSZ, FIONBIO, FIONREAD
        assert answer(machine, "ioctl", 0, request) == ALLOW


@every_machine
def test_personalities(machine: str) -> None:
    for value in (0, 0x20000, 0xFFFFFFFF):
        assert answer(machine, "personality", value) == ALLOW
    for value in (8, 0x40000, 0x400000, 0x8000000, 0x20008):
        assert answer(machine, "personality", value) == EPERM


@every_machine
def test_disk_is_given_back_but_not_set_aside(machine: str) -> None:
    freeing = {0x03: "punch a hole", 0x08: "collapse", 0x20: "insert"}
    for mode in range(0x80):
        expected = ALLOW if mode in freeing else ERRNO | errno.EOPNOTSUPP
        assert answer(machine, "fallocate", 7, mode) == expected, hex(mode)


@every_machine
def test_numbers_of_other_architectures(machine: str) -> None:
    for number in (1, 11, 0x40000001):
        assert verdict(program(machine), OTHER_ARCH, number) == KILL
    other = next(arch for arch in ARCHITECTURES.values() if arch != ARCHITECTURES[machine])
    assert verdict(program(machine), other, 1) == KILL
    if machine == "x86_64":
        for number in (0, 250, 520, 0x3FFFFFFF):
            assert verdict(program(machine), ARCHITECTURES[machine], 0x40000000 | number) == ENOSYS


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="riscv64"):
        program("riscv64")
