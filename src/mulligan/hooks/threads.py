"""Threads for calls that may never come back.

A pool of the standard library waits for its threads when the process ends, and counts one that
hangs as taken for good. Here a thread that hangs is simply no longer there to be used again.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

IDLE_SECONDS = 2.0

_Work = tuple[Callable[[], object], threading.Event]
_idle: list[
    queue.SimpleQueue[_Work]
] = []  # of threads that wait for work; append and pop are atomic


def run(work: Callable[[], object]) -> Callable[[], bool]:
    """Has a daemon thread do something that raises nothing.

    Returns:
        Says whether it is still at it.
    """
    done = threading.Event()
    try:
        _idle.pop().put((work, done))
    except IndexError:
        threading.Thread(target=_serve, args=((work, done),), name="hook", daemon=True).start()
    return lambda: not done.is_set()


def _serve(first: _Work) -> None:
    mine: queue.SimpleQueue[_Work] = queue.SimpleQueue()
    work, done = first
    while True:
        try:
            work()
        finally:
            done.set()
        del work, done  # what they hold is not this thread's to keep
        _idle.append(mine)
        try:
            work, done = mine.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            try:
                _idle.remove(mine)
            except ValueError:  # somebody has just taken it
                work, done = mine.get()
            else:
                return
