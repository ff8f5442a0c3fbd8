"""What gates mean for those who listen: people who are asked, and secrets that stay hidden."""

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from mulligan import (
    AsyncVm,
    HistoryConfig,
    VmExecuteRequest,
    VmExecutionClient,
    VmExecutionConfig,
)
from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.errors import ApprovalRequired
from mulligan.models import Approval
from mulligan.settings import Settings

pytestmark = pytest.mark.anyio

ASKER = """
import json, sys
if "ASK" in json.load(sys.stdin)["tool_input"]["command"]:
    print(json.dumps({"hookSpecificOutput": {
        "hookEventName": "PreToolUse", "permissionDecision": "ask",
        "permissionDecisionReason": "really?"}}))
"""


@pytest.fixture
def asking(data_dir: Path) -> Settings:
    hooks = {
        "order": ["asker", "output_sanitizer"],
        "commands": {"asker": {"command": [sys.executable, "-c", ASKER]}},
    }
    return settings_module.load(data_dir=data_dir, hooks=hooks)


def asked(code: str, **more) -> VmExecuteRequest:
    return VmExecuteRequest(agent_id="a", language="bash", code=code, **more)


async def test_one_that_waits_for_a_person_can_be_cancelled(asking: Settings) -> None:
    shown = asyncio.Event()

    async def never_answers(_: Approval) -> bool:
        shown.set()
        await asyncio.Event().wait()
        return True

    async with Engine(asking, approver=never_answers) as engine:
        execution = await engine.executions.start(asked("echo ASK > f"))
        await shown.wait()
        status = await engine.executions.cancel(execution.execution_id)
        assert status.result
        assert status.result.error == "Execution cancelled before it started"
        assert (await engine.execute(asked("cat f"))).exit_code != 0


async def test_one_that_was_approved_is_streamed_and_can_be_cancelled(asking: Settings) -> None:
    async with Engine(asking, approver=lambda _: True) as engine:
        execution = await engine.executions.start(asked("echo ASK; sleep 300"))
        async with aclosing(execution.events.listen()) as events:
            seen = [await anext(events), await anext(events)]
        assert [(event.number, event.text) for event in seen] == [(1, None), (2, "ASK\n")]
        status = await engine.executions.cancel(execution.execution_id)
        assert status.result
        assert (status.result.outcome, status.result.stdout) == ("cancelled", "ASK\n")


async def test_a_clients_approver_is_asked_for_streams(asking: Settings) -> None:
    config = VmExecutionConfig(history=HistoryConfig(integration_mode="direct"))
    async with VmExecutionClient(config, settings=asking) as client:
        events = [event async for event in client.stream(asked("echo ASK"))]
        assert [event.event for event in events] == ["started", "error"]
        assert events[-1].error
        assert isinstance(events[-1].error.exception(), ApprovalRequired)
    questions: list[str] = []

    def approve(question: Approval) -> bool:
        questions.append(question.prompt)
        return True

    async with AsyncVm("b", settings=asking, approver=approve) as vm:
        events = [event async for event in vm.stream("echo ASK", "bash")]
        assert [event.event for event in events] == ["started", "started", "stdout", "result"]
        assert (await vm.run("echo ASK again", "bash")).stdout == "ASK again\n"
    assert len(questions) == 2


async def test_secrets_are_hidden_from_those_who_listen(asking: Settings) -> None:
    secret = "correct-horse-" + "battery-staple"
    code = 'echo before; printf "${TOKEN:0:9}"; sleep 0.2; echo "${TOKEN:9}"; echo after >&2'
    async with Engine(asking) as engine:
        execution = await engine.executions.start(asked(code, secrets={"TOKEN": secret}))
        async with aclosing(execution.events.listen()) as listened:
            events = [event async for event in listened]
        final = events[-1].model(execution.execution_id).result
        assert final
        texts = "".join(event.text or "" for event in events if event.kind == "stdout")
        assert texts == final.stdout
        assert "before\n" in texts
        assert secret not in texts
        assert secret[9:] not in texts
