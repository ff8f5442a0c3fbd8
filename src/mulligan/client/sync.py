"""The client for programs without an event loop, derived from the async one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from mulligan.client.client import VmExecutionClient
from mulligan.models import VmExecutionConfig
from mulligan.settings import Settings


class SyncVmExecutionClient:
    """``VmExecutionClient`` with blocking methods: the same names, arguments and errors.

    The methods are made from the async client's, so the two cannot differ. An event loop of its
    own runs in one thread for as long as the client is open. Use as a context manager, or call
    ``close``.
    """

    def __init__(
        self,
        config: VmExecutionConfig | None = None,
        *,
        auth_token: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._stack = ExitStack()
        self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal())
        try:
            self._client = self._portal.call(
                functools.partial(
                    VmExecutionClient, config, auth_token=auth_token, settings=settings
                )
            )
        except BaseException:
            self._stack.close()
            raise
        self.config = self._client.config

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """See ``VmExecutionClient.close``."""
        try:
            self._portal.call(self._client.close)
        finally:
            self._stack.close()

    def __getattr__(self, name: str) -> Any:
        # Reached only for names the loop below did not define; says so like any class would.
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _blocking(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: SyncVmExecutionClient, *arguments: Any, **named: Any) -> Any:
        bound = getattr(self._client, name)
        return self._portal.call(functools.partial(bound, *arguments, **named))

    return call


for _name, _method in inspect.getmembers(VmExecutionClient, inspect.iscoroutinefunction):
    if not _name.startswith("_") and _name != "close":
        setattr(SyncVmExecutionClient, _name, _blocking(_name, _method))
