"""The client for programs without an event loop, derived from the async one."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from mulligan.client.client import VmExecutionClient
from mulligan.errors import ConnectionFailed
from mulligan.models import VmExecutionConfig
from mulligan.settings import Settings

Result = TypeVar("Result")


class _LoopThread:
    """An event loop in a thread of its own.

    The thread is a daemon: a program that ends without closing its client ends all the same, and
    with it the VMs that were started there.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="mulligan-client", daemon=True
        )
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Does something on the loop and waits for it; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Ends the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncVmExecutionClient:
    """``VmExecutionClient`` with blocking methods: the same names, arguments and errors.

    The methods are made from the async client's, so the two cannot differ. They may be called
    from any thread. Use as a context manager, or call ``close``.
    """

    def __init__(
        self,
        config: VmExecutionConfig | None = None,
        *,
        auth_token: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        async def make() -> VmExecutionClient:
            return VmExecutionClient(config, auth_token=auth_token, settings=settings)

        thread = _LoopThread()
        try:
            self._client = thread.call(make())
        except BaseException:
            thread.stop()
            raise
        self._thread: _LoopThread | None = thread
        self.config = self._client.config

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """See ``VmExecutionClient.close``. May be repeated."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.call(self._client.close())
            finally:
                thread.stop()

    def _call(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        if self._thread is None:
            raise ConnectionFailed("the client is closed")
        return self._thread.call(work())

    def __getattr__(self, name: str) -> Any:
        # Reached only for names the loop below did not define; says so like any class would.
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _blocking(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: SyncVmExecutionClient, *arguments: Any, **named: Any) -> Any:
        bound = getattr(self._client, name)
        return self._call(functools.partial(bound, *arguments, **named))

    return call


for _name, _method in inspect.getmembers(VmExecutionClient, inspect.iscoroutinefunction):
    if not _name.startswith("_") and _name != "close":
        setattr(SyncVmExecutionClient, _name, _blocking(_name, _method))
