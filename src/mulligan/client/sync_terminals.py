"""Terminals for programs without an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

from mulligan.client.blocking import LoopThread, derive
from mulligan.client.terminals import Terminal
from mulligan.models import TerminalExit


@contextmanager
def opened(
    context: AbstractAsyncContextManager[Terminal], thread: LoopThread
) -> Iterator[SyncTerminal]:
    """A terminal, for as long as the context lasts."""
    terminal = thread.call(_entered(context))
    try:
        yield SyncTerminal(terminal, thread)
    finally:
        thread.call(_left(context))


async def _entered(context: AbstractAsyncContextManager[Terminal]) -> Terminal:
    return await context.__aenter__()


async def _left(context: AbstractAsyncContextManager[Terminal]) -> None:
    await context.__aexit__(None, None, None)


class SyncTerminal:
    """``Terminal`` with blocking methods. ``receive`` and ``output`` wait for what comes."""

    def __init__(self, terminal: Terminal, thread: LoopThread) -> None:
        self._terminal = terminal
        self._thread = thread
        self.execution_id = terminal.execution_id
        self.vm_id = terminal.vm_id

    @property
    def exit(self) -> TerminalExit | None:
        """How it ended; None as long as that is not known."""
        return self._terminal.exit

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        return self._thread.call(getattr(self._terminal, name)(*arguments, **named))

    def _iterate(self, name: str, *arguments: Any, **named: Any) -> Iterator[Any]:
        return self._thread.iterate(getattr(self._terminal, name)(*arguments, **named))


derive(SyncTerminal, Terminal)
