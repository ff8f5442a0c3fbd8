"""What keeping and restoring states costs. ``python -m bench.undo``; nothing passes or fails."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.layers.directories import PASS_THROUGH, remove_tree
from mulligan.models import ForkRequest, RollbackTo, SnapshotCreateRequest, VmExecuteRequest

ROUNDS = 30
DEEP = 300
AGENT = "bench"
GIGABYTE = "head -c 1000000000 /dev/zero > big"


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    await work()
    return (time.perf_counter() - start) * 1000


class Bench:
    """An engine, and short ways to use it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.vm = ""

    async def run(self, code: str, language: str = "bash") -> None:
        request = VmExecuteRequest(agent_id=AGENT, language=language, code=code)
        response = await self.engine.execute(request)
        assert response.exit_code == 0, response.stderr
        self.vm = response.vm_id

    async def snapshot(self) -> str:
        return (await self.engine.past.snapshot(self.vm, SnapshotCreateRequest())).id

    async def snapshots(self, rounds: int) -> list[float]:
        """Milliseconds of snapshots of a VM that wrote something before each."""
        taken = []
        for number in range(rounds):
            await self.run(f"echo {number} > file; echo {number} > file{number}")
            taken.append(await timed(self.snapshot))
        return taken


async def measure(directory: Path) -> list[tuple[str, str]]:
    """(what, result) for each line of the table."""
    rows: list[tuple[str, str]] = []

    def add(what: str, values: list[float], note: str = "") -> float:
        median = statistics.median(values)
        rows.append((what, f"{median:.2f} ms{note}"))
        return median

    settings = settings_module.load(data_dir=directory / "data")
    async with Engine(settings) as engine:
        bench = Bench(engine)
        small = add("snapshot of an idle VM", await bench.snapshots(ROUNDS))
        large = []
        for _ in range(3):
            await bench.run(GIGABYTE)
            large.append(await timed(bench.snapshot))
        median = statistics.median(large)
        add("the same with 1 GB freshly written", large, f" ({median / small:.2f} times)")
        await bench.run("rm big")
        kept = await bench.snapshot()
        back = []
        for number in range(ROUNDS):
            await bench.run(f"echo {number} > file")
            start = time.perf_counter()
            await engine.past.rollback(bench.vm, RollbackTo(snapshot_id=kept))
            await bench.run("print(1)", "python")
            back.append((time.perf_counter() - start) * 1000)
        add("rollback to the first result (Python)", back)
        add(
            "100 forks",
            [await timed(lambda: engine.past.fork(bench.vm, ForkRequest(count=100)))],
        )
        without, with_one = [], []
        for number in range(ROUNDS):
            await bench.run("true")
            without.append(await timed(lambda: bench.run("print(1)", "python")))
            await bench.run(f"echo {number} > file")
            with_one.append(await timed(lambda: bench.run("print(1)", "python")))
        plain = add("Python, nothing to keep", without)
        ratio = statistics.median(with_one) / plain
        add("Python, with a state to keep before it", with_one, f" ({ratio:.2f} times)")
        early = await bench.snapshots(5)
        await bench.snapshots(DEEP)
        late = await bench.snapshots(5)
        ratio = statistics.median(late) / statistics.median(early)
        add(f"a snapshot {DEEP} snapshots later", late, f" ({ratio:.2f} times the earlier)")
    return rows


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
