"""Every pair of operations on one VM, over the real driver, against the table of the code."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mulligan import settings as settings_module
from mulligan.engine.concurrency import ARRIVING, OPERATIONS, TABLE, UNDER_WAY, Meeting, rows
from mulligan.engine.engine import Engine
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ExecutionNotFound, VmExecutionError, VmNotAvailable
from mulligan.models import (
    ForkRequest,
    RollbackTo,
    SnapshotCreateRequest,
    VmCreateRequest,
    VmExecuteRequest,
)
from mulligan.models.terminal import TerminalRequest
from support import host

pytestmark = pytest.mark.anyio
PATIENCE_S = 60
DOCUMENT = Path(__file__).parents[2] / "docs" / "concurrency.md"
BEGIN, END = "<!-- table:begin -->\n", "<!-- table:end -->\n"
PROGRAMS = ("program", "cell")
BIG = 8 << 20  # more than is sent of a file before somebody reads it


class Subject:
    """One VM of an agent of its own, and what can be done with it."""

    def __init__(self, engine: Engine, vm_id: str, agent: str, snapshot: str) -> None:
        self.engine, self.vm_id, self.agent, self.snapshot = engine, vm_id, agent, snapshot
        self.vm: Vm = engine.fleet.vms[vm_id]
        self.executions: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []

    @classmethod
    async def made(cls, engine: Engine, agent: str) -> Subject:
        vm = await engine.create_vm(VmCreateRequest(agent_id=agent))
        self = cls(engine, vm.id, agent, "")
        big = f"head -c {BIG} /dev/zero > /workspace/big"
        await engine.execute(self.request(big))
        await engine.execute(self.request("1", kernel="k", language="python"))
        self.snapshot = (await engine.past.snapshot(vm.id, SnapshotCreateRequest())).id
        return self

    def request(self, code: str, language: str = "bash", **more: Any) -> VmExecuteRequest:
        return VmExecuteRequest(
            agent_id=self.agent, vm_id=self.vm_id, language=language, code=code, **more
        )

    # What is done, shortly

    async def do(self, what: str) -> object:
        past, files, vm_id = self.engine.past, self.engine.files, self.vm_id
        cell = self.request("1", kernel="k", language="python")
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "program": lambda: self.engine.execute(self.request("true")),
            "cell": lambda: self.engine.execute(cell),
            "terminal": self.terminal,
            "read": lambda: files.read(vm_id, "/workspace/big", length=10),
            "write": lambda: files.write(vm_id, "/workspace/new", b"x"),
            "names": lambda: files.list(vm_id, "/workspace"),
            "snapshot": lambda: past.snapshot(vm_id, SnapshotCreateRequest()),
            "fork": lambda: past.fork(vm_id, ForkRequest(snapshot_id=self.snapshot)),
            "diff": lambda: past.diff(vm_id, self.snapshot),
            "rollback": lambda: past.rollback(vm_id, RollbackTo(snapshot_id=self.snapshot)),
            "cancel": self.cancel,
            "delete": lambda: self.engine.delete_vm(vm_id),
        }
        return await ways[what]()

    async def terminal(self) -> None:
        request = TerminalRequest(command="true")
        opened = await self.engine.terminals.open(self.vm_id, request)
        await opened.ended()
        await opened.close()

    async def cancel(self) -> None:
        self.engine.fleet.find(self.vm_id)
        for execution_id in [*self.executions, *self.vm.running]:
            with suppress(ExecutionNotFound):
                await self.engine.executions.cancel(execution_id)

    # What is under way, until it is let go

    @asynccontextmanager
    async def under_way(self, what: str) -> AsyncIterator[asyncio.Task[Any]]:
        """Something that goes on until the block ends, if nothing ends it earlier."""
        over = asyncio.Event()
        begun = asyncio.Event()
        work = self._long(what, begun, over)
        task: asyncio.Task[Any] = asyncio.create_task(work)
        self.tasks.append(task)
        begun_task = asyncio.create_task(begun.wait())
        await asyncio.wait({task, begun_task}, return_when=asyncio.FIRST_COMPLETED)
        begun_task.cancel()
        assert begun.is_set(), task
        try:
            yield task
        finally:
            over.set()
            if what in PROGRAMS:
                with suppress(VmNotAvailable):
                    await self.cancel()
            with suppress(VmExecutionError):
                await task

    async def _long(self, what: str, begun: asyncio.Event, over: asyncio.Event) -> None:
        files = self.engine.files
        if what in PROGRAMS:
            cell = {"kernel": "k", "language": "python"}
            request = (
                self.request("import time; time.sleep(300)", **cell)
                if what == "cell"
                else self.request("sleep 300")
            )
            execution = await self.engine.executions.start(request)
            self.executions.append(execution.execution_id)
            await until(lambda: execution.execution_id in self.vm.running)
            begun.set()
            assert execution.task is not None
            await execution.task
        elif what == "terminal":
            terminal = await self.engine.terminals.open(self.vm_id, TerminalRequest())
            begun.set()
            await first_of(over.wait(), terminal.ended())
            await terminal.close()
        elif what == "read":
            async with files.open_read(self.vm_id, "/workspace/big") as reader:
                begun.set()
                await over.wait()
                async for _ in reader.read(0, None):
                    pass
        elif what == "write":
            async with files.open_write(self.vm_id, "/workspace/new") as writer:
                begun.set()
                await over.wait()
                await writer.write(b"x")
                await writer.commit()
        else:
            await self._held(what, begun, over)

    async def _held(self, what: str, begun: asyncio.Event, over: asyncio.Event) -> None:
        """What holds the VM steady goes on for as long as it is let hold it."""
        steady = self.vm.steady

        @asynccontextmanager
        async def held() -> AsyncIterator[None]:
            self.vm.steady = steady  # type: ignore[method-assign]
            async with steady():
                begun.set()
                await over.wait()
                yield

        if what == "delete":
            async with steady():
                deleting = asyncio.create_task(self.engine.delete_vm(self.vm_id))
                await until(lambda: self.vm_id not in self.engine.fleet.vms)
                begun.set()
                await over.wait()
            await deleting
        else:
            self.vm.steady = held  # type: ignore[method-assign]
            await self.do(what)

    def waiters(self) -> int:
        """How many wait for the VM, or for its kernel."""
        locks = [self.vm._lock, self.vm.turn_of("k")]
        return sum(len(each._waiters or ()) for each in locks if each is not None)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def first_of(*works: Awaitable[Any]) -> None:
    tasks = [asyncio.ensure_future(each) for each in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def meet(subject: Subject, under_way: str, arriving: str) -> None:
    """Has one come while the other is under way, and sees what the table says."""
    meeting = TABLE[under_way, arriving]
    async with subject.under_way(under_way) as first:
        before = subject.waiters()
        second = asyncio.create_task(subject.do(arriving))
        if meeting is Meeting.WAITS:
            await until(lambda: subject.waiters() > before or second.done())
            assert not second.done(), "it did not wait"
        elif meeting is Meeting.REFUSED:
            with pytest.raises(VmNotAvailable):
                await second
        else:
            async with asyncio.timeout(PATIENCE_S):
                await second
            if meeting is Meeting.BESIDE:
                assert not first.done(), "it was ended"
            elif under_way in (*PROGRAMS, "terminal"):
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.wait({first})
                assert first.done()
            else:
                open_ = subject.vm.transfers._open
                assert all(each.running.done.done() for each in open_)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(second, return_exceptions=True)
    if meeting is Meeting.WAITS:
        assert second.exception() is None


@asynccontextmanager
async def opened() -> AsyncIterator[Engine]:
    before = host.descendants(os.getpid())
    with host.data_directory() as path:
        settings = settings_module.load(data_dir=path / "data")
        async with Engine(settings) as engine:
            yield engine
        assert host.naming(path) == []
    assert host.wait_until(lambda: not host.descendants(os.getpid()) - before, 10)


@pytest.mark.long
@pytest.mark.parametrize("under_way", UNDER_WAY)
async def test_each_pair_is_as_the_table_says(under_way: str) -> None:
    async with opened() as engine:
        for arriving in ARRIVING:
            subject = await Subject.made(engine, f"agent-{arriving}")
            try:
                await meet(subject, under_way, arriving)
            except BaseException as error:
                error.add_note(f"{arriving} while {under_way} is under way")
                raise


@given(
    st.lists(
        st.tuples(st.sampled_from(UNDER_WAY[:-1]), st.lists(st.sampled_from(ARRIVING), max_size=5)),
        min_size=1,
        max_size=4,
    )
)
@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_many_at_once_all_end_and_leave_nothing(
    rounds: list[tuple[str, list[str]]],
) -> None:
    """Whatever meets whatever: each has an end, and the VM works as before, or is gone."""

    async def play() -> None:
        async with opened() as engine:
            subject = await Subject.made(engine, "agent")
            for under_way, arriving in rounds:
                event(f"{under_way} and {len(arriving)} others")
                if subject.vm_id not in engine.fleet.vms:
                    return
                async with subject.under_way(under_way):
                    others = [asyncio.create_task(subject.do(each)) for each in arriving]
                    await asyncio.sleep(0)
                async with asyncio.timeout(PATIENCE_S):
                    ended = await asyncio.gather(*others, return_exceptions=True)
                faults = [each for each in ended if isinstance(each, Exception)]
                assert all(isinstance(each, VmExecutionError) for each in faults), faults
            if subject.vm_id in engine.fleet.vms:
                async with asyncio.timeout(PATIENCE_S):
                    answer = await engine.execute(subject.request("echo still here"))
                assert answer.stdout == "still here\n"
                assert (len(subject.vm.transfers), subject.vm.running) == (0, [])

    asyncio.run(play())


def test_the_table_is_whole_and_the_page_has_it() -> None:
    assert TABLE.keys() == {(one, other) for one in UNDER_WAY for other in ARRIVING}
    page = DOCUMENT.read_text()
    assert page.partition(BEGIN)[2].partition(END)[0] == rows()
    for name, text in OPERATIONS.items():
        assert f"`{name}`: {text}" in page
