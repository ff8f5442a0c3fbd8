"""Programs that the VM's own kernel ended for want of memory: what the host hears, and when."""

import pytest

from mulligan.guest import countedmemory, frames
from mulligan.guest.countedmemory import CountedMemory, counted


def test_it_tells_what_came_since_it_was_asked_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 3  # before there was a VM to tell of
    monkeypatch.setattr(countedmemory, "counted", lambda: now)
    said: list[tuple[int, int, dict[str, object]]] = []
    watch = CountedMemory(lambda: True, list, lambda *frame: said.append(frame))
    watch.begin()
    watch.tell()
    assert said == []
    now = 5
    watch.tell()
    watch.tell()
    now = 6
    watch.tell()
    assert said == [(frames.MEMORY, 0, {"ended": 2}), (frames.MEMORY, 0, {"ended": 1})]


def test_it_never_wants_to_look_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(countedmemory, "counted", lambda: 0)
    watch = CountedMemory(lambda: True, list, lambda *_: None)
    watch.begin()
    assert watch.timeout() > 60  # seconds
    watch.on_time()


def test_this_kernel_says_how_many_it_ended() -> None:
    assert counted() >= 0
