"""The filter, run as the kernel would run it."""

import errno
import struct

import pytest

from mulligan.drivers.bubblewrap.seccomp import ARCHITECTURES, FAMILIES, program
from mulligan.errors import ConfigError

ALLOW, KILL = 0x7FFF0000, 0x80000000
OTHER_ARCH = 0x40000003  # i386


def verdict(
    machine: str, number: int, argument: int = 0, arch: int | None = None, second: int = 0
) -> int:
    """Interprets the program over a struct seccomp_data."""
    arch = ARCHITECTURES[machine][0] if arch is None else arch
    data = struct.pack("=iIQ6Q", number, arch, 0, argument, second, 0, 0, 0, 0)
    code = list(struct.iter_unpack("=HBBI", program(machine)))
    position, value = 0, 0
    while True:
        operation, then, otherwise, operand = code[position]
        position += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x06:
            return operand
        else:
            assert operation in (0x15, 0x35)
            met = value == operand if operation == 0x15 else value >= operand
            position += then if met else otherwise


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_calls(machine: str) -> None:
    _, refused, special = ARCHITECTURES[machine]
    for name, number in refused.items():
        expected = errno.ENOSYS if name.startswith("io_uring") else errno.EPERM
        assert verdict(machine, number) == 0x00050000 | expected, name
    others = set(range(600)) - set(refused.values()) - set(special)
    assert {verdict(machine, number) for number in others} == {ALLOW}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_sockets(machine: str) -> None:
    socket, _, _ = ARCHITECTURES[machine][2]
    for family in range(64):
        allowed = family in FAMILIES.values()
        expected = ALLOW if allowed else 0x00050000 | errno.EAFNOSUPPORT
        assert verdict(machine, socket, family) == expected


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_keyrings_can_be_left_and_nothing_else(machine: str) -> None:
    _, keyctl, _ = ARCHITECTURES[machine][2]
    assert verdict(machine, keyctl, 1) == ALLOW
    for operation in (0, *range(2, 40)):
        assert verdict(machine, keyctl, operation) == 0x00050000 | errno.EPERM


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_disk_is_given_back_but_not_set_aside(machine: str) -> None:
    _, _, fallocate = ARCHITECTURES[machine][2]
    freeing = {0x03: "punch a hole", 0x08: "collapse", 0x20: "insert"}
    for mode in range(0x80):
        expected = ALLOW if mode in freeing else 0x00050000 | errno.EOPNOTSUPP
        assert verdict(machine, fallocate, 7, second=mode) == expected, hex(mode)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_numbers_of_other_architectures(machine: str) -> None:
    assert verdict(machine, 1, arch=OTHER_ARCH) == KILL
    if machine == "x86_64":
        assert verdict(machine, 0x40000000 | 250) == 0x00050000 | errno.ENOSYS


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="riscv64"):
        program("riscv64")
