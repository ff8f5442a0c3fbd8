"""The client for programs without an event loop, derived from the async one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Self

from mulligan.client.blocking import LoopThread, derive
from mulligan.client.client import VmExecutionClient
from mulligan.client.sync_terminals import opened
from mulligan.errors import ConnectionFailed
from mulligan.hooks.approver import Approver
from mulligan.hooks.manager import HookManager
from mulligan.models import VmExecutionConfig
from mulligan.settings import Settings


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
        approver: Approver | None = None,
        hook_manager: HookManager | None = None,
    ) -> None:
        async def make() -> VmExecutionClient:
            return VmExecutionClient(
                config,
                auth_token=auth_token,
                settings=settings,
                approver=approver,
                hook_manager=hook_manager,
            )

        thread = LoopThread.join()
        try:
            self._client = thread.call(make())
        except BaseException:
            thread.leave()
            raise
        self._thread: LoopThread | None = thread
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
                thread.leave()

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        return self._running().call(getattr(self._client, name)(*arguments, **named))

    def _build(self, name: str, *arguments: Any, **named: Any) -> Self:
        self._running()
        getattr(self._client, name)(*arguments, **named)
        return self

    def _iterate(self, name: str, *arguments: Any, **named: Any) -> Iterator[Any]:
        return self._running().iterate(getattr(self._client, name)(*arguments, **named))

    @functools.wraps(VmExecutionClient.terminal)
    def terminal(self, *arguments: Any, **named: Any) -> Any:
        return opened(self._client.terminal(*arguments, **named), self._running())

    def _running(self) -> LoopThread:
        if self._thread is None:
            raise ConnectionFailed("the client is closed")
        return self._thread

    def __getattr__(self, name: str) -> Any:
        # Reached only for names that were not derived; says so like any class would.
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


derive(SyncVmExecutionClient, VmExecutionClient, without=("close", "terminal"))
