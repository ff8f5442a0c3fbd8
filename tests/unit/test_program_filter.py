"""The filter every program gets on top of its VM's, run as the kernel would run it."""

import errno

import pytest

from mulligan.drivers.bubblewrap.seccomp import ARCHITECTURES, groups, numbers
from mulligan.guest import filters
from support.bpf import ALLOW, ERRNO, verdict

EPERM = ERRNO | errno.EPERM
AGENT, ZYGOTE, OWN = 1, 7, 23
every_machine = pytest.mark.parametrize("machine", ARCHITECTURES)


def answer(machine: str, name: str, *arguments: int) -> int:
    code = filters.program(machine, (AGENT, ZYGOTE))
    return verdict(code, ARCHITECTURES[machine], numbers(machine)[name], *arguments)


@every_machine
def test_numbers_are_the_drivers(machine: str) -> None:
    column = filters.MACHINES.index(machine)
    for name, both in filters.CALLS.items():
        assert numbers(machine)[name] == both[column], name


@every_machine
def test_what_only_the_agent_needs_is_shut(machine: str) -> None:
    """Whatever the VM's filter lets through for the agent, this one does not."""
    agents = {*groups()["agent"][2], "unshare", "setns", "keyctl"}
    assert set(filters.AGENTS) == agents
    for name in agents:
        assert answer(machine, name, 0x20000, 0x20000) == EPERM, name
        assert answer(machine, name, 1, 0x20000) == EPERM, name


@every_machine
def test_all_else_is_left_to_the_vms_filter(machine: str) -> None:
    known = {numbers(machine)[name] for name in filters.CALLS}
    code = filters.program(machine, (AGENT, ZYGOTE))
    for number in set(range(600)) - known:
        assert verdict(code, ARCHITECTURES[machine], number, 1, 1, 1) == ALLOW, number


@every_machine
@pytest.mark.parametrize("name", [*filters.BY_NUMBER, "kill"])
def test_agent_and_zygote_are_not_acted_upon(machine: str, name: str) -> None:
    for pid in (AGENT, ZYGOTE, (1 << 32) | ZYGOTE):
        assert answer(machine, name, pid, 9) == EPERM, pid
    for pid in (0, 2, OWN, 4_000_000, -OWN):
        assert answer(machine, name, pid, 9) == ALLOW, pid


@every_machine
def test_nobody_signals_everybody(machine: str) -> None:
    """kill(-1) would reach the zygote; a group's number is another matter."""
    assert answer(machine, "kill", -1, 9) == EPERM
    assert answer(machine, "kill", 0, 9) == answer(machine, "kill", -ZYGOTE, 9) == ALLOW


@every_machine
@pytest.mark.parametrize(("name", "process"), [("setpriority", 0), ("ioprio_set", 1)])
def test_priorities_are_ones_own(machine: str, name: str, process: int) -> None:
    group, user = process + 1, process + 2
    for pid in (AGENT, ZYGOTE):
        assert answer(machine, name, process, pid) == EPERM
        assert answer(machine, name, group, pid) == EPERM
    assert answer(machine, name, process, 0) == answer(machine, name, process, OWN) == ALLOW
    assert answer(machine, name, group, 0) == ALLOW
    for who in (0, 1, 1000):
        assert answer(machine, name, user, who) == EPERM


@every_machine
def test_no_priority_is_raised_above_the_usual(machine: str) -> None:
    """As Linux has it for whoever has no rights; gVisor lets everybody."""
    assert answer(machine, "setpriority", 0, 0, -1) == answer(machine, "setpriority", 0, OWN, -20)
    assert answer(machine, "setpriority", 0, 0, -1) == ERRNO | errno.EACCES
    for priority in (0, 1, 19):
        assert answer(machine, "setpriority", 0, 0, priority) == ALLOW


@every_machine
def test_descriptors_signal_nobody_elses(machine: str) -> None:
    for owner in (AGENT, ZYGOTE, -AGENT, -ZYGOTE):
        assert answer(machine, "fcntl", 5, 8, owner) == EPERM
    assert answer(machine, "fcntl", 5, 8, OWN) == ALLOW
    assert answer(machine, "fcntl", 5, 15, 0x7FFF0000) == EPERM  # F_SETOWN_EX, by pointer
    for command in (0, 1, 2, 3, 4, 9, 10, 1030, 1033):
        assert answer(machine, "fcntl", 5, command, AGENT) == ALLOW, command
    for request in (0x8901, 0x8902):  # FIOSETOWN, SIOCSPGRP
        assert answer(machine, "ioctl", 5, request) == EPERM
    assert answer(machine, "ioctl", 5, 0x5401) == ALLOW
