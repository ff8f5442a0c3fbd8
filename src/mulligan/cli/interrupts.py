"""Ctrl-C: the first cancels what a command does and waits for its end, the second does not wait."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

INTERRUPTED = 130
STDERR = 2
SHOW_CURSOR = b"\x1b[?25h"  # progress hides it
Result = TypeVar("Result")


def run_interruptibly(
    work: Coroutine[Any, Any, Result], on_interrupt: Callable[[], None] = lambda: None
) -> Result:
    """Runs a command's work on an event loop of its own.

    Args:
        work: cancelled by the first interrupt. By the second this process ends at once: VMs of its
            own end with it, and a server cancels what it was asked for when its client goes away.
        on_interrupt: called on the loop after the first.

    Raises:
        KeyboardInterrupt: it was interrupted, and has ended.
    """
    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if ours else signal.SIG_IGN
    if before is signal.SIG_IGN:  # in the background of a shell; it stays so
        return asyncio.run(work)
    interrupts = _Interrupts(on_interrupt)
    signal.signal(signal.SIGINT, interrupts)
    try:
        return asyncio.run(interrupts.watch(work))
    finally:
        signal.signal(signal.SIGINT, before)


class _Interrupts:
    def __init__(self, on_interrupt: Callable[[], None]) -> None:
        self._on_interrupt = on_interrupt
        self._cancel: Callable[[], None] | None = None
        self._seen = False

    def __call__(self, _: int, __: FrameType | None) -> None:
        """The handler of the signal."""
        if self._seen:
            cursor = SHOW_CURSOR if os.isatty(STDERR) else b""
            os.write(STDERR, cursor + b"\ninterrupted again: not waited for\n")
            os._exit(INTERRUPTED)
        self._seen = True
        if self._cancel is not None:
            self._cancel()

    async def watch(self, work: Coroutine[Any, Any, Result]) -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def cancel() -> None:
            task.cancel()
            self._on_interrupt()

        self._cancel = lambda: _soon(loop, cancel)
        if self._seen:
            cancel()
        try:
            return await work
        except asyncio.CancelledError:
            if self._seen:
                raise KeyboardInterrupt from None
            raise


def _soon(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(work)
