"""Hooks around real executions: what a gate refuses does not run, and a yes runs once."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mulligan.engine.engine import Engine
from mulligan.errors import ApprovalDenied, ApprovalRequired, ValidationFailed
from mulligan.history.approvals import open_approvals
from mulligan.hooks.command import CommandHook
from mulligan.hooks.interface import Hook
from mulligan.hooks.manager import HookManager
from mulligan.hooks.permits import Permits
from mulligan.models import Approval, HistoryQueryRequest, VmExecuteRequest, VmExecuteResponse
from mulligan.models.approvals import ApprovalSubject
from mulligan.models.hooks import (
    OUTPUT_FIELDS,
    Allow,
    AskUser,
    Block,
    HookDecision,
    ModifyOutput,
    PostToolContext,
    PreToolContext,
)

pytestmark = pytest.mark.anyio

# Refuses what would remove notes, and rewrites a command it knows a safer form of.
GUARD = """
import json, sys
command = json.load(sys.stdin)["tool_input"]["command"]
if "shred" in command:
    sys.exit("told by status 1, which is unclear")
if "rm " in command:
    print("keep the notes", file=sys.stderr)
    sys.exit(2)
if command.startswith("say "):
    updated = {"command": command.replace("say ", "echo said: ", 1)}
    print(json.dumps({"hookSpecificOutput": {"updatedInput": updated}}))
"""


class AsksBeforeAppending(Hook):
    name = "asks"

    async def pre_tool(self, context: PreToolContext) -> HookDecision:
        return AskUser(prompt="append to the log?") if ">>" in context.code else Allow()

    async def post_tool(self, context: PostToolContext) -> HookDecision:
        if "hunter" not in context.stdout:
            return Allow()
        clean = context.stdout.replace("hunter", "*")
        return ModifyOutput(output=context.texts.model_copy(update={"stdout": clean}))


class Guarded:
    """An engine behind hooks, put together as a server does it."""

    def __init__(self, engine: Engine, manager: HookManager, permits: Permits) -> None:
        self.engine = engine
        self.manager = manager
        self.permits = permits
        self.vm_id = ""

    async def run(self, code: str) -> VmExecuteResponse:
        vm = {"agent_id": "ada", "vm_id": self.vm_id}
        before = await self.manager.run_pre_tool(PreToolContext(code=code, language="bash", **vm))
        if isinstance(before.decision, Block):
            raise ValidationFailed(before.decision.reason, field="code")
        if isinstance(before.decision, AskUser):
            rows = await self.engine.past.history(HistoryQueryRequest(vm_id=self.vm_id, limit=1))
            state = rows.entries[0].id  # whatever ran meanwhile, it is another state
            subject = ApprovalSubject(code=before.final, language="bash", vm_state=state, **vm)
            await self.permits.obtain(subject, before.decision.prompt)
        request = VmExecuteRequest(code=before.final, language="bash", **vm)
        response = await self.engine.execute(request)
        after = await self.manager.run_post_tool(
            PostToolContext(
                original_code=code,
                exit_code=response.exit_code,
                duration_ms=response.duration_ms,
                **{name: getattr(response, name) for name in OUTPUT_FIELDS},
                **vm,
            )
        )
        return response.model_copy(update=dict(after.final))


@pytest.fixture
def guarded(engine: Engine) -> Callable[..., Any]:
    @asynccontextmanager
    async def make(**options: Any) -> AsyncIterator[Guarded]:
        manager = HookManager()
        manager.add_hook(CommandHook("guard", [sys.executable, "-I", "-c", GUARD]))
        manager.add_hook(AsksBeforeAppending())
        with open_approvals(engine.settings.data_dir / "history") as store:
            made = Guarded(engine, manager, Permits(store, **options))
            request = VmExecuteRequest(agent_id="ada", language="bash", code="echo one > log")
            made.vm_id = (await engine.execute(request)).vm_id
            yield made

    return make


async def test_what_a_guard_says_holds(guarded: Callable[..., Any]) -> None:
    async with guarded() as runs:
        with pytest.raises(ValidationFailed, match="guard: keep the notes"):
            await runs.run("rm log")
        with pytest.raises(ValidationFailed, match="exit status 1: told by status 1"):
            await runs.run("shred log")
        assert (await runs.run("say hello")).stdout == "said: hello\n"
        assert (await runs.run("cat log; echo hunter")).stdout == "one\n*\n"


ANSWER = """
import sys
from pathlib import Path
from mulligan.history.approvals import open_approvals
with open_approvals(Path(sys.argv[1])) as store:
    (waiting,) = store.list("pending")
    print(waiting.code, store.answer(waiting.id, sys.argv[2] == "yes", "bob").state)
"""


async def test_asked_here_answered_elsewhere_run_once(
    guarded: Callable[..., Any], engine: Engine
) -> None:
    directory = str(engine.settings.data_dir / "history")

    def answer(said: str) -> str:
        command = [sys.executable, "-c", ANSWER, directory, said]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async with guarded() as runs:
        with pytest.raises(ApprovalRequired, match=r"append to the log\?"):
            await runs.run("echo two >> log")
        assert answer("yes") == "echo two >> log approved\n"
        await runs.run("echo two >> log")
        with pytest.raises(ApprovalRequired):  # a yes is good for once
            await runs.run("echo two >> log")
        assert answer("no") == "echo two >> log denied\n"
        with pytest.raises(ApprovalDenied, match="bob said no"):
            await runs.run("echo two >> log")
        assert (await runs.run("cat log")).stdout == "one\ntwo\n"


async def test_a_vm_that_changed_needs_another_yes(
    guarded: Callable[..., Any], engine: Engine
) -> None:
    shown: list[str] = []

    def approve(approval: Approval) -> bool:
        shown.append(approval.vm_state)
        return True

    async with guarded() as waiting, guarded(approver=approve) as asking:
        with pytest.raises(ApprovalRequired) as asked:
            await waiting.run("echo two >> log")
        await waiting.run("echo changed > log")
        await asking.run("echo two >> log")
        with open_approvals(engine.settings.data_dir / "history") as store:
            first = store.get(asked.value.approval_id)
            assert (first.state, len(shown), first.vm_state in shown) == ("pending", 1, False)
            assert [each.state for each in store.list()] == ["used", "pending"]
        assert (await asking.run("cat log")).stdout == "changed\ntwo\n"
