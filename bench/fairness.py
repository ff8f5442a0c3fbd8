"""One greedy agent with 500 queued executions, and one polite: what the polite one waits.

Usage: python -m bench.fairness
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from mulligan import settings
from mulligan.engine.engine import Engine
from mulligan.models import VmExecuteRequest

QUEUED = 500
ASKED = 100
PAUSE_S = 0.02
CODES = {
    "nothing": "1",
    "50 ms of a core": "t = __import__('time'); e = t.process_time() + .05\n"
    "while t.process_time() < e: pass",
    "a wait of 100 ms": "import time; time.sleep(.1)",
}


async def execute(engine: Engine, agent: str, code: str) -> float:
    """Runs a program; how many milliseconds until its answer."""
    start = time.perf_counter()
    request = VmExecuteRequest(agent_id=agent, language="python", code=code)
    answer = await engine.execute(request)
    assert answer.outcome == "success", answer
    return (time.perf_counter() - start) * 1000


async def polite(engine: Engine, code: str) -> tuple[float, float]:
    """The median and the 95th percentile of one execution after the other, in milliseconds."""
    times = []
    for _ in range(ASKED):
        times.append(await execute(engine, "polite", code))
        await asyncio.sleep(PAUSE_S)
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]


async def measure(engine: Engine, name: str, code: str) -> None:
    """Alone, and beside the greedy one; always with something in its queue."""
    for agent in ("polite", "greedy"):
        await execute(engine, agent, "1")
    alone = await polite(engine, code)
    over = asyncio.Event()

    async def keep_asking() -> None:
        while not over.is_set():
            await execute(engine, "greedy", code)

    greedy = [asyncio.create_task(keep_asking()) for _ in range(QUEUED)]
    while engine.admission.waiting < QUEUED // 2:
        await asyncio.sleep(0.01)
    beside = await polite(engine, code)
    over.set()
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
    times = ", ".join(
        f"{what} {one:.1f} → {other:.1f} ms (times {other / one:.2f})"
        for what, one, other in zip(("median", "p95"), alone, beside, strict=True)
    )
    print(f"{name}: {times}")


async def main() -> None:
    """Measures each kind of program, the same for both agents."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o711)  # noqa: PTH101
        given = settings.load(data_dir=Path(place) / "data", log_level="error")
        async with Engine(given) as engine:
            print(f"{given.admission.running} places, {given.admission.starting} to start")
            for name, code in CODES.items():
                await measure(engine, name, code)


if __name__ == "__main__":
    asyncio.run(main())
