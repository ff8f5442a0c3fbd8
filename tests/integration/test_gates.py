"""Gates around real executions: what is refused does not run, and secrets do not come back."""

import asyncio
import base64
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mulligan import settings
from mulligan.engine.engine import Engine
from mulligan.errors import (
    ApprovalConflict,
    ApprovalDenied,
    ApprovalRequired,
    ConfigError,
    ValidationFailed,
)
from mulligan.hooks.interface import Hook
from mulligan.models import (
    ApprovalAnswer,
    HistoryQueryRequest,
    ParseExecuteRequest,
    RollbackTo,
    VmExecuteRequest,
    VmExecuteResponse,
)
from mulligan.models.hooks import Allow, HookDecision, Modify, PostToolContext, Rollback
from support import host

pytestmark = pytest.mark.anyio

SECRET = "hk-" + "9fQ2vT7xLw41"
ASKED = "git clean -fdx"


@asynccontextmanager
async def opened(approver=None, **options: Any) -> AsyncIterator[Engine]:
    with host.data_directory() as directory:
        chosen = settings.load(data_dir=directory / "data", **options)
        async with Engine(chosen, approver=approver) as engine:
            yield engine


async def run(
    engine: Engine, code: str, language: str = "bash", on_output=None, **more
) -> VmExecuteResponse:
    request = VmExecuteRequest(agent_id="tester", language=language, code=code, **more)
    return await engine.execute(request, on_output)


async def rows(engine: Engine) -> list[tuple[str, str]]:
    """(outcome, code) of the history, newest first."""
    (vm,) = engine.list_vms()
    found = await engine.past.history(HistoryQueryRequest(vm_id=vm.id))
    return [(each.outcome, each.command) for each in found.entries]


async def test_what_is_dangerous_or_no_code_is_refused_and_remembered() -> None:
    async with opened() as engine:
        await run(engine, "echo one > note")
        with pytest.raises(ValidationFailed, match=r"dangerous_pattern: .*line 2, column 1") as no:
            await run(engine, "echo two > note\nrm -rf /no/such/place-at-all/../../../")
        assert no.value.field == "code"
        with pytest.raises(ValidationFailed, match="syntax_validation: line 1, column"):
            await run(engine, "def f(:", "python")
        assert (await run(engine, "cat note")).stdout == "one\n"
        assert [outcome for outcome, _ in await rows(engine)] == [
            "success",
            "refused",
            "refused",
            "success",
        ]
        verdicts = (await run(engine, "true")).verdicts
        assert {each.hook for each in verdicts} == {
            "dangerous_pattern",
            "syntax_validation",
            "output_sanitizer",
            "execution_logger",
        }


async def test_what_was_refused_does_not_stand_in_the_way_of_undo() -> None:
    async with opened() as engine:
        await run(engine, "echo one > note")
        vm_id = (await run(engine, "echo two > note; exit 3")).vm_id
        with pytest.raises(ValidationFailed):
            await run(engine, "rm -rf /")
        (entry,) = (await engine.past.diff(vm_id)).entries
        assert entry.path == "/workspace/note"
        await engine.past.rollback(vm_id, RollbackTo())
        assert (await run(engine, "cat note")).stdout == "one\n"
        with pytest.raises(ValidationFailed):
            await run(engine, "rm -rf /")
        await engine.past.rollback(vm_id, RollbackTo(last_success=True))
        assert (await run(engine, "cat note")).stdout == "one\n"


async def test_what_was_refused_counts_as_history() -> None:
    async with opened(history={"max_history_entries": 3}) as engine:
        vm_id = (await run(engine, "echo one > note")).vm_id
        for _ in range(3):
            with pytest.raises(ValidationFailed):
                await run(engine, "rm -rf /")
        assert [outcome for outcome, _ in await rows(engine)] == 3 * ["refused"]
        assert await engine.past.snapshots(vm_id) == []


class Rewrites(Hook):
    name = "rewrites"

    def pre_tool(self, context) -> HookDecision:
        if "greet" in context.code:
            return Modify(transformed_code=context.code.replace("greet", "echo hello"))
        if "wipe" in context.code:
            return Modify(transformed_code="rm -rf /no/such/place-at-all/../../../")
        return Allow()


class TakesBack(Hook):
    name = "takes_back"

    def post_tool(self, context: PostToolContext) -> HookDecision:
        return Rollback(reason="it said oops") if "oops" in context.stdout else Allow()


async def test_a_rewrite_is_told_and_judged_again() -> None:
    async with opened() as engine:
        engine.gates.hooks.add_hook(Rewrites())
        assert (await run(engine, "greet")).stdout == "hello\n"
        (vm,) = engine.list_vms()
        (entry,) = (await engine.past.history(HistoryQueryRequest(vm_id=vm.id))).entries
        assert (entry.command, entry.proposed_command) == ("echo hello", "greet")
        with pytest.raises(ValidationFailed, match="dangerous_pattern"):
            await run(engine, "wipe")


async def test_a_gate_takes_the_vm_back() -> None:
    async with opened() as engine:
        engine.gates.hooks.add_hook(TakesBack())
        await run(engine, "echo one > note")
        response = await run(engine, "echo two > note; echo oops")
        assert response.rolled_back_to == response.snapshot_before
        assert "takes_back: it said oops" in response.notes[-1]
        assert (await run(engine, "cat note")).stdout == "one\n"


async def test_secrets_are_nowhere_to_be_found(caplog: pytest.LogCaptureFixture) -> None:
    code = (
        "import base64, os, sys, time\n"
        "secret = os.environ['HOUSE_KEY']; open('kept', 'w').write(secret)\n"
        "coded = base64.b64encode(b'user:' + secret.encode()).decode()\n"
        "for text in (secret, coded):\n"
        "    sys.stdout.write(text[:9]); sys.stdout.flush(); time.sleep(0.2); print(text[9:])\n"
        "print(secret[::1], file=sys.stderr); secret"
    )
    forms = [SECRET, base64.b64encode(b"user:" + SECRET.encode()).decode()[8:-4]]
    with caplog.at_level(logging.DEBUG):
        async with opened(secrets={"HOUSE_KEY": SECRET}) as engine:
            streamed = bytearray()
            response = await run(
                engine, code, "python", lambda _, data: streamed.extend(data), kernel="main"
            )
            assert response.result == "'[redacted:secret HOUSE_KEY]'"
            again = await run(engine, f"cat kept; echo {SECRET} >&2", secrets={"OTHER": "x" * 12})
            changes = await engine.past.diff(response.vm_id)
            (vm,) = engine.list_vms()
            history = await engine.past.history(HistoryQueryRequest(vm_id=vm.id))
            said = [response, again, changes, history]
            kept = [engine.settings.data_dir / "history" / "history.db"]
            kept += [Path(f"{kept[0]}-wal")]
            stored = b"".join(path.read_bytes() for path in kept if path.exists())
    texts = [each.model_dump_json() for each in said] + [streamed.decode(), caplog.text]
    for form in forms:
        assert not any(form in text for text in texts), form
        assert form.encode() not in stored
    assert streamed.decode().count("[redacted:secret HOUSE_KEY]") >= 3


async def test_a_request_s_own_secret_is_kept_too_also_later() -> None:
    async with opened() as engine:
        first = await run(engine, "echo $TOKEN | tee f", secrets={"TOKEN": SECRET})
        assert first.stdout == "[redacted:secret TOKEN]\n"
        assert (await run(engine, "cat f")).stdout == "[redacted:secret TOKEN]\n"
        with pytest.raises(ValidationFailed, match="cannot be kept secret") as no:
            await run(engine, "true", secrets={"PIN": "1"})
        assert no.value.field == "secrets"


async def test_secrets_of_the_settings_have_to_be_some() -> None:
    with pytest.raises(ConfigError, match="cannot be kept secret"):
        async with opened(secrets={"PIN": "1"}):
            pass


async def test_output_that_is_judged_as_a_whole_does_not_stream() -> None:
    async with opened() as engine:
        engine.gates.hooks.add_hook(TakesBack())
        pieces: list[tuple[str, bytes]] = []
        code = "echo a; sleep 0.3; echo b; echo c >&2"
        response = await run(engine, code, on_output=lambda *piece: pieces.append(piece))
        assert pieces == [("stdout", b"a\nb\n"), ("stderr", b"c\n")]
        assert response.stdout == "a\nb\n"


GUARD = """
import json, sys
asked = json.load(sys.stdin)
if "forbidden" in json.dumps(asked["tool_input"]):
    print("not here", file=sys.stderr)
    sys.exit(2)
"""


async def test_a_guard_from_the_settings(tmp_path: Path) -> None:
    host.check_has("node")
    script = tmp_path / "guard.py"
    script.write_text(GUARD)
    command = {"command": [sys.executable, "-I", str(script)]}
    slow = {"command": ["/bin/sleep", "30"], "timeout_ms": 200, "languages": ["javascript"]}
    async with opened(hooks={"commands": {"guard": command, "slow": slow}}) as engine:
        assert (await run(engine, "echo fine")).stdout == "fine\n"
        with pytest.raises(ValidationFailed, match="guard: not here"):
            await run(engine, "echo forbidden")
        with pytest.raises(ValidationFailed, match=r"slow: .*200 ms"):
            await run(engine, "1", "javascript")


# Approvals


async def test_a_yes_is_for_this_code_and_state_once() -> None:
    async with opened() as engine:
        await run(engine, "echo one > note")
        with pytest.raises(ApprovalRequired) as waits:
            await run(engine, ASKED)
        approval = waits.value.approval_id
        await engine.gates.answer(approval, ApprovalAnswer(approve=True, who="ada"))
        with pytest.raises(ApprovalConflict):
            await run(engine, f"{ASKED}; echo more", approval=approval)
        done = await run(engine, ASKED, approval=approval)
        assert done.approval == approval
        with pytest.raises(ApprovalConflict):
            await run(engine, ASKED, approval=approval)
        with pytest.raises(ApprovalRequired) as waits:
            await run(engine, ASKED)
        await engine.gates.answer(waits.value.approval_id, ApprovalAnswer(approve=True))
        await run(engine, "echo two > note")  # another state
        with pytest.raises(ApprovalConflict):
            await run(engine, ASKED, approval=waits.value.approval_id)


async def test_a_no_is_told_from_a_question_and_remembered() -> None:
    async with opened() as engine:
        with pytest.raises(ApprovalRequired) as waits:
            await run(engine, ASKED)
        no = ApprovalAnswer(approve=False, who="ada", comment="too early")
        await engine.gates.answer(waits.value.approval_id, no)
        with pytest.raises(ApprovalDenied, match="ada said no"):
            await run(engine, ASKED)
        assert await rows(engine) == [("refused", ASKED)]


@pytest.mark.parametrize(("answer", "stdout"), [(True, "ran\n"), (False, None)])
async def test_an_approver_is_asked_while_nothing_waits(answer: bool, stdout: str | None) -> None:
    asked = []

    async def approver(question) -> bool:
        asked.append(question.code)
        (vm,) = engine.list_vms()
        assert (await run(engine, "echo beside", vm_id=vm.id)).stdout == "beside\n"
        return answer

    async with opened(approver) as engine:
        code = f"{ASKED}; echo ran"
        if stdout is None:
            with pytest.raises(ApprovalDenied):
                await run(engine, code)
        else:
            assert (await run(engine, code)).stdout == stdout
        assert asked == [code]


async def test_nobody_to_ask() -> None:
    async with opened(approvals={"mode": "refuse"}) as engine:
        with pytest.raises(ApprovalDenied, match="nobody can be"):
            await run(engine, ASKED)


async def test_two_that_race_for_one_yes() -> None:
    async with opened() as engine:
        with pytest.raises(ApprovalRequired) as waits:
            await run(engine, f"echo x >> count; {ASKED} -e count")
        approval = waits.value.approval_id
        await engine.gates.answer(approval, ApprovalAnswer(approve=True))
        code = f"echo x >> count; {ASKED} -e count"
        both = [run(engine, code, approval=approval) for _ in range(2)]
        done = await asyncio.gather(*both, return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == [
            "ApprovalConflict",
            "VmExecuteResponse",
        ]
        assert (await run(engine, "cat count")).stdout == "x\n"


# Answers

ANSWER = """\
Run this first:

```python
open("x", "w").write("42")
print(6 * 7)
```

Then look at it:

```bash
cat x; {middle}
```

And finally run this:

```python
print("end")
```

It prints something like:

```
42
```
"""


def asked_for(middle: str = "true", **more) -> ParseExecuteRequest:
    fields = {"agent_id": "tester", "auto_execute": True, "auto_execute_threshold": 0.7} | more
    return ParseExecuteRequest(llm_response=ANSWER.format(middle=middle), **fields)


async def test_an_answer_is_read_and_run_in_order_in_one_vm() -> None:
    async with opened() as engine:
        done = await engine.answers.parse_and_execute(asked_for())
        assert [each.language for each in done.code_blocks] == ["python", "bash", "python", "text"]
        assert [each.stdout for each in done.execution_results] == ["42\n", "42", "end\n"]
        assert len({each.vm_id for each in done.execution_results}) == 1
        assert done.errors == []
        only_read = await engine.answers.parse_and_execute(asked_for(auto_execute=False))
        assert (len(only_read.code_blocks), only_read.execution_results) == (4, [])


async def test_blocks_after_one_that_fails() -> None:
    async with opened() as engine:
        done = await engine.answers.parse_and_execute(asked_for("exit 3"))
        assert done.errors == [
            "block 2 (bash): exit code 3",
            "block 3: not run, since block 2 failed",
        ]
        assert len(done.execution_results) == 2
        go_on = asked_for("exit 3", vm_config={"stop_on_failure": False})
        done = await engine.answers.parse_and_execute(go_on)
        assert done.errors == ["block 2 (bash): exit code 3"]
        assert done.execution_results[-1].stdout == "end\n"
        refused = asked_for("rm -rf /no/such/place-at-all/../../../")
        done = await engine.answers.parse_and_execute(refused)
        assert "dangerous_pattern" in done.errors[0]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"auto_execute_threshold": 1.5}, "auto_execute_threshold"),
        ({"auto_execute_threshold": -0.1}, "auto_execute_threshold"),
        ({"vm_config": {"surprise": 1}}, "vm_config.surprise"),
        ({"vm_config": [1]}, "vm_config"),
        ({"vm_config": {"timeout_seconds": "5"}}, "vm_config.timeout_seconds"),
        ({"vm_config": {"vm_id": "a", "vm_type": "b"}}, "vm_config.vm_type"),
    ],
)
async def test_bad_answers_are_refused(fields: dict, field: str) -> None:
    async with opened() as engine:
        with pytest.raises(ValidationFailed) as no:
            await engine.answers.parse_and_execute(asked_for(**fields))
        assert no.value.field == field


async def test_nothing_is_left_of_the_gates() -> None:
    before = host.descendants(os.getpid())
    async with opened() as engine:
        await run(engine, "print(1)", "python")
        await engine.answers.parse_and_execute(asked_for())
    assert host.wait_until(lambda: host.descendants(os.getpid()) == before, 5)
