"""Terminals of VMs, from a client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from mulligan.errors import ValidationFailed
from mulligan.models import TerminalExit, TerminalRequest
from mulligan.models.terminal import (
    DEFAULT_COLS,
    DEFAULT_ROWS,
    DEFAULT_TERM,
    Resize,
    SendSignal,
)

if TYPE_CHECKING:
    from mulligan.client.backends import Backend
    from mulligan.engine.terminals.terminals import Terminal as EngineTerminal

Model = TypeVar("Model", bound=BaseModel)


class Terminal:
    """A program of a VM that somebody sits in front of; ``VmExecutionClient.terminal`` opens one.

    Attributes:
        execution_id: its row in the history, and what it is cancelled by.
        vm_id: where it runs.
        exit: how it ended; None as long as that is not known.
    """

    execution_id: str
    vm_id: str
    exit: TerminalExit | None = None

    async def send(self, data: bytes) -> None:
        """Types something. Waits while the program does not take what was typed before."""
        raise NotImplementedError

    async def receive(self) -> bytes:
        """What its programs wrote, as it comes; empty when it has ended, and ``exit`` says how.

        May be cancelled, and called again; not twice at a time. What is not received has the
        program wait.

        Raises:
            ConnectionFailed: the connection was lost, and with it what ran.
            VmExecutionError: its VM ended under it.
        """
        raise NotImplementedError

    async def control(self, asked: Resize | SendSignal) -> None:
        """Changes its size, or signals what runs in it. See ``resize`` and ``signal``."""
        raise NotImplementedError

    async def resize(self, cols: int, rows: int) -> None:
        """Changes its size in characters; its program hears of it by SIGWINCH.

        Raises:
            ValidationFailed: they are not from 1 to 1000.
        """
        await self.control(checked(Resize, cols=cols, rows=rows))

    async def signal(self, name: str) -> None:
        """Signals the foreground process group.

        Raises:
            ValidationFailed: it is none of "INT", "TERM", "HUP", "QUIT" and "KILL".
        """
        await self.control(checked(SendSignal, name=name))

    async def close(self) -> None:
        """Ends it, with everything that was started in it. May be repeated."""
        raise NotImplementedError

    async def output(self) -> AsyncGenerator[bytes, None]:
        """What ``receive`` returns, up to the end."""
        while data := await self.receive():
            yield data


class DirectTerminal(Terminal):
    """One of an engine in this process."""

    def __init__(self, terminal: EngineTerminal) -> None:
        self._terminal = terminal
        self.execution_id = terminal.execution_id
        self.vm_id = terminal.vm_id

    async def send(self, data: bytes) -> None:
        await self._terminal.send(data)

    async def receive(self) -> bytes:
        data = await self._terminal.receive()
        if not data:
            self.exit = await self._terminal.ended()
        return data

    async def control(self, asked: Resize | SendSignal) -> None:
        self._terminal.control(asked)

    async def close(self) -> None:
        await self._terminal.close()


class Terminals:
    """The part of a client that has to do with terminals."""

    _backend: Backend

    @asynccontextmanager
    async def terminal(
        self,
        vm_id: str,
        *,
        cols: int = DEFAULT_COLS,
        rows: int = DEFAULT_ROWS,
        term: str = DEFAULT_TERM,
        command: str | None = None,
    ) -> AsyncIterator[Terminal]:
        """Opens a terminal in a VM, for as long as the context lasts.

        No gate sees what is typed into one; see docs/terminal.md.

        Args:
            vm_id: the VM; it boots where it is not up.
            cols: its width in characters, 1 to 1000.
            rows: its height.
            term: what programs take it for, as TERM says.
            command: what Bash runs in it; by default it is a login shell.

        Raises:
            ValidationFailed: an argument is wrong.
            VmNotAvailable: there is no such VM.
            TerminalRefused: there are to be no terminals, or no more of them.
            VmExecutionError: the command was refused, or the VM failed.
        """
        request = checked(TerminalRequest, cols=cols, rows=rows, term=term, command=command)
        async with self._backend.terminal(vm_id, request) as opened:
            yield opened


def checked(model: type[Model], **fields: object) -> Model:
    """A model of these fields.

    Raises:
        ValidationFailed: one of them is wrong.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise ValidationFailed(f"{name}: {first['msg']}", field=name) from None


Opened = AbstractAsyncContextManager[Terminal]
