"""One table of what VMs cost by every driver that works here, into docs/performance.md.

Usage: python -m bench.drivers [--rounds N] [--driver NAME ...] [--write]

MicroVMs have the kernel image of the data directory there is (``mulligan microvm build``). Medians;
nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.measure import pss_kib
from bench.serving import descendants
from mulligan import settings as settings_module
from mulligan.drivers.choosing import CAPABILITIES
from mulligan.drivers.interface import Machine
from mulligan.drivers.qemu.image import lend
from mulligan.engine.engine import Engine
from mulligan.engine.vms.templates import make_template
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ConfigError, ExecutionFailed
from mulligan.guest.starts import SPARE_S
from mulligan.layers.directories import PASS_THROUGH, make_directory, remove_tree
from mulligan.models import (
    DEFAULT_VM_TYPE,
    RollbackTo,
    SnapshotCreateRequest,
    VmCreateRequest,
    VmExecuteRequest,
)
from mulligan.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
MARKS = ("<!-- drivers:begin -->", "<!-- drivers:end -->")
ROUNDS = 5
MEMORY_MB = 256
AGENT = "bench"
STEP_S = 0.05
POOL_S = 120.0
REST_S = 0.3
NEW, POOL = "new VM to first result", "the same, a spare VM"
COPY = "the same, copied from a template"
PYTHON, BASH = "Python, in a VM that runs", "`bash -c true`, in a VM that runs"
SNAPSHOT, ROLLBACK = "snapshot", "rollback"
BACK = "rollback to first result"
KEEP, RESTORE = "memory to disk, with an interpreter", "VM from that memory, ready"
IDLE = "idle VM, memory (PSS)"
LOAD = "load average meanwhile"
ROWS = (NEW, COPY, POOL, PYTHON, BASH, SNAPSHOT, ROLLBACK, BACK, KEEP, RESTORE, IDLE, LOAD)
Cells = dict[str, str]


class Column:
    """What was measured of one driver.

    Args:
        name: of the driver.
        directory: an existing one, for data.
        rounds: what medians are of.
    """

    def __init__(self, name: str, directory: Path, rounds: int) -> None:
        self.name = name
        self.cells: Cells = {}
        self.title = f"`{name}`"
        self._directory = directory
        self._rounds = rounds

    def settings(self, part: str, **kind: object) -> Settings:
        """Of an engine with a data directory of its own, and one VM type."""
        directory = self._directory / part
        make_directory(directory)
        if not (directory / "images").exists():
            lend(settings_module.load().data_dir / "images", directory / "images")
        types = {DEFAULT_VM_TYPE: {"memory_mb": MEMORY_MB, **kind}}
        return settings_module.load(
            data_dir=directory,
            driver=self.name,
            vm_types=types,
            vm_pool_size=0,
            log_level="error",
        )

    async def measure(self) -> None:
        """Fills the column.

        Raises:
            ConfigError: this host cannot run the driver.
        """
        settings = self.settings("new")
        async with Engine(settings) as engine:
            driver = engine.drivers.of_type(DEFAULT_VM_TYPE)
            self.title += ", emulated" if driver.pace > 1 else ""
            await self._new(engine, NEW)
        if self.name == "qemu":
            settings = self.settings("copies")
            await make_template(settings, DEFAULT_VM_TYPE)
            async with Engine(settings) as engine:
                await self._new(engine, COPY)
        async with Engine(settings) as engine:
            await self._running(engine)
            await self._past(engine)
            await self._idle(engine)
        pooled = settings.vm_types[DEFAULT_VM_TYPE].model_copy(update={"warm": 1})
        types = {"vm_types": {DEFAULT_VM_TYPE: pooled}}
        async with Engine(settings.model_copy(update=types)) as engine:
            await self._pool(engine)
        if driver.capabilities.memory_across_restart:
            await self._durable(self.settings("durable", keep_memory=True))

    def _add(self, row: str, milliseconds: list[float]) -> None:
        median = statistics.median(milliseconds)
        self.cells[row] = f"{median:.1f} ms" if median < 100 else f"{median:.0f} ms"

    async def _new(self, engine: Engine, row: str) -> None:
        taken = []
        for number in range(self._rounds + 1):
            start = time.perf_counter()
            made = await engine.create_vm(VmCreateRequest(agent_id=AGENT))
            await run(engine, "print(1)", vm_id=made.id)
            if number:  # the first one compiles and finds what others have then
                taken.append((time.perf_counter() - start) * 1000)
            await engine.delete_vm(made.id)
        self._add(row, taken)

    async def _pool(self, engine: Engine) -> None:
        taken = []
        for number in range(self._rounds):
            until = time.monotonic() + POOL_S
            while not engine.fleet.spares.ready(DEFAULT_VM_TYPE, None):
                if time.monotonic() > until:
                    raise ExecutionFailed(f"no spare VM of {self.name} within {POOL_S:g} s")
                await asyncio.sleep(STEP_S)
            await asyncio.sleep(REST_S)
            agent = f"{AGENT}-{number}"  # one that has no layers yet, which a spare would not see
            start = time.perf_counter()
            made = await engine.create_vm(VmCreateRequest(agent_id=agent))
            await run(engine, "print(1)", vm_id=made.id, agent=agent)
            taken.append((time.perf_counter() - start) * 1000)
            await engine.delete_vm(made.id)
        self._add(POOL, taken)

    async def _running(self, engine: Engine) -> None:
        for row, language, code in ((PYTHON, "python", "print(1)"), (BASH, "bash", "true")):
            await run(engine, code, language)
            times = [
                await timed(lambda: run(engine, code, language))  # noqa: B023  (awaited here)
                for _ in range(3 * self._rounds)
            ]
            self._add(row, times)

    async def _past(self, engine: Engine) -> None:
        vm_id = the_vm(engine).record.id
        snapshots, rollbacks, results = [], [], []
        for number in range(self._rounds):
            await run(engine, f"echo {number} > file; echo {number} > file{number}", "bash")
            start = time.perf_counter()
            kept = await engine.past.snapshot(vm_id, SnapshotCreateRequest())
            snapshots.append((time.perf_counter() - start) * 1000)
            await run(engine, "echo more > file", "bash")
            start = time.perf_counter()
            await engine.past.rollback(vm_id, RollbackTo(snapshot_id=kept.id))
            rollbacks.append((time.perf_counter() - start) * 1000)
            await run(engine, "print(1)")
            results.append((time.perf_counter() - start) * 1000)
        self._add(SNAPSHOT, snapshots)
        self._add(ROLLBACK, rollbacks)
        self._add(BACK, results)

    async def _idle(self, engine: Engine) -> None:
        """Of a VM that ran something, and has let go of what it kept ready for the next program."""
        machine = the_machine(the_vm(engine))
        await asyncio.sleep(SPARE_S + 1)
        pids = set().union(*(descendants(pid) for pid in machine.pids))
        self.cells[IDLE] = f"{pss_kib(pids) / 1024:.0f} MiB"

    async def _durable(self, settings: Settings) -> None:
        kept, restored = [], []
        async with Engine(settings) as engine:
            await run(engine, "x = 41", kernel="main")
            vm = the_vm(engine)
            for number in range(self._rounds):
                async with vm.steady():
                    machine = the_machine(vm)
                    kept.append(await timed(lambda: machine.keep_memory(f"b{number}")))  # noqa: B023
        self._add(KEEP, kept)
        for _ in range(self._rounds):
            async with Engine(settings) as engine:
                restored.append(await timed(the_vm(engine).start))
                result = await run(engine, "x += 1; x", kernel="main")
                assert int(result or 0) == 41 + len(restored), result  # it is that memory
        self._add(RESTORE, restored)


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    await work()
    return (time.perf_counter() - start) * 1000


async def run(
    engine: Engine,
    code: str,
    language: str = "python",
    *,
    vm_id: str | None = None,
    kernel: str | None = None,
    agent: str = AGENT,
) -> str | None:
    """One execution that has to go well; its result, where it is a cell's."""
    request = VmExecuteRequest(
        agent_id=agent, language=language, code=code, vm_id=vm_id, kernel=kernel
    )
    done = await engine.execute(request)
    assert done.exit_code == 0, done
    return done.result


def the_vm(engine: Engine) -> Vm:
    """The only one there is."""
    (vm,) = engine.fleet.of(AGENT)
    return vm


def the_machine(vm: Vm) -> Machine:
    """That of a VM that runs."""
    assert vm.machine is not None
    return vm.machine


def table(columns: list[Column]) -> list[str]:
    """What was measured, as Markdown."""
    lines = [
        f"| VMs of {MEMORY_MB} MB | {' | '.join(each.title for each in columns)} |",
        "| --- |" + " --- |" * len(columns),
    ]
    lines += [
        f"| {row} | {' | '.join(each.cells.get(row, '-') for each in columns)} |" for row in ROWS
    ]
    return lines


async def measure(names: list[str], directory: Path, rounds: int) -> list[str]:
    """The lines of the section."""
    columns, missing = [], []
    for name in names:
        column = Column(name, directory / name, rounds)
        make_directory(directory / name)
        before = os.getloadavg()[0]
        try:
            await column.measure()
            column.cells[LOAD] = f"{before:.1f} to {os.getloadavg()[0]:.1f}"
            columns.append(column)
        except ConfigError as error:
            missing.append(f"- no `{name}` here: {error.detail}: {error.remedy}")
    return [*table(columns), "", *missing, *environment(rounds)]


def environment(rounds: int) -> list[str]:
    """What was measured on."""
    return [
        f"{os.cpu_count()} cores, Linux {platform.release()}, medians of {rounds} (programs in a "
        f"VM that runs: {3 * rounds}), one driver after the other."
    ]


def write(lines: list[str]) -> None:
    """Puts the table into the page, between its marks."""
    before, rest = PAGE.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    body = "\n".join(lines)
    PAGE.write_text(f"{before}{MARKS[0]}\n{body}\n{MARKS[1]}{after}")


def main() -> None:
    """Runs it, in a directory of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--driver", action="append", choices=list(CAPABILITIES))
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    names = asked.driver or list(reversed(CAPABILITIES))
    directory = Path(tempfile.mkdtemp(prefix="mulligan-bench-"))
    directory.chmod(PASS_THROUGH)
    try:
        lines = asyncio.run(measure(names, directory, asked.rounds))
    finally:
        remove_tree(directory)
    print("\n".join(lines))
    if asked.write:
        write(lines)


if __name__ == "__main__":
    main()
