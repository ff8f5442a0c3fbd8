"""Memory held by what the VM's own kernel says: whom the agent ends, and when."""

import time
from collections.abc import Callable

import pytest

from mulligan.guest import frames, processes, toldmemory
from mulligan.guest.toldmemory import ToldMemory, told

MIB = 1 << 20


class Kernel:
    """What processes have, and what came of that: one that is ended gives its memory back."""

    def __init__(self, sizes: dict[int, int]) -> None:
        self.sizes = sizes
        self.said: list[tuple[int, int, dict[str, object]]] = []

    def told(self) -> int:
        return 20 * MIB + sum(self.sizes.values())

    def send(self, pids: list[int], number: int) -> None:
        del number
        for pid in pids:
            del self.sizes[pid]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Kernel, ToldMemory]]:
    def made(limit: int, *, running: bool = True) -> tuple[Kernel, ToldMemory]:
        kernel = Kernel({})
        monkeypatch.setattr(toldmemory, "told", kernel.told)
        monkeypatch.setattr(toldmemory, "resident", lambda pid: kernel.sizes[pid])
        monkeypatch.setattr(processes, "send", kernel.send)
        watch = ToldMemory(
            limit,
            lambda: running,
            lambda: list(kernel.sizes),
            lambda *frame: kernel.said.append(frame),
        )
        watch.begin()
        return kernel, watch

    return made


def looks(watch: ToldMemory, monkeypatch: pytest.MonkeyPatch, seconds: float = 10) -> None:
    """Has it look as often as it wants to in that time."""
    now = time.monotonic()
    until = now + seconds
    while now < until:
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        watch.on_time()
        now += max(watch.timeout(), 0.001)


def test_the_largest_are_ended_until_the_rest_fits(make, monkeypatch) -> None:
    kernel, watch = make(100 * MIB)
    kernel.sizes |= {10: 30 * MIB, 11: 90 * MIB, 12: 50 * MIB, 13: 15 * MIB}
    looks(watch, monkeypatch)
    assert kernel.sizes == {10: 30 * MIB, 12: 50 * MIB, 13: 15 * MIB}
    assert kernel.said == [(frames.MEMORY, 0, {"ended": 1})]


def test_what_was_there_before_programs_is_not_theirs(make, monkeypatch) -> None:
    kernel, watch = make(100 * MIB)
    kernel.sizes[10] = 99 * MIB
    looks(watch, monkeypatch)
    assert kernel.sizes == {10: 99 * MIB}
    assert kernel.said == []


def test_nothing_is_looked_at_while_nothing_runs(make, monkeypatch) -> None:
    _, watch = make(100 * MIB, running=False)
    looks(watch, monkeypatch, 1)
    assert watch.timeout() > 1000


def test_this_kernel_says_how_much_there_is() -> None:
    assert 0 < told() < 1 << 50
