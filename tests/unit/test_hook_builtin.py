"""The hooks that come along, and the settings that choose and order them."""

import ast
import json
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.errors import ConfigError
from mulligan.hooks.build import build, standard
from mulligan.hooks.builtin import (
    DangerousPatternHook,
    ExecutionLoggerHook,
    OutputSanitizerHook,
    SyntaxValidationHook,
)
from mulligan.hooks.injector import DependencyInjectorHook
from mulligan.hooks.manager import HookManager
from mulligan.models import DisplayData
from mulligan.models.hooks import (
    Allow,
    AskUser,
    Block,
    ExecutionOutput,
    Modify,
    ModifyOutput,
    PostToolContext,
    PreToolContext,
)
from mulligan.settings import ApprovalSettings, HookCommand, HookSettings, load

pytestmark = pytest.mark.anyio

BEFORE = PreToolContext(code="x = 1", language="python", agent_id="ada", vm_id="vm-1")
AFTER = PostToolContext(
    original_code="x = 1", exit_code=0, duration_ms=5, agent_id="ada", vm_id="vm-1"
)


@dataclass(frozen=True)
class Problem:
    line: int
    column: int
    message: str


@dataclass(frozen=True)
class Finding:
    rule: str
    decision: str
    reason: str
    line: int
    column: int
    excerpt: str


def check_syntax(code: str, language: str, _cell: bool) -> list[Problem]:
    """Python's own opinion; other languages are always well formed here."""
    if language != "python":
        return []
    try:
        ast.parse(code)
    except SyntaxError as error:
        return [Problem(error.lineno or 1, error.offset or 1, error.msg)] * 2
    return []


RULES = {"wipe": ("block", "wipes a directory", r"rm -rf"), "push": ("ask", "publishes", r"push")}


def load_rules(changes: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    if set(changes) - {"off"}:
        raise ConfigError("no such change", field="hooks.dangerous")
    return {name: rule for name, rule in RULES.items() if name not in changes.get("off", [])}


def judge(code: str, language: str, rules: dict[str, tuple[str, str, str]]) -> list[Finding]:
    return [
        Finding(name, decision, reason, 1, match.start() + 1, match[0])
        for name, (decision, reason, pattern) in rules.items()
        for match in re.finditer(pattern, code)
    ]


def redact(_agent_id: str, text: str, truncated: bool) -> str:
    least = 0 if truncated else 8
    return re.sub(rf"tok_(?:[0-9a-f]{{8}}|[0-9a-f]{{{least},8}}\Z)", "[redacted]", text)


MAKERS = standard(
    check_syntax=check_syntax,
    syntax_is_known=lambda *_: False,
    load_rules=load_rules,
    judge=judge,
    redact=redact,
)
TOKEN = "tok_" + "0123abcd"


def code(text: str, language: str = "python") -> PreToolContext:
    return BEFORE.model_copy(update={"code": text, "language": language})


def test_syntax_names_line_and_column() -> None:
    hook = SyntaxValidationHook(check_syntax, lambda *_: False)
    assert hook.pre_tool(BEFORE) == Allow()
    assert hook.pre_tool(code("x =\n")) == Block(
        reason="line 1, column 4: invalid syntax (and 1 more)"
    )
    assert hook.pre_tool(code(" \n")) == Block(reason="Code cannot be empty")


def test_danger_names_the_rule_and_the_place() -> None:
    hook = DangerousPatternHook(lambda text, language: judge(text, language, RULES))
    assert hook.pre_tool(code("ls", "bash")) == Allow()
    assert hook.pre_tool(code("git push", "bash")) == AskUser(
        prompt="push: publishes (line 1, column 5: push)"
    )
    found = hook.pre_tool(code("git push; " + "rm -rf /x; " * 7, "bash"))
    assert isinstance(found, Block)
    assert found.reason.startswith("wipe: wipes a directory (line 1, column 11: rm -rf); wipe:")
    assert found.reason.endswith("; and 2 more")


@pytest.mark.parametrize(
    ("env", "blocked"),
    [
        ({"BASH_ENV": "$(rm -rf /x)"}, True),
        ({"PS4": "`rm -rf /x`"}, True),
        ({"ENV": "/workspace/rm -rf /x"}, False),
        ({"NODE_OPTIONS": "--import data:text/javascript,rm%20-rf%20/x"}, True),
        ({"NODE_OPTIONS": "--import=data:text/javascript;base64,cm0gLXJmIC94"}, True),
        ({"NODE_OPTIONS": "--max-old-space-size=100"}, False),
        ({"NOTE": "$(rm -rf /x)"}, False),
    ],
)
def test_what_variables_have_interpreters_run_is_judged(env, blocked) -> None:
    hook = DangerousPatternHook(lambda text, language: judge(text, language, RULES))
    decision = hook.pre_tool(code("ls", "bash").model_copy(update={"env": env}))
    assert isinstance(decision, Block) == blocked


async def test_a_rule_that_decides_nonsense_blocks() -> None:
    manager = HookManager()
    odd = Finding("odd", "shrug", "", 1, 1, "")
    manager.add_hook(DangerousPatternHook(lambda *_: [odd]))
    decision = (await manager.run_pre_tool(BEFORE)).decision
    assert "rule odd decides 'shrug'" in decision.reason


def test_secrets_are_taken_out_of_every_text() -> None:
    hook = OutputSanitizerHook(redact)
    clean = AFTER.model_copy(update={"stdout": "token: none", "error": None})
    assert hook.post_tool(clean) == Allow()
    texts = dict.fromkeys(("stdout", "stderr", "error", "result"), f"<{TOKEN}>")
    shown = [DisplayData(mime_type="image/png", data=TOKEN)]
    full = AFTER.model_copy(update={**texts, "results": shown})
    found = hook.post_tool(full)
    assert isinstance(found, ModifyOutput)
    assert TOKEN not in found.model_dump_json()
    assert found.output == ExecutionOutput(
        **dict.fromkeys(texts, "<[redacted]>"),
        results=[DisplayData(mime_type="image/png", data="[redacted]")],
    )
    assert found.reason == "secrets in stdout, stderr, error, result, results"
    cut = AFTER.model_copy(update={"stdout": f"<{TOKEN[:7]}", "error": TOKEN[:7]})
    assert hook.post_tool(cut) == Allow()
    found_cut = hook.post_tool(cut.model_copy(update={"truncated": True}))
    assert found_cut.output == ExecutionOutput(stdout="<[redacted]", error=TOKEN[:7])
    blocked = OutputSanitizerHook(redact, "block").post_tool(full)
    assert isinstance(blocked, Block)
    assert TOKEN not in blocked.reason
    with pytest.raises(ConfigError, match="no mode 'off'"):
        OutputSanitizerHook(redact, "off")  # type: ignore[arg-type]


async def test_the_logger_logs_neither_code_nor_output(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mulligan")
    manager = HookManager()
    manager.add_hook(ExecutionLoggerHook())
    await manager.run_pre_tool(BEFORE)
    await manager.run_post_tool(AFTER.model_copy(update={"stdout": TOKEN}))
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    events = [(line["event"], line["decision"], line["vm_id"]) for line in lines]
    assert events == [
        ("execution_judged", "Allow", "vm-1"),
        ("execution_completed", "Allow", "vm-1"),
    ]
    assert TOKEN not in caplog.text
    assert "x = 1" not in caplog.text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("print(os.getcwd())\n", "import os\nprint(os.getcwd())\n"),
        (
            '#!/usr/bin/env python3\n"""Doc."""\nfrom __future__ import annotations\n\n'
            "sys.exit(math.pi)",
            '#!/usr/bin/env python3\n"""Doc."""\nfrom __future__ import annotations\n\n'
            "import math, sys\nsys.exit(math.pi)",
        ),
        (
            "def f():\n    return json.loads('1')\n",
            "import json\ndef f():\n    return json.loads('1')\n",
        ),
    ],
)
async def test_forgotten_imports_are_added_once(before: str, after: str) -> None:
    manager = HookManager()
    manager.add_hook(DependencyInjectorHook())
    outcome = await manager.run_pre_tool(code(before))
    assert outcome.decision == Modify(transformed_code=after)
    assert ast.parse(after)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("import os\nos.getcwd()", "python"),
        ("import os as o, sys\nsys.exit(o)", "python"),
        ("from datetime import datetime as time\ntime.now()", "python"),
        ("def f(os):\n    os.x()", "python"),
        ("for re in []:\n    re.x", "python"),
        ("json = 1\njson.x", "python"),
        ("self.os.path", "python"),
        ("# os.getcwd()\n'os.path'", "python"),
        ("os.getcwd(", "python"),
        ("  x\n os.getcwd()", "python"),
        ("os.cpus()", "javascript"),
        ("", "python"),
    ],
)
def test_other_programs_are_left_alone(text: str, language: str) -> None:
    assert DependencyInjectorHook().pre_tool(code(text, language)) == Allow()


@given(st.text(st.sampled_from("os.re\n'\"\\ ()=#:\tf{}"), max_size=40))
def test_what_was_python_stays_python(text: str) -> None:
    found = DependencyInjectorHook().pre_tool(code(text))
    if isinstance(found, Allow):
        return
    try:
        compile(text, "before", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return
    compile(found.transformed_code, "after", "exec", dont_inherit=True)
    assert DependencyInjectorHook().pre_tool(code(found.transformed_code)) == Allow()


def names(settings: HookSettings) -> list[str]:
    return [each.name for each in build(settings, MAKERS).describe()]


GUARD = HookCommand(command=[sys.executable, "-c", "raise SystemExit(2)"])


def test_the_order_of_the_settings() -> None:
    usual = ["dangerous_pattern", "syntax_validation", "output_sanitizer", "execution_logger"]
    assert names(HookSettings()) == usual
    assert names(HookSettings(commands={"guard": GUARD})) == [*usual[:3], "guard", usual[3]]
    order = ["guard", "dependency_injector", "dangerous_pattern"]
    assert names(HookSettings(order=order, commands={"guard": GUARD})) == order
    assert names(HookSettings(sanitizer="off")) == [usual[0], usual[1], usual[3]]
    assert names(HookSettings(enabled=False, commands={"guard": GUARD})) == []


@pytest.mark.parametrize("name", ["hooks", "approvals"])
def test_the_documented_settings_are_some(name: str, monkeypatch, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / f"docs/{name}.md").read_text()
    (block,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "some.toml").write_text(block)
    monkeypatch.setenv("MULLIGAN_CONFIG", str(tmp_path / "some.toml"))
    loaded = load()
    if name == "hooks":
        assert names(loaded.hooks.model_copy(update={"dangerous": {}})) == loaded.hooks.order
    else:
        assert loaded.approvals == ApprovalSettings()


@pytest.mark.parametrize(
    ("settings", "field", "text"),
    [
        (HookSettings(order=["gaurd"]), "hooks.order", "there is no hook 'gaurd'"),
        (
            HookSettings(order=["dangerous_pattern"] * 2),
            "hooks",
            "there is a hook 'dangerous_pattern' already",
        ),
        (HookSettings(order=[], commands={"guard": GUARD}), "hooks.order", "would never run"),
        (
            HookSettings(commands={"execution_logger": GUARD}),
            "hooks.commands.execution_logger",
            "name of a built-in",
        ),
        (HookSettings(dangerous={"x": 1}), "hooks.dangerous", "no such change"),
    ],
)
def test_settings_that_are_wrong(settings: HookSettings, field: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        build(settings, MAKERS)
    assert caught.value.field == field
    assert caught.value.remedy is not None or field == "hooks.dangerous"


async def test_the_whole_chain() -> None:
    settings = HookSettings(
        commands={"guard": HookCommand(**{**dict(GUARD), "languages": ["bash"]})}
    )
    manager = build(settings, MAKERS)
    outcome = await manager.run_pre_tool(BEFORE)
    assert [(v.hook, v.decision) for v in outcome.verdicts] == [
        ("dangerous_pattern", "allow"),
        ("syntax_validation", "allow"),
        ("guard", "allow"),
        ("execution_logger", "observe"),
    ]
    outcome = await manager.run_pre_tool(code("true", "bash"))
    assert outcome.decision == Block(reason="guard: exit status 2, with nothing on stderr")
    outcome = await manager.run_pre_tool(code("rm -rf x; git push", "bash"))
    assert outcome.decision.reason.startswith("dangerous_pattern: wipe")
    relaxed = build(HookSettings(dangerous={"off": ["wipe"]}), MAKERS)
    outcome = await relaxed.run_pre_tool(code("rm -rf x; git push", "bash"))
    assert isinstance(outcome.decision, AskUser)
    after = await manager.run_post_tool(AFTER.model_copy(update={"stdout": TOKEN}))
    assert after.final.stdout == "[redacted]"
    assert [(v.hook, v.decision, v.stage) for v in after.verdicts] == [
        ("output_sanitizer", "modify", "post_tool"),
        ("output_sanitizer", "allow", "post_tool"),
        ("execution_logger", "observe", "post_tool"),
    ]
