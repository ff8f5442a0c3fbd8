"""What a hook command reads and writes: the JSON of Claude Code's PreToolUse and PostToolUse hooks.

Source: https://docs.claude.com/en/docs/claude-code/hooks (input, output, exit codes). There, what
is unclear lets the tool run; here it blocks: any exit status but 0 and 2, output that is no JSON
object, a field nobody knows or of another type, a decision there is none of.

Bash is shown as the tool ``Bash`` with ``tool_input.command``, as existing guards know it; other
languages as ``mcp__mulligan__execute`` with ``tool_input.language`` and ``.code``. Additions to the
format, after an execution: ``decision: "rollback"``, and ``permissionDecision`` as before one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from mulligan.hooks.calls import CallFailed
from mulligan.hooks.program import Ended
from mulligan.models.hooks import (
    OUTPUT_FIELDS,
    Allow,
    AskUser,
    Block,
    ExecutionOutput,
    HookDecision,
    Modify,
    ModifyOutput,
    PostToolContext,
    PreToolContext,
    Rollback,
)

PRE, POST = "PreToolUse", "PostToolUse"
SHELL_TOOL = "Bash"
OTHER_TOOL = "mcp__mulligan__execute"
BLOCKED = 2  # exit status
_WORKSPACE = "/workspace"
_COMMON: dict[str, type] = {
    "continue": bool,
    "stopReason": str,
    "suppressOutput": bool,
    "systemMessage": str,
    "decision": str,
    "reason": str,
    "hookSpecificOutput": dict,
}
_PERMISSION: dict[str, type] = {
    "hookEventName": str,
    "permissionDecision": str,
    "permissionDecisionReason": str,
    "additionalContext": str,
}
_SPECIFIC: dict[str, dict[str, type]] = {
    PRE: {**_PERMISSION, "updatedInput": dict},
    POST: {**_PERMISSION, "updatedToolOutput": object, "updatedMCPToolOutput": object},
}
_DECISIONS = {
    "approve": "allow",
    "allow": "allow",
    "block": "deny",
    "deny": "deny",
    "ask": "ask",
    "defer": "ask",  # to a person
    "rollback": "rollback",
}
_STRENGTH = ("allow", "rollback", "ask", "deny")


def pre_input(context: PreToolContext) -> dict[str, Any]:
    """What a command is told before an execution."""
    given = {"stdin": context.stdin, "requirements": list(context.requirements)}
    return _common(context, PRE, context.code) | given


def post_input(context: PostToolContext) -> dict[str, Any]:
    """What a command is told after an execution."""
    told = _common(context, POST, context.original_code)
    return {**told, "tool_response": _response(context)}


def pre_decision(context: PreToolContext, ended: Ended) -> HookDecision:
    """What a command's answer says before an execution.

    Raises:
        CallFailed: it says nothing clear.
    """
    answer = _answer(ended)
    if isinstance(answer, Block):
        return answer
    said, reason, specific = _read(answer, PRE)
    if said == "rollback":
        _unclear("there is nothing to roll back before an execution")
    if said == "deny":
        return Block(reason=reason or "denied, with no reason given")
    code = _new_code(context, specific.get("updatedInput"))
    if code != context.code:  # and a question, if there was one, is asked of the new text
        return Modify(transformed_code=code, reason=reason)
    if said == "ask":
        return AskUser(prompt=reason or "a hook wants a person to look at this")
    return Allow(reason=reason)


def post_decision(context: PostToolContext, ended: Ended) -> HookDecision:
    """What a command's answer says after an execution.

    Raises:
        CallFailed: it says nothing clear.
    """
    answer = _answer(ended)
    if isinstance(answer, Block):
        return answer
    said, reason, specific = _read(answer, POST)
    if said == "deny":
        return Block(reason=reason or "blocked, with no reason given")
    output = _new_output(context, specific)
    if output != context.texts:
        if said == "rollback":
            _unclear("a rollback and another output in one answer")
        return ModifyOutput(output=output, reason=reason)
    if said == "ask":
        return AskUser(prompt=reason or "a hook wants a person to look at this output")
    if said == "rollback":
        return Rollback(reason=reason or "no reason given")
    return Allow(reason=reason)


def _common(context: PreToolContext | PostToolContext, event: str, code: str) -> dict[str, Any]:
    return {
        "session_id": context.agent_id,
        "transcript_path": "",
        "cwd": context.working_dir or _WORKSPACE,
        "permission_mode": "default",
        "hook_event_name": event,
        "tool_name": SHELL_TOOL if context.language == "bash" else OTHER_TOOL,
        "tool_input": _input(context.language, code),
        "tool_use_id": context.execution_id or "",
        "agent_id": context.agent_id,
        "vm_id": context.vm_id,
        "metadata": dict(context.metadata),
    }


def _input(language: str, code: str) -> dict[str, str]:
    return {"command": code} if language == "bash" else {"language": language, "code": code}


def _response(context: PostToolContext) -> dict[str, Any]:
    return {
        **context.texts.model_dump(),
        "interrupted": context.outcome in {"timeout", "cancelled"},
        "isImage": False,
        "exit_code": context.exit_code,
        "duration_ms": context.duration_ms,
        "outcome": context.outcome,
    }


def _answer(ended: Ended) -> dict[str, Any] | Block:
    """The JSON object a command wrote; an empty one where it wrote nothing."""
    if ended.status == BLOCKED:
        said = ended.stderr.decode(errors="replace").strip()
        return Block(reason=said or "exit status 2, with nothing on stderr")
    if ended.status != 0:
        last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
        how = f"signal {-ended.status}" if ended.status < 0 else f"exit status {ended.status}"
        _unclear(f"{how}{': ' if last else ''}{''.join(last)[:300]}")
    try:
        text = ended.stdout.decode()
        answer = json.loads(text, object_pairs_hook=_object) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        _unclear(f"its stdout is no JSON ({str(error)[:200]}); print nothing to allow")
    if not isinstance(answer, dict):
        _unclear("its stdout is JSON, but no object")
    return answer


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    return made


def _read(answer: dict[str, Any], event: str) -> tuple[str, str | None, dict[str, Any]]:
    """(decision, reason, what is the event's own) of an answer; the strongest of its decisions."""
    _check(answer, _COMMON, "")
    specific = answer.get("hookSpecificOutput") or {}
    _check(specific, _SPECIFIC[event], "hookSpecificOutput.")
    if specific.get("hookEventName") not in (None, event):
        _unclear(f"hookEventName is {specific['hookEventName']!r:.50}, not {event}")
    said: list[tuple[str, str | None]] = [("allow", answer.get("systemMessage"))]
    if answer.get("continue") is False:
        said.append(("deny", answer.get("stopReason")))
    for value, reason in (
        (answer.get("decision"), answer.get("reason")),
        (specific.get("permissionDecision"), specific.get("permissionDecisionReason")),
    ):
        if value is None:
            continue
        if value not in _DECISIONS:
            _unclear(f"there is no decision {value!r:.50}")
        said.append((_DECISIONS[value], reason))
    said.sort(key=lambda each: _STRENGTH.index(each[0]))
    decision, reason = said[-1]
    return decision, reason, specific


def _check(answer: Mapping[str, Any], known: Mapping[str, type], where: str) -> None:
    for name, value in answer.items():
        kind = known.get(name)
        if kind is None:
            _unclear(f"there is no field {where}{name[:50]}")
        if value is not None and not isinstance(value, kind):
            _unclear(f"{where}{name} is no {kind.__name__}")


def _new_code(context: PreToolContext, updated: dict[str, Any] | None) -> str:
    """The code of an ``updatedInput``, which changes nothing else."""
    if updated is None:
        return context.code
    shown = _input(context.language, context.code)
    key = "command" if context.language == "bash" else "code"
    for name, value in updated.items():
        if name not in {key, "description"} and shown.get(name) != value:
            _unclear(f"updatedInput.{name[:50]} cannot be changed")
    code = updated.get(key)
    if not isinstance(code, str):
        _unclear(f"updatedInput has no text {key}")
    return code


def _new_output(context: PostToolContext, specific: dict[str, Any]) -> ExecutionOutput:
    """The texts of an ``updatedToolOutput``: a text is all that goes back."""
    given = [
        specific[name]
        for name in ("updatedToolOutput", "updatedMCPToolOutput")
        if specific.get(name) is not None
    ]
    if not given:
        return context.texts
    if len(given) > 1 and given[0] != given[1]:
        _unclear("updatedToolOutput and updatedMCPToolOutput differ")
    if isinstance(given[0], str):
        return ExecutionOutput(stdout=given[0])
    if not isinstance(given[0], dict):
        _unclear("updatedToolOutput is neither a text nor an object")
    shown = _response(context)
    for name, value in given[0].items():
        if name not in OUTPUT_FIELDS and shown.get(name, _MISSING) != value:
            _unclear(f"updatedToolOutput.{name[:50]} cannot be changed")
    texts = {name: given[0].get(name, shown[name]) for name in OUTPUT_FIELDS}
    try:
        return ExecutionOutput.model_validate(texts)
    except ValueError:
        _unclear("updatedToolOutput has fields of other types than it was shown")


_MISSING = object()


def _unclear(why: str) -> NoReturn:
    raise CallFailed(f"gave no clear answer: {why}")
