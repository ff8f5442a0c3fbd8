"""Runs hooks in order and makes one decision of theirs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from mulligan.errors import ConfigError
from mulligan.hooks.calls import CallFailed, Calls, described
from mulligan.hooks.interface import Hook, stages_of
from mulligan.log import get_logger
from mulligan.models.hooks import (
    Allow,
    AskUser,
    Block,
    ExecutionOutput,
    HookDecision,
    HookDescription,
    Modify,
    ModifyOutput,
    PostLlmContext,
    PostToolContext,
    PreLlmContext,
    PreToolContext,
    Rollback,
)
from mulligan.models.verdicts import Verdict

log = get_logger()

DEFAULT_TIMEOUT_MS = 5000
DEFAULT_ROUNDS = 5
_MOST_REASON = 2000

Text = TypeVar("Text", str, ExecutionOutput)


@dataclass(frozen=True)
class Outcome(Generic[Text]):
    """What all hooks of a stage came to.

    ``decision`` is the strongest on the final text: Block, AskUser, Rollback, Modify or
    ModifyOutput, Allow. ``final`` is the text as rewritten; after an execution, what may go back:
    withheld, with ``error`` saying why, where the decision is Block or AskUser. ``on_yes`` is what
    may go back if a person says yes. ``rollback`` is why a gate wants the VM taken back, whatever
    was decided about the text; None if none does.
    """

    decision: HookDecision
    final: Text
    on_yes: Text
    verdicts: tuple[Verdict, ...] = ()
    rollback: str | None = None


@dataclass(frozen=True)
class _Stage:
    """How a stage differs from the others."""

    name: str
    kinds: tuple[type, ...]
    text: Callable[[Any], Any]  # of a context
    changes: Callable[[Any], dict[str, Any]]  # to a context, for a new text
    rewritten: Callable[[Any], Any]  # of a decision to rewrite
    goes_on: bool = False  # after a block, to hear who wants a rollback


_WORDS = (Allow, Block, AskUser, Modify)
_PRE_TOOL = _Stage(
    "pre_tool", _WORDS, lambda c: c.code, lambda t: {"code": t}, lambda d: d.transformed_code
)
_PRE_LLM = _Stage(
    "pre_llm", _WORDS, lambda c: c.prompt, lambda t: {"prompt": t}, lambda d: d.transformed_code
)
_POST_LLM = _Stage(
    "post_llm",
    _WORDS,
    lambda c: c.response,
    lambda t: {"response": t},
    lambda d: d.transformed_code,
)
_POST_TOOL = _Stage(
    "post_tool",
    (Allow, Block, AskUser, ModifyOutput, Rollback),
    lambda c: c.texts,
    dict,
    lambda d: d.output,
    goes_on=True,
)
_NAMES = {
    Allow: "allow",
    Block: "block",
    Modify: "modify",
    ModifyOutput: "modify",
    AskUser: "ask",
    Rollback: "rollback",
}


@dataclass(frozen=True)
class _Entry:
    hook: Hook
    observer: bool
    seconds: float
    stages: tuple[str, ...]
    calls: Calls = field(default_factory=Calls)


@dataclass
class _Run:
    """One stage's judging, as far as it has come."""

    stage: _Stage
    text: Any
    judged: dict[str, Any] = field(default_factory=dict)  # the text each gate let be last
    decisions: dict[str, HookDecision] = field(default_factory=dict)  # and what it said of it
    verdicts: list[Verdict] = field(default_factory=list)
    block: str | None = None
    rollback: str | None = None

    def lets_be(self, name: str) -> bool:
        """Whether a gate has judged the text as it is, and left it so."""
        return name in self.judged and bool(self.judged[name] == self.text)

    def note(self, name: str, decision: HookDecision) -> None:
        """Takes in what a gate said of the text as it is."""
        self.decisions[name] = decision
        if isinstance(decision, Modify | ModifyOutput):
            self.judged.pop(name, None)  # should another bring that text back, it rewrites again
            self.text = self.stage.rewritten(decision)
            return
        self.judged[name] = self.text
        if isinstance(decision, Block):
            self.block = self.block or f"{name}: {decision.reason[:_MOST_REASON]}"
        elif isinstance(decision, Rollback):
            self.rollback = self.rollback or f"{name}: {decision.reason[:_MOST_REASON]}"


class HookManager:
    """Hooks in their order.

    Gates run one after the other, each on the text the ones before it left. After a rewrite every
    gate judges the final text again, until all have; a rewrite that does not settle within
    ``max_rounds`` rounds blocks. A gate that raises, exceeds its time or returns what is no
    decision of that stage blocks. Observers run afterwards, all at once.

    Args:
        timeout_ms: of a call of a hook that names none itself.
        max_rounds: how often the gates are gone through.
    """

    def __init__(
        self, *, timeout_ms: int = DEFAULT_TIMEOUT_MS, max_rounds: int = DEFAULT_ROUNDS
    ) -> None:
        self._timeout_ms = timeout_ms
        self._rounds = max_rounds
        self._entries: list[_Entry] = []

    def add_hook(self, hook: Hook) -> None:
        """Adds a hook to the end.

        Raises:
            ConfigError: it has no name, or another has it.
        """
        if not hook.name or any(hook.name == each.hook.name for each in self._entries):
            raise ConfigError(
                f"there is a hook {hook.name!r} already" if hook.name else "a hook has no name",
                field="hooks",
                remedy="give each hook a name of its own; verdicts are told apart by it",
            )
        ms = self._timeout_ms if hook.timeout_ms is None else hook.timeout_ms
        self._entries.append(_Entry(hook, hook.observer, ms / 1000, tuple(stages_of(hook))))

    def stop(self) -> None:
        """Asks no hook any more: each fails at once, which blocks where it is a gate."""
        for each in self._entries:
            each.calls.stop()

    def describe(self) -> list[HookDescription]:
        """The hooks, in order."""
        return [
            HookDescription(
                name=each.hook.name,
                observer=each.observer,
                stages=list(each.stages),
                timeout_ms=int(each.seconds * 1000),
            )
            for each in self._entries
        ]

    async def run_pre_tool(self, context: PreToolContext) -> Outcome[str]:
        """Judges code before it runs. Check ``decision``; run ``final`` and nothing else."""
        run, decision = await self._run(_PRE_TOOL, context)
        return Outcome(decision, run.text, run.text, tuple(run.verdicts))

    async def run_post_tool(self, context: PostToolContext) -> Outcome[ExecutionOutput]:
        """Judges what an execution printed. Give back ``final`` and nothing else."""
        run, decision = await self._run(_POST_TOOL, context)
        final = run.text
        if isinstance(decision, Block):
            final = ExecutionOutput(error=f"Output withheld: {decision.reason}")
        elif isinstance(decision, AskUser):
            final = ExecutionOutput(error=f"Output withheld until approved: {decision.prompt}")
        return Outcome(decision, final, run.text, tuple(run.verdicts), run.rollback)

    async def run_pre_llm(self, context: PreLlmContext) -> Outcome[str]:
        """Judges a prompt before it is sent."""
        run, decision = await self._run(_PRE_LLM, context)
        return Outcome(decision, run.text, run.text, tuple(run.verdicts))

    async def run_post_llm(self, context: PostLlmContext) -> Outcome[str]:
        """Judges a model's answer before it goes on."""
        run, decision = await self._run(_POST_LLM, context)
        return Outcome(decision, run.text, run.text, tuple(run.verdicts))

    async def _run(self, stage: _Stage, context: Any) -> tuple[_Run, HookDecision]:
        run = _Run(stage, stage.text(context))
        here = [each for each in self._entries if stage.name in each.stages]
        await self._settle(run, context, [each for each in here if not each.observer])
        decision = _strongest(run, stage.text(context))
        observers = [each for each in here if each.observer]
        if observers:
            seen = {**stage.changes(run.text), "decision": decision}
            run.verdicts += await asyncio.gather(
                *(self._tell(stage, each, context.model_copy(update=seen)) for each in observers)
            )
        return run, decision

    async def _settle(self, run: _Run, context: Any, gates: list[_Entry]) -> None:
        for _ in range(self._rounds):
            for gate in gates:
                name = gate.hook.name
                if run.lets_be(name):
                    continue
                changes = {**run.stage.changes(run.text), "decision": None}
                shown = context.model_copy(update=changes)
                decision, verdict = await self._judge(run, gate, shown)
                run.verdicts.append(verdict)
                run.note(name, decision)
                if run.block is not None and not run.stage.goes_on:
                    return
            settled = all(run.lets_be(gate.hook.name) for gate in gates)
            if settled or run.block is not None:
                return
        changing = [
            name
            for name, decision in run.decisions.items()
            if isinstance(decision, Modify | ModifyOutput)
        ]
        run.block = (
            f"{', '.join(changing)}: rewrites did not settle in {self._rounds} rounds; a hook that "
            "rewrites has to leave alone what it made itself"
        )

    async def _judge(
        self, run: _Run, gate: _Entry, context: BaseModel
    ) -> tuple[HookDecision, Verdict]:
        """A gate's decision; of one that fails, Block."""
        start = time.monotonic()
        decision: HookDecision
        try:
            method = getattr(gate.hook, run.stage.name)
            answer = await _ask(gate, method, context)
            decision = _checked(answer, run.stage)
        except CallFailed as failure:
            decision = Block(reason=f"the hook {failure}")
            log.warning("hook_failed", hook=gate.hook.name, reason=str(failure))
        rewrites = isinstance(decision, Modify | ModifyOutput)
        if rewrites and run.stage.rewritten(decision) == run.text:
            decision = Allow(reason=_reason(decision))
        verdict = _verdict(run.stage, gate, _NAMES[type(decision)], _reason(decision), start)
        return decision, verdict

    async def _tell(self, stage: _Stage, observer: _Entry, context: BaseModel) -> Verdict:
        start = time.monotonic()
        reason = None
        try:
            method = getattr(observer.hook, stage.name)
            answer = await _ask(observer, method, context)
            if answer is not None and not isinstance(answer, Allow):
                reason = f"an observer decides nothing: its {type(answer).__name__} was passed over"
        except CallFailed as failure:
            reason = f"the observer {failure}"
        if reason is not None:
            log.warning("observer_failed", hook=observer.hook.name, reason=reason)
        return _verdict(stage, observer, "observe", reason, start)


async def _ask(entry: _Entry, method: Callable[[Any], Any], context: BaseModel) -> Any:
    """What a hook says.

    Raises:
        CallFailed: it gave no answer.
    """
    try:
        quick = entry.hook.is_quick(context)
    except Exception as error:  # noqa: BLE001  (a hook's own may do anything)
        raise CallFailed(f"failed: {described(error)}") from None
    if quick:
        return await entry.calls.call_here(method, context, entry.seconds)
    # A copy of its own: what it does to lists and dictionaries in it, nobody else sees.
    return await entry.calls.call(method, context.model_copy(deep=True), entry.seconds)


def _checked(answer: object, stage: _Stage) -> HookDecision:
    """An answer that is a decision of the stage, with the fields it should have.

    Raises:
        CallFailed: it is none.
    """
    for kind in stage.kinds:
        if type(answer) is kind:
            try:
                return kind.model_validate(answer.model_dump(warnings=False))  # type: ignore[attr-defined,no-any-return]
            except (ValidationError, AttributeError, TypeError, ValueError):
                raise CallFailed(f"returned a {kind.__name__} with wrong fields") from None
    raise CallFailed(f"returned {type(answer).__name__}, which is no decision of {stage.name}")


def _strongest(run: _Run, original: Any) -> HookDecision:
    if run.block is not None:
        return Block(reason=run.block)
    asked = [
        f"{name}: {decision.prompt[:_MOST_REASON]}"
        for name, decision in run.decisions.items()
        if isinstance(decision, AskUser)
    ]
    if asked:
        return AskUser(prompt="\n".join(asked))
    if run.rollback is not None:
        return Rollback(reason=run.rollback)
    if run.text == original:
        return Allow()
    if isinstance(run.text, ExecutionOutput):
        return ModifyOutput(output=run.text)
    return Modify(transformed_code=run.text)


def _reason(decision: HookDecision) -> str | None:
    return decision.prompt if isinstance(decision, AskUser) else decision.reason


def _verdict(
    stage: _Stage, entry: _Entry, decision: str, reason: str | None, start: float
) -> Verdict:
    return Verdict(
        hook=entry.hook.name,
        decision=decision,
        reason=None if reason is None else reason[:_MOST_REASON],
        duration_ms=round((time.monotonic() - start) * 1000, 3),
        stage=stage.name,
    )
