"""The hooks that come along, around functions that know syntax, danger and secrets."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Protocol
from urllib.parse import unquote

from mulligan.errors import ConfigError
from mulligan.hooks.interface import Hook
from mulligan.log import get_logger
from mulligan.models.hooks import (
    Allow,
    AskUser,
    Block,
    ExecutionOutput,
    HookDecision,
    ModifyOutput,
    PostToolContext,
    PreToolContext,
)

log = get_logger()

_MOST_SHOWN = 5
QUICK_CODE = 1000  # characters that are judged in a millisecond or so
QUICK_TEXT = 8000  # and that are searched for secrets


class Problem(Protocol):
    """A place where code is not what its language is; line and column from 1."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def message(self) -> str: ...


class Finding(Protocol):
    """A rule that code meets, and where; ``decision`` is "block", "ask" or "allow"."""

    @property
    def rule(self) -> str: ...
    @property
    def decision(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def excerpt(self) -> str: ...


class SyntaxValidationHook(Hook):
    """Blocks code that is none of its language.

    Args:
        check: the problems of (code, language, whether it is a cell of a kernel), none where it is
            well formed.
        is_known: whether it will know them at once.
    """

    name = "syntax_validation"

    def __init__(
        self,
        check: Callable[[str, str, bool], Sequence[Problem]],
        is_known: Callable[[str, str, bool], bool],
    ) -> None:
        self._check = check
        self._is_known = is_known

    def is_quick(self, context: object) -> bool:
        """Where the checker has just had the very same code."""
        assert isinstance(context, PreToolContext)
        return self._is_known(context.code, context.language, context.kernel is not None)

    def pre_tool(self, context: PreToolContext) -> HookDecision:
        """Blocks with the first problem's line and column."""
        if not context.code.strip():
            return Block(reason="Code cannot be empty")
        problems = self._check(context.code, context.language, context.kernel is not None)
        if not problems:
            return Allow()
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Block(reason=f"line {first.line}, column {first.column}: {first.message}{more}")


class DangerousPatternHook(Hook):
    """Blocks code that meets a dangerous pattern, or has a person asked.

    Args:
        judge: the findings of (code, language).
    """

    name = "dangerous_pattern"

    def __init__(self, judge: Callable[[str, str], Sequence[Finding]]) -> None:
        self._judge = judge

    def is_quick(self, context: object) -> bool:
        """Where there is little code."""
        assert isinstance(context, PreToolContext)
        return len(context.code) <= QUICK_CODE and not context.env

    def pre_tool(self, context: PreToolContext) -> HookDecision:
        """The strongest decision of all findings, naming rules and places."""
        findings = list(self._judge(context.code, context.language))
        for code, language in _run_from_variables(context.env):
            findings += self._judge(code, language)
        for finding in findings:
            if finding.decision not in {"block", "ask", "allow"}:
                raise ValueError(f"rule {finding.rule} decides {finding.decision!r:.50}")
        if blocking := [each for each in findings if each.decision == "block"]:
            return Block(reason=_places(blocking))
        if asking := [each for each in findings if each.decision == "ask"]:
            return AskUser(prompt=_places(asking))
        return Allow()


def _run_from_variables(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What interpreters run because a variable says so, as (code, language).

    Bash expands three variables, substitutions of commands included, before or while it runs a
    program; Node.js imports what its options name, also if that is a URL with the code in it.
    """
    for name in ("BASH_ENV", "ENV", "PS4"):
        if "$" in (value := env.get(name, "")) or "`" in value:
            yield f': "{value}"', "bash"
    for url in env.get("NODE_OPTIONS", "").split("data:")[1:]:
        kind, _, text = url.partition(",")
        code = unquote(text)
        if kind.endswith(";base64"):
            code = b64decode(code + "==", altchars=b"-_").decode("utf-8", "replace")
        yield code, "javascript"


def _places(findings: Sequence[Finding]) -> str:
    shown = [
        f"{each.rule}: {each.reason} (line {each.line}, column {each.column}: {each.excerpt})"
        for each in findings[:_MOST_SHOWN]
    ]
    more = len(findings) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


class OutputSanitizerHook(Hook):
    """Keeps secrets out of what goes back.

    Args:
        redact: of (agent, text, whether it was cut off at its end) the text with its secrets
            replaced by markers, which it leaves alone when it meets them again.
        mode: "redact": the text so changed goes back; "block": a text with a secret does not.

    Raises:
        ConfigError: there is no such mode. For "off" there is to be no hook.
    """

    name = "output_sanitizer"

    def __init__(
        self, redact: Callable[[str, str, bool], str], mode: Literal["redact", "block"] = "redact"
    ) -> None:
        if mode not in {"redact", "block"}:
            raise ConfigError(
                f"the sanitizer has no mode {mode!r}",
                field="hooks.sanitizer",
                remedy='use "redact" or "block"',
            )
        self._redact = redact
        self._mode = mode

    def is_quick(self, context: object) -> bool:
        """Where there is little text."""
        assert isinstance(context, PostToolContext)
        texts = context.texts
        size = len(texts.stdout) + len(texts.stderr) + len(texts.error or "")
        return size + len(texts.result or "") <= QUICK_TEXT and not texts.results

    def post_tool(self, context: PostToolContext) -> HookDecision:
        """ModifyOutput or Block where any text had a secret."""
        texts, agent_id = context.texts, context.agent_id

        def redact(text: str, truncated: bool = False) -> str:
            return self._redact(agent_id, text, truncated)

        clean = ExecutionOutput(
            stdout=redact(texts.stdout, context.truncated),
            stderr=redact(texts.stderr, context.truncated),
            error=None if texts.error is None else redact(texts.error),
            result=None if texts.result is None else redact(texts.result),
            results=[
                each.model_copy(
                    update={"data": redact(each.data), "mime_type": redact(each.mime_type)}
                )
                for each in texts.results  # of whatever type
            ],
        )
        changed = [name for name, text in clean if text != getattr(texts, name)]
        if not changed:
            return Allow()
        if self._mode == "block":
            return Block(reason=f"secrets in {', '.join(changed)}")
        return ModifyOutput(output=clean, reason=f"secrets in {', '.join(changed)}")


class ExecutionLoggerHook(Hook):
    """Writes executions into the log. It never logs code or output."""

    name = "execution_logger"
    observer = True

    def is_quick(self, context: object) -> bool:  # noqa: ARG002
        """Always."""
        return True

    async def pre_tool(self, context: PreToolContext) -> HookDecision:
        """What is about to run, or was refused."""
        log.info(
            "execution_judged",
            execution_id=context.execution_id,
            agent_id=context.agent_id,
            vm_id=context.vm_id,
            language=context.language,
            decision=type(context.decision).__name__,
        )
        return Allow()

    async def post_tool(self, context: PostToolContext) -> HookDecision:
        """What came of it."""
        log.info(
            "execution_completed",
            execution_id=context.execution_id,
            agent_id=context.agent_id,
            vm_id=context.vm_id,
            exit_code=context.exit_code,
            duration_ms=context.duration_ms,
            decision=type(context.decision).__name__,
        )
        return Allow()
