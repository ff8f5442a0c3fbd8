"""A VM does not outlive any of the processes that hold it, whoever kills which of them."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from mulligan import settings
from mulligan.engine.engine import Engine
from mulligan.models import VmExecuteRequest
from support import host

pytestmark = pytest.mark.anyio
BACKGROUND = "nohup sleep 300 > /dev/null 2>&1 & echo $RANDOM > f; echo on"


def bash(code: str) -> VmExecuteRequest:
    return VmExecuteRequest(agent_id="a", language="bash", code=code)


def chain(pid: int) -> list[int]:
    """A process, its first child, the first of that and so on: to process 1 of the VM."""
    found = [pid]
    while Path(f"/proc/{found[-1]}/ns/pid").readlink() == Path("/proc/self/ns/pid").readlink():
        children = Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text().split()
        found.append(int(children[0]))
    return found


def inside(pid: int) -> set[int]:
    """Those below a process that are the VM's own."""
    ours, below = Path("/proc/self/ns/pid").readlink(), host.descendants(pid)
    return {each for each in below if Path(f"/proc/{each}/ns/pid").readlink() != ours}


@pytest.mark.long
async def test_none_of_them_is_outlived(data_dir: Path) -> None:
    async with Engine(settings.load(data_dir=data_dir)) as engine:
        vm_id = (await engine.execute(bash(BACKGROUND))).vm_id
        vm = engine.fleet.vms[vm_id]
        assert vm.machine is not None
        for place in range(len(chain(vm.machine.pid))):
            machine = vm.machine
            held = host.descendants(machine.pid) | {machine.pid}
            assert len(held) > 2
            os.kill(chain(machine.pid)[place], signal.SIGKILL)
            gone = await asyncio.to_thread(host.wait_until, lambda held=held: not host.alive(held))
            assert gone, (place, host.alive(held))
            await machine.wait()
            after = await engine.execute(bash(f"pgrep sleep; cat f | wc -l; {BACKGROUND}"))
            assert after.stdout == "1\non\n"  # its files are there, and nothing else
            assert after.vm_id == vm_id
            assert vm.machine is not machine


async def test_a_machine_has_stopped_when_all_of_it_has(data_dir: Path) -> None:
    """Also where bubblewrap was killed a moment before."""
    async with Engine(settings.load(data_dir=data_dir)) as engine:
        vm = engine.fleet.vms[(await engine.execute(bash(BACKGROUND))).vm_id]
        assert vm.machine is not None
        held = inside(vm.machine.pid)
        assert len(held) > 2
        os.kill(vm.machine.pid, signal.SIGKILL)
        await vm.stop()
        assert not host.alive(held)


async def test_killing_bubblewrap_alone_ends_the_vm(data_dir: Path) -> None:
    async with Engine(settings.load(data_dir=data_dir)) as engine:
        vm = engine.fleet.vms[(await engine.execute(bash(BACKGROUND))).vm_id]
        machine = vm.machine
        assert machine is not None
        held = inside(machine.pid)
        os.kill(machine.pid, signal.SIGKILL)
        await machine.wait()  # nobody has asked the VM for anything, or to stop
        assert not host.alive(held)
