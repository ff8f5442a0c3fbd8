"""Blocking classes made from async ones: the same names, arguments and errors."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, ClassVar, TypeVar

Result = TypeVar("Result")
BUILDS = "with_"  # methods that change their object at once and return it


class LoopThread:
    """The event loop of this process's blocking clients, in a thread of its own.

    They share one, so that they can share an engine. The thread is a daemon: a program that ends
    without closing its clients ends all the same, and with it the VMs that were started there.
    """

    _guard: ClassVar[threading.Lock] = threading.Lock()
    _current: ClassVar[LoopThread | None] = None

    def __init__(self) -> None:
        self.users = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="mulligan-client", daemon=True
        )
        self._thread.start()

    @classmethod
    def join(cls) -> LoopThread:
        """The thread there is, or a new one; ``leave`` has to follow."""
        with cls._guard:
            thread = cls._current
            if thread is None or not thread.alive:
                thread = cls._current = LoopThread()
            thread.users += 1
            return thread

    @property
    def alive(self) -> bool:
        """Whether it runs here: it does not survive a fork of the process."""
        return self._thread.is_alive()

    def leave(self) -> None:
        """Lets go of it; with its last user it ends."""
        with self._guard:
            self.users -= 1
            if self.users:
                return
            if LoopThread._current is self:
                LoopThread._current = None
        self.call(self._loop.shutdown_asyncgens())
        self.call(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Does something on the loop and waits for it; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[Result, None]) -> Iterator[Result]:
        """What an async generator gives, one after the other; it is closed with this iterator."""
        try:
            while (item := self.call(_next(items))) is not None:
                yield item[0]
        finally:
            closing = items.aclose()
            if threading.current_thread() is self._thread:
                # Nobody has the iterator any more, and its end came on the loop itself.
                self._loop.create_task(_done(closing))
            elif not self._loop.is_closed():
                self.call(_done(closing))


async def _next(items: AsyncGenerator[Result, None]) -> tuple[Result] | None:
    async for item in items:
        return (item,)
    return None


async def _done(work: Coroutine[Any, Any, None]) -> None:
    await work


def derive(blocking: type, source: type, without: tuple[str, ...] = ()) -> None:
    """Gives a class a blocking method for each async one of another, so that they cannot differ.

    Args:
        blocking: has ``_call``, which does a coroutine function's work, and ``_iterate``, which
            does that of an async generator function; ``_build``, where there are methods that
            change the object and return it.
        source: the async class.
        without: names that ``blocking`` defines itself.
    """
    for name, method in inspect.getmembers(source, inspect.isfunction):
        if name.startswith("_") or name in without:
            continue
        if inspect.iscoroutinefunction(method):
            setattr(blocking, name, _calling(name, method))
        elif inspect.isasyncgenfunction(method):
            setattr(blocking, name, _iterating(name, method))
        elif name.startswith(BUILDS):
            setattr(blocking, name, _building(name, method))


def _calling(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        return self._call(name, *arguments, **named)

    return call


def _building(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def build(self: Any, *arguments: Any, **named: Any) -> Any:
        return self._build(name, *arguments, **named)

    return build


def _iterating(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def iterate(self: Any, *arguments: Any, **named: Any) -> Any:
        return self._iterate(name, *arguments, **named)

    return iterate
