"""What packages cost an execution. ``python -m bench.packages``; asks the configured index once."""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.layers.directories import PASS_THROUGH, remove_tree
from mulligan.models import VmExecuteRequest

ROUNDS = 40


async def timed(engine: Engine, code: str, requirements: list[str]) -> float:
    """Milliseconds of an execution."""
    request = VmExecuteRequest(
        agent_id="bench", language="python", code=code, requirements=requirements
    )
    start = time.perf_counter()
    done = await engine.execute(request)
    if done.exit_code != 0:
        raise SystemExit(done.stderr)
    return (time.perf_counter() - start) * 1000


async def measure(directory: Path) -> None:
    """Prints the table."""
    async with Engine(settings_module.load(data_dir=directory)) as engine:
        await timed(engine, "pass", [])
        built = await timed(engine, "pass", ["numpy"])
        pairs = [
            (await timed(engine, "pass", []), await timed(engine, "pass", ["numpy"]))
            for _ in range(ROUNDS)
        ]
        imports = [await timed(engine, "import numpy", ["numpy"]) for _ in range(ROUNDS // 4)]
    none, some = (statistics.median(column) for column in zip(*pairs, strict=True))
    over = statistics.median(b - a for a, b in pairs)
    print("| what | measured |")
    print("| --- | --- |")
    print(f"| numpy the first time: found, fetched, installed | {built / 1000:.1f} s |")
    print(f"| Python, no requirements | {none:.2f} ms |")
    print(f"| Python, numpy required | {some:.2f} ms |")
    print(f"| over none, of pairs taken in turn | {over:.2f} ms |")
    print(f"| the same, and `import numpy` | {statistics.median(imports):.1f} ms |")


def main() -> None:
    """Runs it in a data directory of its own."""
    directory = Path(tempfile.mkdtemp(prefix="mulligan-bench-"))
    directory.chmod(PASS_THROUGH)
    try:
        asyncio.run(measure(directory))
    finally:
        remove_tree(directory)


if __name__ == "__main__":
    main()
