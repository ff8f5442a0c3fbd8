"""Calling code of others within a time limit, whatever it does."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

from mulligan.hooks import threads

GRACE_SECONDS = 1.0  # for a cancelled call to end
MOST_STUCK = 4
_MOST_REASON = 500


class CallFailed(Exception):  # noqa: N818  (it is an outcome)
    """The call gave no answer; the text says why."""


class Calls:
    """Calls of one hook or approver.

    A coroutine that exceeds its time is cancelled. A thread cannot be ended: it is left to itself,
    its answer counts for nothing, and while ``MOST_STUCK`` calls have not come back no more are
    made, each failing at once. The same holds for a coroutine that ignores its cancellation.
    Threads are daemons: none keeps the process from ending. A coroutine that blocks the event loop
    cannot be interrupted; its answer comes too late and does not count.
    """

    def __init__(self) -> None:
        self._left: list[Callable[[], bool]] = []  # says whether it is still there
        self._under_way: set[asyncio.Task[Any]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Makes no more calls, and waits for none: those under way fail at once."""
        self._stopped = True
        for task in self._under_way:
            task.cancel()

    @property
    def stuck(self) -> int:
        """How many calls have exceeded their time and not come back."""
        self._left = [running for running in self._left if running()]
        return len(self._left)

    async def call(self, function: Callable[[Any], Any], argument: object, seconds: float) -> Any:
        """What ``function(argument)`` returns; awaited, if it is awaitable.

        Raises:
            CallFailed: it raised, or exceeded ``seconds``, or earlier ones are stuck.
        """
        if self.stuck >= MOST_STUCK:
            raise CallFailed(f"not asked: {self.stuck} earlier calls have not come back")
        if self._stopped:
            raise CallFailed("not asked: Mulligan is shutting down")
        limit = f"exceeded its time of {seconds * 1000:.0f} ms"
        start = time.monotonic()
        task = asyncio.create_task(self._guarded(function, argument))
        self._under_way.add(task)
        try:
            await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            await self._end(task)
            raise
        finally:
            self._under_way.discard(task)
        if not task.done():
            await self._end(task)
            raise CallFailed(limit)
        if task.cancelled():
            raise CallFailed(
                "cut off: Mulligan is shutting down" if self._stopped else "cancelled itself"
            )
        error = task.exception()
        if error is not None:
            raise error
        if time.monotonic() - start > seconds:
            raise CallFailed(limit)
        return task.result()

    async def call_here(
        self, function: Callable[[Any], Any], argument: object, seconds: float
    ) -> Any:
        """The same for a function that is known to be quick, and is not given a thread.

        Raises:
            CallFailed: it raised, or took over ``seconds`` all the same.
        """
        start = time.monotonic()
        value = await self._guarded(function, argument, here=True)
        if time.monotonic() - start > seconds:
            raise CallFailed(f"exceeded its time of {seconds * 1000:.0f} ms")
        return value

    async def _guarded(
        self, function: Callable[[Any], Any], argument: object, *, here: bool = False
    ) -> Any:
        try:
            if here or inspect.iscoroutinefunction(function):
                value = function(argument)
            else:
                value = await self._in_thread(function, argument)
            return await value if inspect.isawaitable(value) else value
        except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit, CallFailed):
            raise
        except BaseException as error:  # noqa: BLE001  (SystemExit too: it would end the server)
            raise CallFailed(f"failed: {described(error)}") from None

    async def _in_thread(self, function: Callable[[Any], Any], argument: object) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

        def deliver(value: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_result((value, error))

        def work() -> None:
            value, error = None, None
            try:
                value = function(argument)
            except BaseException as raised:  # noqa: BLE001  (it is told to whoever waits)
                error = raised
            with contextlib.suppress(RuntimeError):  # nobody waits: the loop is closed
                loop.call_soon_threadsafe(deliver, value, error)

        context = contextvars.copy_context()
        busy = threads.run(functools.partial(context.run, work))
        try:
            value, error = await future
        except asyncio.CancelledError:
            self._left.append(busy)
            raise
        if error is not None:
            raise CallFailed(f"failed: {described(error)}")
        return value

    async def _end(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._left.append(lambda: not task.done())
        await asyncio.wait({task}, timeout=GRACE_SECONDS)


def described(error: BaseException) -> str:
    """An exception in one bounded line."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  (a hook's own class may do anything)
        text = ""
    kind = type(error).__name__
    return " ".join((f"{kind}: {text}" if text else kind)[:_MOST_REASON].split())
