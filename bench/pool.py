"""Measures VMs in numbers: what one takes that is idle, how fast many come, what a lease takes.

Nothing here passes or fails. ``--vms`` says how many idle ones.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from bench.measure import pss_kib
from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.layers.directories import PASS_THROUGH, remove_tree
from mulligan.models import DEFAULT_VM_TYPE, VmCreateRequest, VmExecuteRequest

LEASES = 40
COLD = 100
STEP_S = 0.02
REST_S = 0.3  # in which the pool is filled again, and settles


def settings(directory: Path, **options: object) -> settings_module.Settings:
    return settings_module.load(
        data_dir=directory, hooks={"enabled": False}, pool={"max_vms": 0}, **options
    )


def below(pid: int) -> set[int]:
    """The processes below one."""
    parents: dict[int, list[int]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(process.name))
    found, queue = set(), [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found.update(children)
        queue += children
    return found


async def idle(directory: Path, number: int) -> None:
    """What each of many idle VMs takes."""
    async with Engine(settings(directory)) as engine:
        before = below(os.getpid())
        for each in range(number):
            vm = await engine.create_vm(VmCreateRequest(agent_id=f"a{each}"))
            await engine.fleet.find(vm.id).start()
        took = pss_kib(below(os.getpid()) - before)
        print(f"{number} idle VMs: {took / number / 1024:.2f} MiB PSS each")


async def cold(directory: Path) -> None:
    """Many VMs at once, from nothing."""
    async with Engine(settings(directory)) as engine:
        made = [
            (await engine.create_vm(VmCreateRequest(agent_id=f"a{each}"))).id
            for each in range(COLD)
        ]
        start = time.perf_counter()
        await asyncio.gather(*(engine.fleet.find(vm).start() for vm in made))
        print(f"{COLD} VMs from cold: {time.perf_counter() - start:.2f} s")


async def lease(directory: Path) -> None:
    """From asking for a VM to the first result, with a spare one and without."""
    for warm in (0, 2):
        types = {DEFAULT_VM_TYPE: {"warm": warm}}
        async with Engine(settings(directory / str(warm), vm_types=types)) as engine:
            leases, results = [], []
            for each in range(LEASES):
                while engine.fleet.spares.ready(DEFAULT_VM_TYPE, None) < warm:
                    await asyncio.sleep(STEP_S)
                await asyncio.sleep(REST_S)
                agent = f"a{each}"
                start = time.perf_counter()
                vm = await engine.create_vm(VmCreateRequest(agent_id=agent))
                leases.append((time.perf_counter() - start) * 1000)
                request = VmExecuteRequest(
                    agent_id=agent, vm_id=vm.id, language="python", code="print(1)"
                )
                assert (await engine.execute(request)).exit_code == 0
                results.append((time.perf_counter() - start) * 1000)
                await engine.delete_vm(vm.id)
        which = "a spare VM" if warm else "a new VM"
        print(
            f"{which}: {statistics.median(leases):.1f} ms, to its first result "
            f"{statistics.median(results):.1f} ms (best {min(results):.1f}), medians of {LEASES}"
        )


async def main() -> None:
    """Measures it all, in a directory of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=200)
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="mulligan-bench-"))
    directory.chmod(PASS_THROUGH)
    try:
        await lease(directory / "lease")
        await cold(directory / "cold")
        await idle(directory / "idle", chosen.vms)
    finally:
        await asyncio.to_thread(remove_tree, directory)


if __name__ == "__main__":
    asyncio.run(main())
