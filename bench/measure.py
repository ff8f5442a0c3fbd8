"""Timing things in turn, so that what is compared meets the same noise."""

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

CleanUp = Callable[[], Awaitable[None]]
Action = Callable[[], Awaitable[CleanUp | None]]


@dataclass(frozen=True)
class Times:
    """Milliseconds of one thing, in the order they were taken."""

    milliseconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)

    def ratio(self, other: "Times") -> float:
        """Median of the ratios, pair by pair."""
        pairs = zip(self.milliseconds, other.milliseconds, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


async def in_turn(rounds: int, actions: dict[str, Action]) -> dict[str, Times]:
    """Times each action once a round, after one round that does not count.

    What an action returns is called afterwards, outside its time.
    """
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            clean_up = await action()
            took = (time.perf_counter() - start) * 1000
            if number:
                taken[name].append(took)
            if clean_up is not None:
                await clean_up()
    return {name: Times(times) for name, times in taken.items()}


def pss_kib(pids: set[int]) -> int:
    """Proportional set size of some processes together, in KiB."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total
