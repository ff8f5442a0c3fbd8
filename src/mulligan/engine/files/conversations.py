"""Conversations about files: how they begin in a VM, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from mulligan.engine.files import names as filenames
from mulligan.engine.files.transfers import Conversing, Transfer, program_for
from mulligan.engine.vms.quota import bounded, check_room
from mulligan.engine.vms.vm import Vm
from mulligan.errors import FileBroken
from mulligan.log import get_logger
from mulligan.settings import FileSettings

log = get_logger()

QUICK_S = 30.0
Result = TypeVar("Result")


class Owner(Protocol):
    """Does something to its end, even if whoever asked for it is cancelled meanwhile."""

    async def __call__(self, work: Coroutine[Any, Any, Result]) -> Result: ...


class Conversations:
    """Starts programs that work on files. See ``Files`` for the arguments."""

    def __init__(
        self,
        settings: FileSettings,
        python: str,
        owned: Owner,
        keep: Callable[[Vm], Awaitable[str | None]],
        clean: Callable[[str, str], str],
    ) -> None:
        self._settings = settings
        self._python = python
        self._owned = owned
        self._keep = keep
        self._clean = clean

    async def look(
        self, vm: Vm, work: Callable[[Transfer], Awaitable[Result]], *call: object
    ) -> Result:
        """A short conversation that changes nothing; nothing starts in the VM meanwhile.

        Args:
            vm: the VM.
            work: the conversation.
            call: a function of ``guest/filework.py`` and its arguments.

        Raises:
            FileBroken: it takes too long.
        """

        async def done() -> Result:
            async with vm.steady():
                transfer, _ = await self._start(vm, False, *call)
                return await _within(vm, transfer, QUICK_S, work(transfer))

        return await self._owned(done())

    async def change(
        self,
        vm: Vm,
        work: Callable[[Transfer, str | None], Awaitable[Result]],
        *call: object,
        seconds: float = QUICK_S,
    ) -> Result:
        """The same that changes files; ``work`` is told of the snapshot of before, too."""

        async def done() -> Result:
            async with vm.steady():
                transfer, kept = await self._start(vm, True, *call)
                return await _within(vm, transfer, seconds, work(transfer, kept))

        result = await self._owned(done())
        self.log(str(call[0]), vm, *(each for each in call if isinstance(each, bytes)))
        return result

    async def begin(self, vm: Vm, changes: bool, *call: object) -> tuple[Transfer, str | None]:
        """Starts a conversation that goes on while other things happen; ``close`` has to follow."""

        async def started() -> tuple[Transfer, str | None]:
            async with vm.steady():
                return await self._start(vm, changes, *call)

        task = asyncio.create_task(started())
        try:
            return await self._owned(_result(task))
        except asyncio.CancelledError:
            await self._owned(_unwanted(vm, task))
            raise

    async def _start(self, vm: Vm, changes: bool, *call: object) -> tuple[Transfer, str | None]:
        """For the holder of ``steady``."""
        kept = None
        if changes:
            if vm.bounds is not None and call[0] == "write":
                check_room(vm.bounds)
            kept = await self._keep(vm)
        connection = await vm.up()
        if changes and vm.kept is not None:
            vm.kept.void()
            vm.kept.soon()
        running = connection.start(bounded(program_for(self._python, *call), vm), None, Conversing)
        assert isinstance(running, Conversing)
        transfer = Transfer(
            connection,
            running,
            idle_s=self._settings.idle_seconds,
            changes=changes,
            clean=lambda text: self._clean(vm.record.agent_id, text),
        )
        vm.transfers.add(transfer)
        return transfer, kept

    async def close(self, vm: Vm, transfer: Transfer) -> None:
        """Ends a conversation, if it has not ended."""
        await self._owned(_close(vm, transfer))

    def log(self, what: str, vm: Vm, *names: bytes, **more: object) -> None:
        """Says what was changed."""
        paths = [self._clean(vm.record.agent_id, filenames.shown(each)) for each in names]
        log.info(
            "files_changed",
            op=what,
            vm_id=vm.record.id,
            agent_id=vm.record.agent_id,
            paths=paths,
            **more,
        )


async def _within(vm: Vm, transfer: Transfer, seconds: float, work: Awaitable[Result]) -> Result:
    """The end of a short conversation."""
    try:
        async with asyncio.timeout(seconds):
            result = await work
            await transfer.over()
            return result
    except TimeoutError:
        raise FileBroken(f"the VM did not finish within {seconds:g} s") from None
    finally:
        await _close(vm, transfer)


async def _close(vm: Vm, transfer: Transfer) -> None:
    try:
        await transfer.close()
    finally:
        vm.transfers.remove(transfer)
        if transfer.changes:
            vm.writing.by_hand()


async def _result(task: asyncio.Task[Result]) -> Result:
    return await asyncio.shield(task)


async def _unwanted(vm: Vm, task: asyncio.Task[tuple[Transfer, str | None]]) -> None:
    """Ends a conversation whose beginning nobody waits for any more."""
    await asyncio.wait({task})
    if not task.cancelled() and task.exception() is None:
        await _close(vm, task.result()[0])
