"""Guards as programs: real ones, in the format of Claude Code's hooks, and ones that misbehave."""

import asyncio
import json
import os
import stat
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.hooks import exchange
from mulligan.hooks.calls import CallFailed
from mulligan.hooks.command import CommandHook
from mulligan.hooks.manager import HookManager, Outcome
from mulligan.hooks.program import CALL_VARIABLE, Ended
from mulligan.models.hooks import (
    Allow,
    AskUser,
    Block,
    ExecutionOutput,
    Modify,
    ModifyOutput,
    PostToolContext,
    PreToolContext,
    Rollback,
)
from support.host import alive, descendants, descriptors, wait_until

pytestmark = pytest.mark.anyio

SHELL = PreToolContext(
    code="make clean", language="bash", agent_id="ada", vm_id="vm-1", execution_id="exec-1"
)
PYTHON = SHELL.model_copy(update={"language": "python", "code": "print(1)"})
AFTER = PostToolContext(
    original_code="cat note",
    language="bash",
    stdout="out",
    stderr="err",
    exit_code=3,
    duration_ms=5,
    agent_id="ada",
    vm_id="vm-1",
)

# A guard as they are written for Claude Code: JSON in, exit status 2 and stderr to block.
BLOCK_BY_STATUS = """\
import json, re, sys

told = json.load(sys.stdin)
if told.get("tool_name") != "Bash":
    sys.exit(0)
command = told.get("tool_input", {}).get("command", "")
rules = [(r"\\bgrep\\b(?!.*\\|)", "Use rg instead of grep"), (r"\\bclean\\b", "Keep it")]
for pattern, why in rules:
    if re.search(pattern, command):
        print(why, file=sys.stderr)
        sys.exit(2)
"""
# The other kind: a decision in JSON.
DECIDE_BY_JSON = """\
import json, sys

told = json.load(sys.stdin)
assert told["hook_event_name"] == "PreToolUse"
command = told["tool_input"]["command"]
answer = {"hookEventName": "PreToolUse"}
if "drop table" in command:
    answer |= {"permissionDecision": "deny", "permissionDecisionReason": "not that table"}
elif "push" in command:
    answer |= {"permissionDecision": "ask", "permissionDecisionReason": "push to the remote?"}
elif command.startswith("npm "):
    answer |= {"permissionDecision": "allow",
               "updatedInput": {"command": command.replace("npm ", "pnpm ", 1)}}
else:
    answer |= {"permissionDecision": "allow", "permissionDecisionReason": "harmless"}
json.dump({"hookSpecificOutput": answer}, sys.stdout)
"""
BLOCK_IN_SHELL = """\
#!/bin/sh
# blocks whatever mentions a production host
if grep -q 'prod\\.example' ; then
  echo 'production is off limits' >&2
  exit 2
fi
exit 0
"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], list[str]]:
    def write(text: str) -> list[str]:
        path = tmp_path / "guard"
        path.write_text(textwrap.dedent(text))
        if text.startswith("#!"):
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
            return [str(path)]
        return [sys.executable, "-I", "-S", str(path)]

    return write


async def judge(hook: CommandHook, context: Any) -> Outcome:
    manager = HookManager()
    manager.add_hook(hook)
    if isinstance(context, PreToolContext):
        return await manager.run_pre_tool(context)
    return await manager.run_post_tool(context)


def code(text: str) -> PreToolContext:
    return SHELL.model_copy(update={"code": text})


async def test_a_guard_that_blocks_by_exit_status(program: Any) -> None:
    hook = CommandHook("guard", program(BLOCK_BY_STATUS))
    assert (await judge(hook, SHELL)).decision == Block(reason="guard: Keep it")
    found = (await judge(hook, code("grep -r x ."))).decision
    assert found == Block(reason="guard: Use rg instead of grep")
    assert (await judge(hook, code("make"))).decision == Allow()
    assert (await judge(hook, PYTHON)).decision == Allow()


async def test_a_guard_that_decides_in_json(program: Any) -> None:
    hook = CommandHook("guard", program(DECIDE_BY_JSON))
    denied = (await judge(hook, code("psql -c 'drop table x'"))).decision
    assert denied == Block(reason="guard: not that table")
    asked = (await judge(hook, code("git push"))).decision
    assert asked == AskUser(prompt="guard: push to the remote?")
    outcome = await judge(hook, code("npm test"))
    assert outcome.decision == Modify(transformed_code="pnpm test")
    assert [v.decision for v in outcome.verdicts] == ["modify", "allow"]
    outcome = await judge(hook, SHELL)
    assert (outcome.decision, outcome.verdicts[0].reason) == (Allow(), "harmless")
    assert "exit status 1" in (await judge(hook, PYTHON)).decision.reason  # it knows no Python


async def test_a_guard_in_shell(program: Any) -> None:
    hook = CommandHook("guard", program(BLOCK_IN_SHELL))
    found = await judge(hook, code("ssh db.prod.example"))
    assert found.decision == Block(reason="guard: production is off limits")
    assert (await judge(hook, SHELL)).decision == Allow()


async def test_what_a_program_is_told(program: Any, tmp_path: Path) -> None:
    copy = program("import shutil, sys; shutil.copyfileobj(sys.stdin, open(sys.argv[1], 'w'))")
    seen = tmp_path / "seen"
    hook = CommandHook("guard", [*copy, str(seen)], events=["PreToolUse", "PostToolUse"])
    await judge(hook, SHELL)
    told = json.loads(seen.read_text())
    assert {name: told[name] for name in ("hook_event_name", "tool_name", "tool_input", "cwd")} == {
        "hook_event_name": "PreToolUse",
        "tool_name": "Bash",
        "tool_input": {"command": "make clean"},
        "cwd": "/workspace",
    }
    assert (told["agent_id"], told["vm_id"], told["tool_use_id"]) == ("ada", "vm-1", "exec-1")
    await judge(hook, PYTHON)
    told = json.loads(seen.read_text())
    assert told["tool_name"] == "mcp__mulligan__execute"
    assert told["tool_input"] == {"language": "python", "code": "print(1)"}
    await judge(hook, AFTER.model_copy(update={"stdout": "x" * 10**6}))
    told = json.loads(seen.read_text())
    response = told["tool_response"]
    assert (told["hook_event_name"], len(response["stdout"])) == ("PostToolUse", 10**6)
    assert (response["stderr"], response["exit_code"], response["interrupted"]) == ("err", 3, False)


async def test_it_is_asked_only_about_its_events_and_languages(program: Any) -> None:
    hook = CommandHook("guard", program("raise SystemExit(2)"), languages=["bash"])
    outcome = await judge(hook, PYTHON)
    assert (outcome.decision, outcome.verdicts[0].reason) == (
        Allow(),
        "not asked about this language",
    )
    assert (await judge(hook, AFTER)).verdicts == ()
    assert isinstance((await judge(hook, SHELL)).decision, Block)


async def test_after_an_execution(program: Any) -> None:
    def says(answer: dict) -> CommandHook:
        text = f"print({json.dumps(json.dumps(answer))})"
        return CommandHook("guard", program(text), events=["PostToolUse"])

    outcome = await judge(says({"decision": "block", "reason": "leaks"}), AFTER)
    assert outcome.decision == Block(reason="guard: leaks")
    assert outcome.final == ExecutionOutput(error="Output withheld: guard: leaks")
    specific = {"hookEventName": "PostToolUse", "updatedToolOutput": {"stdout": "*"}}
    outcome = await judge(says({"hookSpecificOutput": specific}), AFTER)
    assert outcome.final == ExecutionOutput(stdout="*", stderr="err")
    specific = {"updatedMCPToolOutput": "nothing to see"}
    outcome = await judge(says({"hookSpecificOutput": specific}), AFTER)
    assert outcome.final == ExecutionOutput(stdout="nothing to see")
    outcome = await judge(says({"decision": "rollback", "reason": "broke it"}), AFTER)
    assert outcome.decision == Rollback(reason="guard: broke it")
    outcome = await judge(says({"systemMessage": "seen"}), AFTER)
    assert (outcome.decision, outcome.verdicts[0].reason) == (Allow(), "seen")


MISBEHAVING = [
    ("exit status 1", "import sys; print('careful', file=sys.stderr); sys.exit(1)"),
    ("exit status 3", "raise SystemExit(3)"),
    ("signal 9", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
    ("is no JSON", "print('looks fine to me')"),
    ("but no object", "print('true')"),
    ("there is no field permissionDecision", 'print(\'{"permissionDecision": "deny"}\')'),
    ("a key is there twice", 'print(\'{"decision": "block", "decision": "approve"}\')'),
    ("wrote more than 1000 bytes", "print('{}' + ' ' * 10**7)"),
    ("wrote more than 1000 bytes", "import sys; sys.stderr.write('e' * 5000)"),
    ("exceeded its time of 1000 ms", "import time; time.sleep(3600)"),
]


@pytest.mark.parametrize(("reason", "text"), MISBEHAVING)
async def test_a_program_that_misbehaves_blocks(program: Any, reason: str, text: str) -> None:
    others = descendants(os.getpid())
    slow = 1000 if "time" in reason else 60_000
    hook = CommandHook("guard", program(text), timeout_ms=slow, output_limit=1000)
    before = descriptors()
    outcome = await judge(hook, SHELL)
    assert isinstance(outcome.decision, Block)
    assert reason in outcome.decision.reason
    assert not descendants(os.getpid()) - others
    assert descriptors() == before


@pytest.mark.parametrize("command", [["/nowhere/guard"], ["no-such-guard"], ["/etc/hostname"]])
async def test_a_program_that_cannot_be_started_blocks(command: list[str]) -> None:
    before = descriptors()
    outcome = await judge(CommandHook("guard", command), SHELL)
    assert f"cannot be started: {command[0]}" in outcome.decision.reason
    assert descriptors() == before


# What a program started stays with it: a child in its group, one in a session of its own whose
# parent is gone, and one that keeps the output open.
LEAVES = """\
#!/bin/bash
sleep 3600 &
echo $! >> {pids}
setsid bash -c '(sleep 3600 > /dev/null 2>&1 & echo $! >> {pids}) & sleep 3600' > /dev/null 2>&1 &
while [ $(wc -l < {pids}) -lt 2 ]; do :; done
{then}
"""


@pytest.mark.parametrize("then", ["exit 0", "sleep 3600"])
async def test_nothing_of_a_program_is_left(program: Any, tmp_path: Path, then: str) -> None:
    others = descendants(os.getpid())
    pids = tmp_path / "pids"
    pids.touch()
    hook = CommandHook("guard", program(LEAVES.format(pids=pids, then=then)), timeout_ms=3000)
    outcome = await judge(hook, SHELL)
    assert isinstance(outcome.decision, Allow if then == "exit 0" else Block)
    left = {int(line) for line in pids.read_text().split()}
    assert len(left) == 2
    assert wait_until(lambda: not alive(left))
    assert not descendants(os.getpid()) - others


async def test_who_cancels_the_caller_ends_the_program(program: Any, tmp_path: Path) -> None:
    others = descendants(os.getpid())
    pid = tmp_path / "pid"
    text = f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; sleep 3600"
    task = asyncio.create_task(judge(CommandHook("guard", program(text)), SHELL))
    while not pid.exists():
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive({int(pid.read_text())})
    assert not descendants(os.getpid()) - others


async def test_a_program_sees_no_secrets_of_ours(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULLIGAN_DATABASE_URL", "made-up-password")
    monkeypatch.setenv("SOME_API_KEY", "made-up-key")
    monkeypatch.setenv("GUARD_TOKEN", "for-the-guard")
    seen = tmp_path / "seen"
    text = f"import json, os; json.dump(dict(os.environ), open({str(seen)!r}, 'w'))"
    hook = CommandHook("guard", program(text), env={"LEVEL": "2"}, pass_env=["GUARD_TOKEN"])
    assert (await judge(hook, SHELL)).decision == Allow()
    env = json.loads(seen.read_text())
    assert (env["LEVEL"], env["GUARD_TOKEN"]) == ("2", "for-the-guard")
    assert "made-up" not in json.dumps(env)
    assert set(env) - {"LEVEL", "GUARD_TOKEN", CALL_VARIABLE, "LC_CTYPE"} <= set(os.environ)


async def test_programs_at_once(program: Any) -> None:
    hook = CommandHook("guard", program(BLOCK_BY_STATUS))
    contexts = [code(f"make {n}" if n % 2 else "clean") for n in range(10)]
    manager = HookManager()
    manager.add_hook(hook)
    done = await asyncio.gather(*(manager.run_pre_tool(each) for each in contexts))
    assert [type(each.decision) for each in done] == [Block, Allow] * 5


def pre(answer: object, context: PreToolContext = SHELL) -> Any:
    return exchange.pre_decision(context, Ended(0, json.dumps(answer).encode(), b""))


def specific(**values: object) -> dict:
    return {"hookSpecificOutput": {"hookEventName": "PreToolUse"} | values}


@pytest.mark.parametrize(
    ("answer", "decision"),
    [
        ({}, Allow()),
        ({"continue": True, "suppressOutput": True}, Allow()),
        ({"decision": "approve", "reason": "r"}, Allow(reason="r")),
        ({"decision": "block", "reason": "r"}, Block(reason="r")),
        ({"continue": False, "stopReason": "r"}, Block(reason="r")),
        ({"decision": "block", **specific(permissionDecision="allow")}, "denied"),
        ({"decision": "approve", **specific(permissionDecision="ask")}, "person"),
        (specific(permissionDecision="defer"), "person"),
        (specific(additionalContext="c"), Allow()),
        (specific(updatedInput={"command": "make clean"}), Allow()),
        (specific(updatedInput={"command": "x"}), Modify(transformed_code="x")),
        (specific(updatedInput={"command": "x", "description": "d"}), Modify(transformed_code="x")),
        (specific(permissionDecision="deny", updatedInput={"command": "x"}), "denied"),
        (
            specific(permissionDecision="ask", updatedInput={"command": "x"}),
            Modify(transformed_code="x"),
        ),
    ],
)
def test_answers_before_an_execution(answer: dict, decision: object) -> None:
    found = pre(answer)
    if isinstance(decision, str):
        assert isinstance(found, Block if decision == "denied" else AskUser)
        assert decision in str(found)
    else:
        assert found == decision


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"decision": "maybe"}, "no decision 'maybe'"),
        ({"decision": "rollback"}, "nothing to roll back"),
        ({"decision": True}, "decision is no str"),
        ({"continue": "no"}, "continue is no bool"),
        ({"hookSpecificOuput": {"permissionDecision": "deny"}}, "no field hookSpecificOuput"),
        ({"hookSpecificOutput": []}, "hookSpecificOutput is no dict"),
        (
            {"hookSpecificOutput": {"hookEventName": "PostToolUse"}},
            "hookEventName is 'PostToolUse'",
        ),
        (specific(permissionDecision="Deny"), "no decision 'Deny'"),
        (specific(permisionDecision="deny"), "no field hookSpecificOutput.permisionDecision"),
        (specific(updatedInput={}), "has no text command"),
        (specific(updatedInput={"command": 5}), "has no text command"),
        (specific(updatedInput={"command": "x", "timeout": 5}), "timeout cannot be changed"),
        (specific(updatedInput="x"), "updatedInput is no dict"),
        (specific(updatedToolOutput="x"), "no field hookSpecificOutput.updatedToolOutput"),
    ],
)
def test_unclear_answers_before_an_execution(answer: dict, why: str) -> None:
    with pytest.raises(CallFailed, match="gave no clear answer") as caught:
        pre(answer)
    assert why in str(caught.value)


def test_the_language_of_other_code_stays() -> None:
    changed = pre(specific(updatedInput={"code": "print(2)", "language": "python"}), PYTHON)
    assert changed == Modify(transformed_code="print(2)")
    with pytest.raises(CallFailed, match="language cannot be changed"):
        pre(specific(updatedInput={"code": "ls", "language": "bash"}), PYTHON)


fields = st.sampled_from(
    [
        *("continue", "stopReason", "decision", "reason", "hookSpecificOutput", "systemMessage"),
        *("hookEventName", "permissionDecision", "updatedInput", "updatedToolOutput", "command"),
        *("stdout", "error", "results", "x"),
    ]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(fields, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(fields, anything, max_size=4) | anything, st.binary(max_size=20))
def test_no_answer_is_a_surprise(answer: object, noise: bytes) -> None:
    for status, stdout in ((0, json.dumps(answer).encode()), (0, noise), (2, noise)):
        for decide, context in (
            (exchange.pre_decision, SHELL),
            (exchange.post_decision, AFTER),
        ):
            try:
                found = decide(context, Ended(status, stdout, noise))
            except CallFailed:
                continue
            assert isinstance(found, Allow | AskUser | Block | Modify | ModifyOutput | Rollback)


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**5, "1" * 10**6, "NaN", '{"a": NaN}'])
def test_pathological_json(text: str) -> None:
    with pytest.raises(CallFailed):
        exchange.pre_decision(SHELL, Ended(0, text.encode(), b""))
