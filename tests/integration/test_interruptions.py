"""What comes in between: other executions, cancels and ends, while something is half done."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mulligan import settings
from mulligan.engine.engine import Engine
from mulligan.engine.executions.outflow import IDLE_S
from mulligan.engine.vms import connection, disk
from mulligan.engine.vms.connection import AgentConnection
from mulligan.errors import (
    ApprovalRequired,
    ExecutionFailed,
    SnapshotFailed,
    SnapshotNotFound,
    VmExecutionError,
)
from mulligan.history import HistoryStore
from mulligan.hooks.approver import Approver
from mulligan.hooks.interface import Hook
from mulligan.models import (
    Approval,
    ApprovalAnswer,
    HistoryQueryRequest,
    RollbackTo,
    SnapshotCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)
from mulligan.models.hooks import Allow, AskUser, HookDecision, PostToolContext, PreToolContext
from support import host

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(approver: Approver | None = None, **options: Any) -> AsyncIterator[Engine]:
    with host.data_directory() as directory:
        chosen = settings.load(data_dir=directory / "data", **options)
        async with Engine(chosen, approver=approver) as engine:
            yield engine


async def bash(engine: Engine, code: str, on_output=None, **more) -> VmExecuteResponse:
    request = VmExecuteRequest(agent_id="tester", language="bash", code=code, **more)
    return await engine.execute(request, on_output)


class Lingers(Hook):
    """Looks at what SLOW executions printed until it is told to let go."""

    name = "lingers"
    timeout_ms = 60_000

    def __init__(self) -> None:
        self.looks, self.lets_go = asyncio.Event(), asyncio.Event()

    async def post_tool(self, context: PostToolContext) -> HookDecision:
        if "SLOW" in context.original_code:
            self.looks.set()
            await self.lets_go.wait()
        return Allow()


async def test_a_failure_is_not_rolled_back_over_what_ran_since() -> None:
    async with opened(history={"auto_rollback_on_failure": True}) as engine:
        lingers = Lingers()
        engine.gates.hooks.add_hook(lingers)
        failing = asyncio.create_task(bash(engine, "echo SLOW > slow; exit 3"))
        await lingers.looks.wait()
        await bash(engine, "echo kept > note")
        lingers.lets_go.set()
        failed = await failing
        assert (failed.rolled_back_to, failed.snapshot_after) == (None, None)
        assert [note.partition(":")[0] for note in failed.notes] == [
            "no snapshot after it",
            "not rolled back",
        ]
        assert (await bash(engine, "cat note")).stdout == "kept\n"


async def test_a_failure_is_not_rolled_back_over_a_rollback() -> None:
    async with opened(history={"auto_rollback_on_failure": True}) as engine:
        lingers = Lingers()
        engine.gates.hooks.add_hook(lingers)
        first = await bash(engine, "echo one > note")
        await bash(engine, "echo two > note")
        failing = asyncio.create_task(bash(engine, "echo SLOW > note; exit 3"))
        await lingers.looks.wait()
        await engine.past.rollback(first.vm_id, RollbackTo(execution_id=first.execution_id))
        lingers.lets_go.set()
        assert (await failing).rolled_back_to is None
        assert (await bash(engine, "cat note")).exit_code != 0


async def outcomes(engine: Engine) -> list[str]:
    (vm,) = engine.list_vms()
    found = await engine.past.history(HistoryQueryRequest(vm_id=vm.id))
    return [each.outcome for each in found.entries]


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("echo one", id="while it runs"),
        pytest.param("printf hk-; exec >&-; sleep 0.3", id="what is held back for a moment"),
        pytest.param("printf hk-", id="what is held back to the end"),
    ],
)
async def test_who_cannot_take_output_gets_his_error_and_a_row(code: str) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError("nobody reads")

    async with opened() as engine:
        with pytest.raises(BrokenPipeError, match="nobody reads"):
            await bash(engine, code, broken)
        assert await outcomes(engine) == ["error"]


async def test_no_output_comes_after_a_failure() -> None:
    heard: list[bytes] = []
    async with opened() as engine:
        vm_id = (await bash(engine, "true")).vm_id
        took = asyncio.Event()

        def takes(_: str, data: bytes) -> None:
            heard.append(data)
            took.set()

        task = asyncio.create_task(bash(engine, "echo one; printf hk-; sleep 30", takes))
        await took.wait()
        await engine.delete_vm(vm_id)
        with pytest.raises(ExecutionFailed):
            await task
        before = list(heard)
        await asyncio.sleep(2 * IDLE_S)
        assert heard == before


async def test_a_snapshot_is_gone_also_for_who_was_cancelled_meanwhile(monkeypatch) -> None:
    async with opened() as engine:
        vm_id = (await bash(engine, "echo one > note")).vm_id
        made = await engine.past.snapshot(vm_id, SnapshotCreateRequest())
        deleted, goes_on = threading.Event(), threading.Event()
        delete = HistoryStore.delete_snapshot

        def slow(store: HistoryStore, snapshot_id: str) -> bool:
            found = delete(store, snapshot_id)
            deleted.set()
            goes_on.wait()
            return found

        monkeypatch.setattr(HistoryStore, "delete_snapshot", slow)
        task = asyncio.create_task(engine.past.delete_snapshot(vm_id, made.id))
        await asyncio.to_thread(deleted.wait)
        task.cancel()
        next_one = asyncio.create_task(bash(engine, "echo two > note"))
        await asyncio.wait({task})
        goes_on.set()
        assert (await next_one).snapshot_before not in (None, made.id)
        with pytest.raises(SnapshotNotFound):
            await engine.past.rollback(vm_id, RollbackTo(snapshot_id=made.id))


class Asks(Hook):
    """Has a person asked before ASK runs, and about what PRINT prints."""

    name = "asks"

    def pre_tool(self, context: PreToolContext) -> HookDecision:
        return AskUser(prompt="run it?") if "ASK" in context.code else Allow()

    def post_tool(self, context: PostToolContext) -> HookDecision:
        return AskUser(prompt="show it?") if "PRINT" in context.original_code else Allow()


async def test_the_end_waits_for_no_approver() -> None:
    shown = asyncio.Queue[Approval]()

    async def never_answers(approval: Approval) -> bool:
        shown.put_nowait(approval)
        return await asyncio.Event().wait()

    with host.data_directory() as directory:
        chosen = settings.load(data_dir=directory / "data")
        async with Engine(chosen, approver=never_answers) as engine:
            engine.gates.hooks.add_hook(Asks())
            asked = asyncio.create_task(bash(engine, "echo ASK"))
            printed = asyncio.create_task(bash(engine, "echo PRINT"))
            both = {(await shown.get()).prompt, (await shown.get()).prompt}
            assert both == {"asks: run it?", "asks: show it?"}
        response = await printed
        assert (response.outcome, response.stdout) == ("success", "")
        assert "Output withheld: Approval required" in str(response.error)
        with pytest.raises(VmExecutionError):
            await asked
        async with Engine(chosen) as engine:
            assert await outcomes(engine) == ["success"]


@pytest.mark.parametrize("enabled", [True, False])
async def test_who_is_cancelled_before_it_starts_uses_no_yes_up(monkeypatch, enabled: bool) -> None:
    async with opened(history={"enabled": enabled}) as engine:
        engine.gates.hooks.add_hook(Asks())
        vm_id = (await bash(engine, "echo one > note")).vm_id
        with pytest.raises(ApprovalRequired) as waits:
            await bash(engine, "echo ASK")
        await engine.gates.answer(waits.value.approval_id, ApprovalAnswer(approve=True, who="ann"))
        frozen, goes_on = asyncio.Event(), asyncio.Event()
        freeze = disk.freeze

        async def slow(vm: object) -> bool:
            frozen.set()
            await goes_on.wait()
            return await freeze(vm)

        monkeypatch.setattr(disk, "freeze", slow)
        task = asyncio.create_task(bash(engine, "echo ASK"))
        await frozen.wait()
        task.cancel()
        await asyncio.wait({task})
        goes_on.set()
        async with engine.fleet.find(vm_id).steady():
            pass
        assert (await engine.gates.question(waits.value.approval_id)).state == "approved"
        assert (await bash(engine, "echo ASK")).stdout == "ASK\n"


@pytest.fixture
def slow_copies(monkeypatch) -> asyncio.Event:
    """Set when a copy is under way, which takes longer than a VM is given to end a program."""
    copying = asyncio.Event()
    job = disk.run_job

    async def slow(given: AgentConnection, arguments: dict[str, object]) -> bytes:
        copying.set()
        await asyncio.sleep(8 * connection.BACKSTOP_S)
        return await job(given, arguments)

    monkeypatch.setattr(connection, "BACKSTOP_S", 0.4)
    monkeypatch.setattr(disk, "run_job", slow)
    return copying


@pytest.mark.parametrize("how", ["cancel", "leave", "timeout"])
async def test_a_vm_outlives_what_ends_while_it_is_copied(how: str, slow_copies) -> None:
    async with opened() as engine:
        vm_id = (await bash(engine, "echo one > note")).vm_id
        before = await bash(engine, "setsid sleep 300 > /dev/null 2>&1 & disown")
        assert before.background_processes == 1
        seconds = 1 if how == "timeout" else 60
        wrote = asyncio.Event()
        running = asyncio.create_task(
            bash(
                engine,
                "echo two > note; echo on; sleep 300",
                lambda *_: wrote.set(),
                timeout_seconds=seconds,
            )
        )
        await wrote.wait()
        vm = engine.fleet.find(vm_id)
        snapshot = asyncio.create_task(engine.past.snapshot(vm_id, SnapshotCreateRequest()))
        await slow_copies.wait()
        if how == "cancel":
            assert await vm.cancel(vm.running[0])
        elif how == "leave":
            running.cancel()
        assert (await snapshot).id
        await asyncio.wait({running})
        alive = await bash(engine, "pgrep -c sleep")
        assert alive.stdout == "1\n"


IN_VFORK = """\
cat > waits.py <<'END'
import ctypes, os
libc = ctypes.CDLL(None)
if libc.vfork() == 0:
    end = os.open("end", os.O_RDONLY)  # until there is somebody who writes to it
    libc._exit(0)
END
mkfifo end
nohup setsid python3 waits.py > /dev/null 2>&1 &
until grep -qs 'State:.D' /proc/[0-9]*/status; do sleep 0.02; done
"""


async def test_a_program_that_cannot_be_halted() -> None:
    """A parent in vfork(2) waits for its child, and stops at no signal."""
    async with opened() as engine:
        begun = await bash(engine, IN_VFORK, timeout_seconds=30)
        assert begun.background_processes == 2, begun.stderr
        beside = await bash(engine, "touch mine")
        assert (beside.outcome, beside.snapshot_before) == ("success", None)
        assert any("could not be halted" in note for note in beside.notes)
        with pytest.raises(SnapshotFailed, match="could not be stopped"):
            await engine.past.snapshot(begun.vm_id, SnapshotCreateRequest())
        await bash(
            engine, ": > end; while pgrep -f waits.py; do sleep 0.02; done", timeout_seconds=30
        )
        assert (await bash(engine, "ls")).snapshot_before is not None
