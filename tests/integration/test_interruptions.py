"""What comes in between: other executions, cancels and ends, while something is half done."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mulligan import settings
from mulligan.engine.engine import Engine
from mulligan.hooks.approver import Approver
from mulligan.hooks.interface import Hook
from mulligan.models import RollbackTo, VmExecuteRequest, VmExecuteResponse
from mulligan.models.hooks import Allow, HookDecision, PostToolContext
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
