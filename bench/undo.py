"""What keeping and restoring states costs. ``python -m bench.undo``; nothing passes or fails."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.layers.directories import PASS_THROUGH, remove_tree
from mulligan.models import (
    ForkRequest,
    RollbackTo,
    SnapshotCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)

ROUNDS = 30
DEEP = 300
FORKS = 100
AGENT = "bench"
GIGABYTE = "head -c 1000000000 /dev/zero > big"
LIVE_DATA = """\
data = [bytearray(1_000_000) for _ in range(300)]
for each in data:
    each[::4096] = b"x" * 245
"""
OPENS = """\
import time
taken = []
for _ in range(200):
    start = time.perf_counter()
    open('/etc/passwd').close(); open('/workspace/first').close()
    taken.append(time.perf_counter() - start)
sorted(taken)[100] * 1000
"""
Row = tuple[str, str]


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    await work()
    return (time.perf_counter() - start) * 1000


class Bench:
    """An engine, short ways to use it, and the rows of the table so far."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.vm = ""
        self.rows: list[Row] = []

    def add(self, what: str, values: list[float], beside: float | None = None) -> float:
        """Adds a row for some times, compared to another median where there is one."""
        median = statistics.median(values)
        note = f" ({median / beside:.2f} times)" if beside is not None else ""
        self.rows.append((what, f"{median:.2f} ms{note}"))
        return median

    async def run(
        self, code: str, language: str = "bash", kernel: str | None = None
    ) -> VmExecuteResponse:
        request = VmExecuteRequest(agent_id=AGENT, language=language, code=code, kernel=kernel)
        response = await self.engine.execute(request)
        assert response.exit_code == 0, response.stderr
        self.vm = response.vm_id
        return response

    async def cell(self, code: str) -> str:
        return (await self.run(code, "python", "main")).result or ""

    async def snapshot(self) -> str:
        return (await self.engine.past.snapshot(self.vm, SnapshotCreateRequest())).id

    async def back(self, snapshot_id: str) -> None:
        await self.engine.past.rollback(self.vm, RollbackTo(snapshot_id=snapshot_id))

    async def snapshots(self, rounds: int) -> list[float]:
        """Milliseconds of snapshots of a VM that wrote something before each."""
        taken = []
        for number in range(rounds):
            await self.run(f"echo {number} > file; echo {number} > file{number}")
            taken.append(await timed(self.snapshot))
        return taken


async def files(bench: Bench) -> None:
    """Snapshots, rollbacks and forks of files."""
    small = bench.add("snapshot of an idle VM", await bench.snapshots(ROUNDS))
    large = []
    for _ in range(3):
        await bench.run(GIGABYTE)
        large.append(await timed(bench.snapshot))
    bench.add("the same with 1 GB freshly written", large, small)
    await bench.run("rm big")
    kept = await bench.snapshot()
    back = []
    for number in range(ROUNDS):
        await bench.run(f"echo {number} > file")
        start = time.perf_counter()
        await bench.back(kept)
        await bench.run("print(1)", "python")
        back.append((time.perf_counter() - start) * 1000)
    bench.add("rollback to the first result (Python)", back)


async def forks(bench: Bench, directory: Path) -> None:
    """Forks, and what each takes on disk."""
    made = []
    start = time.perf_counter()
    made = (await bench.engine.past.fork(bench.vm, ForkRequest(count=FORKS))).vms
    bench.add(f"{FORKS} forks", [(time.perf_counter() - start) * 1000])
    blocks = sum(
        path.lstat().st_blocks
        for vm in made
        for path in [directory / "vms" / vm.id, *(directory / "vms" / vm.id).rglob("*")]
    )
    bench.rows.append(("disk of each fork", f"{blocks * 512 / FORKS / 1024:.0f} KiB"))


async def executions(bench: Bench) -> None:
    """What a state to keep costs the execution after it."""
    without, with_one = [], []
    for number in range(ROUNDS):
        await bench.run("true")
        without.append(await timed(lambda: bench.run("print(1)", "python")))
        await bench.run(f"echo {number} > file")
        with_one.append(await timed(lambda: bench.run("print(1)", "python")))
    plain = bench.add("Python, nothing to keep", without)
    bench.add("Python, with a state to keep before it", with_one, plain)


async def kernels(bench: Bench) -> None:
    """Live interpreters: cells, checkpoints and rollbacks."""
    await bench.cell("x = 0")
    cells = [await timed(lambda: bench.cell("x += 1")) for _ in range(ROUNDS)]
    bench.add("kernel cell `x += 1`, its state before it kept", cells)
    kept = await bench.snapshot()
    back, first = [], []
    for _ in range(ROUNDS):
        await bench.cell("x += 1")
        back.append(await timed(lambda: bench.back(kept)))
        first.append(back[-1] + await timed(lambda: bench.cell("x")))
    bench.add("rollback with a live kernel", back)
    bench.add("the same to the first result", first)
    await bench.cell(LIVE_DATA)
    taken = []
    for _ in range(10):
        await bench.cell("x += 1")
        taken.append(await timed(bench.snapshot))
    bench.add("snapshot of a kernel with 300 MB of live data", taken)
    await bench.cell("del data")


async def depth(bench: Bench) -> None:
    """Whether a long past makes anything slower."""
    await bench.run("echo > first")
    early = await bench.snapshots(5)
    opened = float(await bench.cell(OPENS))
    await bench.snapshots(DEEP)
    late = await bench.snapshots(5)
    what = f"a snapshot {DEEP} snapshots later"
    bench.add(what, late, statistics.median(early))
    bench.add("opening two files then", [float(await bench.cell(OPENS))], opened)


@asynccontextmanager
async def opened(directory: Path, **more: object) -> AsyncIterator[Bench]:
    settings = settings_module.load(data_dir=directory, **more)
    async with Engine(settings) as engine:
        yield Bench(engine)


async def measure(directory: Path) -> list[Row]:
    """(what, result) for each line of the table."""
    async with opened(directory / "data") as bench:
        await files(bench)
        await forks(bench, directory / "data")
        await executions(bench)
        await kernels(bench)
        await depth(bench)
        rows = bench.rows
    async with opened(directory / "plain", history={"enabled": False}) as bench:
        await bench.cell("x = 0")
        cells = [await timed(lambda: bench.cell("x += 1")) for _ in range(10 * ROUNDS)]
        bench.add("kernel cell `x += 1`, history off", cells)
        return rows + bench.rows


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="mulligan-bench-"))
    directory.chmod(PASS_THROUGH)
    try:
        rows = asyncio.run(measure(directory))
    finally:
        remove_tree(directory)
    for what, result in rows:
        print(f"| {what} | {result} |")


if __name__ == "__main__":
    main()
