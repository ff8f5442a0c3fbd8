"""Where a command works: the server that has the data directory, else an engine of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from mulligan import settings as settings_module
from mulligan.cli.console import NotCancelledError, OutputWriter, err, run_async
from mulligan.cli.options import DEFAULT_AGENT
from mulligan.cli.progress import Progress
from mulligan.client.backends import Backend
from mulligan.engine import lock
from mulligan.engine.executions.execution import Watcher
from mulligan.errors import (
    ApiError,
    Forbidden,
    TooManyRequests,
    Unauthorized,
    VmExecutionError,
    VmNotAvailable,
)
from mulligan.models import (
    ExecutionEvent,
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)
from mulligan.telemetry import told_to

LOCK_WAIT_S = 60.0
token_file: ContextVar[Path | None] = ContextVar("token_file", default=None)
Result = TypeVar("Result")


class Session:
    """A backend, and a way to run code that shows its output as it comes."""

    def __init__(self, backend: Backend, engine: object | None = None) -> None:
        self.backend = backend
        self._engine = engine
        self.served = engine is None

    async def agent(self, named: str | None) -> str:
        """The agent a command is about: the one it names, else the token's, else ``cli``."""
        if named is not None:
            return named
        try:
            found = (await self.backend.whoami()).agent_id
        except (Unauthorized, Forbidden, TooManyRequests):
            raise
        except ApiError:  # a server that is older than the question
            found = None
        return found or DEFAULT_AGENT

    async def agent_of(self, vm_id: str | None, named: str | None) -> str:
        """``agent``, but where a VM alone is named, the one it belongs to."""
        if vm_id is not None and named is None:
            for each in await self.backend.list_vms(None):
                if each.id == vm_id and each.agent_id is not None:
                    return each.agent_id
        return await self.agent(named)

    async def vm(self, named: str | None, agent: str | None) -> str:
        """The id of the VM a command is about: the one it names, else its agent's first.

        Raises:
            VmNotAvailable: the agent has none.
        """
        if named is not None:
            return named
        whose = await self.agent(agent)
        own = await self.backend.list_vms(whose)
        if not own:
            raise VmNotAvailable(
                f"agent {whose} has none",
                field="vm_id",
                remedy="mulligan run makes one; mulligan vm ls shows those there are",
            )
        return own[0].id

    async def vm_of_type(self, agent: str, vm_type: str) -> str:
        """The id of an agent's first VM of a type, which is made if there is none."""
        own = [each for each in await self.backend.list_vms(agent) if each.vm_type == vm_type]
        if own:
            return own[0].id
        asked = VmCreateRequest(vm_type=vm_type, agent_id=agent)
        return (await self.backend.create_vm(asked)).id

    async def execute(self, request: VmExecuteRequest, *, show: bool) -> VmExecuteResponse:
        """Runs code; with ``show`` its output goes to this process's stdout and stderr."""
        from mulligan.engine.engine import Engine

        writer = OutputWriter() if show else None
        with Progress("waiting for the VM") as progress:
            if not isinstance(self._engine, Engine):
                return await self._stream(request, writer, progress)

            def on_output(stream: str, data: bytes) -> None:
                if writer is not None:
                    progress.stop()
                    writer.write(stream, data)

            try:
                with told_to(progress):
                    return await self._engine.execute(
                        request, on_output if show else None, watcher=Told(progress)
                    )
            finally:
                progress.stop()
                if writer is not None:
                    await asyncio.to_thread(writer.finish)

    async def _stream(
        self, request: VmExecuteRequest, writer: OutputWriter | None, progress: Progress
    ) -> VmExecuteResponse:
        """The same through a server, which goes on without us unless it is told."""
        execution_id = None
        final = None
        try:
            events = self.backend.stream(request, cancel_on_disconnect=True)
            async with aclosing(events):
                async for event in events:
                    execution_id = event.execution_id
                    waits = _waits(event)
                    if waits is not None:
                        progress.say(waits)
                    elif writer is not None:
                        progress.stop()
                        _show(event, writer)
                    final = event
        except asyncio.CancelledError:
            if execution_id is not None:
                await self._cancel(execution_id)
            raise
        finally:
            if writer is not None:
                await asyncio.to_thread(writer.finish)
        if final is not None and final.result is not None:
            return final.result
        if final is not None and final.error is not None:
            raise final.error.exception()
        raise ApiError("the server ended the execution's events without a result")

    async def _cancel(self, execution_id: str) -> None:
        """Cancels what an interrupt is to end, and makes sure of it."""
        try:
            await self.backend.cancel(execution_id)
        except VmExecutionError as error:
            raise NotCancelledError(f"{execution_id} may still run: {error}") from None


def _waits(event: ExecutionEvent) -> str | None:
    """What an event says of what is under way; None where it says something else."""
    if event.event == "queued":
        return _behind(event.ahead)
    return "running" if event.event == "started" else event.progress


def _behind(ahead: int | None) -> str:
    return "waiting for its turn" + (f", behind up to {ahead} others" if ahead else "")


class Told(Watcher):
    """Has a line of progress say what an execution waits for."""

    def __init__(self, line: Progress) -> None:
        super().__init__()
        self._line = line

    def progress(self, text: str) -> None:
        """See ``Watcher``."""
        self._line.say(text)


def _show(event: ExecutionEvent, writer: OutputWriter) -> None:
    if event.text is not None:
        writer.write(event.event, event.text.encode())
    elif event.event == "gap":
        missing = "some" if event.dropped_bytes is None else f"{event.dropped_bytes} bytes"
        writer.write("stderr", f"\n[{missing} of output were dropped here]\n".encode())


@asynccontextmanager
async def open_session(server: str | None, data_dir: Path | None) -> AsyncIterator[Session]:
    """Opens a session.

    Args:
        server: URL of a server to use; None to find out.
        data_dir: overrides the setting.
    """
    settings = settings_module.load(data_dir=data_dir)
    if server is None:
        other = await asyncio.to_thread(lock.holder, settings.data_dir)
        server = other.url if other else None
    if server is not None:
        from mulligan.client.http import HttpBackend

        backend = HttpBackend(server, settings.execution_timeout_ms, given_token())
        try:
            yield Session(backend)
        finally:
            await backend.close()
        return
    async with _embedded(settings) as session:
        yield session


def given_token() -> str | None:
    """What is in the file of ``--token-file``."""
    from mulligan.client.tokens import read_token

    path = token_file.get()
    return None if path is None else read_token(path.expanduser(), "--token-file")


@asynccontextmanager
async def _embedded(settings: settings_module.Settings) -> AsyncIterator[Session]:
    from mulligan.client.direct import DirectBackend

    def on_wait(other: lock.Holder | None) -> None:
        who = f"process {other.pid}" if other else "another process"
        err.print(
            f"waiting for {who}, which uses {settings.data_dir} "
            "(with `mulligan serve` running, commands work side by side)"
        )

    held = await lock.take(settings.data_dir, LOCK_WAIT_S, on_wait)
    backend = DirectBackend(settings, held)
    try:
        with Progress("starting"):
            engine = await backend.open()
        yield Session(backend, engine)
    finally:
        await backend.close()


def with_backend(
    server: str | None,
    data_dir: Path | None,
    work: Callable[[Backend], Awaitable[Result]],
    doing: str = "waiting for the answer",
) -> Result:
    """Does a command's work, which is ``doing`` something, with the backend of a session."""
    return with_session(server, data_dir, lambda session: work(session.backend), doing)


def with_session(
    server: str | None,
    data_dir: Path | None,
    work: Callable[[Session], Awaitable[Result]],
    doing: str = "waiting for the answer",
) -> Result:
    """The same with the session itself."""

    async def session_work() -> Result:
        async with open_session(server, data_dir) as session:
            with Progress(doing) as progress, told_to(progress):
                return await work(session)

    return run_async(session_work())
