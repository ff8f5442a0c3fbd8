"""Gates fail closed, rewrites are judged again, observers decide nothing."""

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.errors import ConfigError
from mulligan.hooks.calls import MOST_STUCK
from mulligan.hooks.interface import Hook
from mulligan.hooks.manager import HookManager
from mulligan.models.hooks import (
    Allow,
    AskUser,
    Block,
    ExecutionOutput,
    Modify,
    ModifyOutput,
    PostLlmContext,
    PostToolContext,
    PreLlmContext,
    PreToolContext,
    Rollback,
)

pytestmark = pytest.mark.anyio

BEFORE = PreToolContext(code="x", language="bash", agent_id="a", vm_id="v", metadata={"k": "v"})
AFTER = PostToolContext(
    original_code="x",
    stdout="out",
    stderr="err",
    exit_code=0,
    duration_ms=1,
    agent_id="a",
    vm_id="v",
)


def gate(name: str, says: Callable[[Any], Any], **more: Any) -> Hook:
    """A gate (or an observer) with one answer for every stage."""
    stages = {stage: lambda self, context: says(context) for stage in ("pre_tool", "post_tool")}
    return type("Gate", (Hook,), {"name": name, **stages, **more})()


def manager(*hooks: Hook, **options: Any) -> HookManager:
    made = HookManager(**options)
    for hook in hooks:
        made.add_hook(hook)
    return made


def told(outcome: Any) -> list[tuple[str, str]]:
    return [(verdict.hook, verdict.decision) for verdict in outcome.verdicts]


def rewrite(old: str, new: str) -> Callable[[Any], Any]:
    return lambda c: Modify(transformed_code=c.code.replace(old, new)) if old in c.code else Allow()


def forbid(word: str) -> Callable[[Any], Any]:
    return lambda c: Block(reason=f"{word} is forbidden") if word in c.code else Allow()


def raises(error: BaseException) -> Callable[[Any], Any]:
    def say(_: object) -> None:
        raise error

    return say


async def test_no_hooks_allow() -> None:
    outcome = await HookManager().run_pre_tool(BEFORE)
    assert (outcome.decision, outcome.final, outcome.verdicts) == (Allow(), "x", ())


async def test_gates_run_in_order_and_the_first_block_ends_it() -> None:
    outcome = await manager(
        gate("one", lambda _: Allow(reason="fine")),
        gate("two", lambda _: Block(reason="no")),
        gate("three", lambda _: Allow()),
    ).run_pre_tool(BEFORE)
    assert outcome.decision == Block(reason="two: no")
    assert [(v.hook, v.decision, v.reason, v.stage) for v in outcome.verdicts] == [
        ("one", "allow", "fine", "pre_tool"),
        ("two", "block", "no", "pre_tool"),
    ]
    assert all(verdict.duration_ms >= 0 for verdict in outcome.verdicts)


SAYS = {
    "allow": lambda _: Allow(),
    "modify": lambda _: Modify(transformed_code="y"),
    "ask": lambda _: AskUser(prompt="really?"),
    "block": lambda _: Block(reason="no"),
}
STRENGTH = list(SAYS)


@pytest.mark.parametrize("first", STRENGTH)
@pytest.mark.parametrize("second", STRENGTH)
async def test_the_strongest_wins(first: str, second: str) -> None:
    hooks = (gate("one", SAYS[first]), gate("two", SAYS[second]))
    outcome = await manager(*hooks).run_pre_tool(BEFORE)
    wanted = max(first, second, key=STRENGTH.index)
    kinds = {"allow": Allow, "modify": Modify, "ask": AskUser, "block": Block}
    assert type(outcome.decision) is kinds[wanted]
    if wanted != "block":
        assert outcome.final == ("y" if "modify" in {first, second} else "x")


async def test_everybody_who_asks_is_named() -> None:
    asks = [gate(name, lambda c, name=name: AskUser(prompt=f"{name}?")) for name in ("a", "b")]
    outcome = await manager(*asks).run_pre_tool(BEFORE)
    assert outcome.decision == AskUser(prompt="a: a?\nb: b?")


async def test_a_rewrite_into_something_forbidden_is_blocked_by_an_earlier_gate() -> None:
    outcome = await manager(
        gate("guard", forbid("rm")), gate("rewriter", rewrite("x", "rm"))
    ).run_pre_tool(BEFORE)
    assert outcome.decision == Block(reason="guard: rm is forbidden")
    assert told(outcome) == [("guard", "allow"), ("rewriter", "modify"), ("guard", "block")]


async def test_a_gate_judges_what_it_wrote_itself() -> None:
    def unwrap(context: PreToolContext) -> Any:
        if context.code == "rm":
            return Block(reason="unwrapped")
        return Modify(transformed_code="rm")

    outcome = await manager(gate("unwrap", unwrap)).run_pre_tool(BEFORE)
    assert outcome.decision == Block(reason="unwrap: unwrapped")


async def test_every_gate_judges_the_final_text_and_none_twice() -> None:
    seen: dict[str, list[str]] = {"a": [], "b": [], "c": []}

    def watch(name: str, then: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def say(context: PreToolContext) -> Any:
            seen[name].append(context.code)
            return then(context)

        return say

    outcome = await manager(
        gate("a", watch("a", rewrite("z", "w"))),
        gate("b", watch("b", rewrite("x", "z"))),
        gate("c", watch("c", lambda _: Allow())),
    ).run_pre_tool(BEFORE)
    assert outcome.decision == Modify(transformed_code="w")
    assert seen == {"a": ["x", "z", "w"], "b": ["x", "w"], "c": ["z", "w"]}


async def test_a_question_about_a_text_that_was_rewritten_is_dropped() -> None:
    ask = gate("ask", lambda c: AskUser(prompt="x?") if c.code == "x" else Allow())
    outcome = await manager(ask, gate("fix", rewrite("x", "y"))).run_pre_tool(BEFORE)
    assert outcome.decision == Modify(transformed_code="y")


@pytest.mark.parametrize(
    "hooks",
    [
        (("grow", lambda c: Modify(transformed_code=c.code + "x")),),
        (("there", rewrite("x", "y")), ("back", rewrite("y", "x"))),
        (("back", rewrite("y", "x")), ("there", rewrite("x", "y"))),
    ],
)
async def test_a_rewrite_that_never_settles_blocks(hooks: tuple) -> None:
    outcome = await manager(*(gate(*each) for each in hooks), max_rounds=3).run_pre_tool(BEFORE)
    assert isinstance(outcome.decision, Block)
    assert "did not settle in 3 rounds" in outcome.decision.reason
    assert hooks[0][0] in outcome.decision.reason
    assert len(outcome.verdicts) <= 3 * len(hooks)


class OddError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


NONSENSE = [
    (lambda _: None, "returned NoneType"),
    (lambda _: True, "returned bool"),
    (lambda _: "allow", "returned str"),
    (lambda _: {"decision": "allow"}, "returned dict"),
    (lambda _: Allow, "returned ModelMetaclass"),
    (lambda _: Rollback(reason="r"), "returned Rollback"),
    (lambda _: ModifyOutput(output=ExecutionOutput()), "returned ModifyOutput"),
    (lambda _: Modify.model_construct(transformed_code=5), "Modify with wrong fields"),
    (lambda _: Block.model_construct(), "Block with wrong fields"),
    (raises(ValueError("boom")), "failed: ValueError: boom"),
    (raises(SystemExit(0)), "failed: SystemExit: 0"),
    (raises(StopIteration(1)), "failed: StopIteration"),
    (raises(asyncio.CancelledError()), "cancelled itself"),
    (raises(OddError()), "failed: OddError"),
]


@pytest.mark.parametrize(("says", "reason"), NONSENSE, ids=[reason for _, reason in NONSENSE])
@pytest.mark.parametrize("kind", ["thread", "coroutine", "both"])
async def test_a_gate_that_crashes_or_returns_nonsense_blocks(
    says: Callable[[Any], Any], reason: str, kind: str
) -> None:
    async def coroutine(self: Hook, context: Any) -> Any:
        return says(context)

    made = {
        "thread": lambda self, context: says(context),
        "coroutine": coroutine,
        "both": functools.partialmethod(coroutine),
    }
    hook = type("Gate", (Hook,), {"name": "g", "pre_tool": made[kind]})()
    outcome = await manager(hook).run_pre_tool(BEFORE)
    assert isinstance(outcome.decision, Block)
    wanted = reason
    if reason == "cancelled itself" and kind == "thread":
        wanted = "failed: CancelledError"
    if reason == "failed: StopIteration" and kind != "thread":
        wanted = "failed: RuntimeError"
    assert wanted in outcome.decision.reason
    assert told(outcome) == [("g", "block")]


async def test_a_gate_that_sleeps_is_cancelled_and_blocks() -> None:
    ended = asyncio.Event()

    class Sleeper(Hook):
        name = "sleeper"
        timeout_ms = 20

        async def pre_tool(self, context: PreToolContext) -> Allow:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.set()
            return Allow()

    outcome = await manager(Sleeper()).run_pre_tool(BEFORE)
    assert outcome.decision == Block(reason="sleeper: the hook exceeded its time of 20 ms")
    assert ended.is_set()


async def test_threads_that_do_not_come_back_are_left_and_bounded() -> None:
    release = threading.Event()
    calls: list[int] = []

    class Stuck(Hook):
        name = "stuck"
        timeout_ms = 20

        def pre_tool(self, context: PreToolContext) -> Allow:
            calls.append(1)
            release.wait()
            return Allow()

    hooks = manager(Stuck())
    try:
        for _ in range(MOST_STUCK):
            outcome = await hooks.run_pre_tool(BEFORE)
            assert "exceeded its time" in outcome.decision.reason
        outcome = await hooks.run_pre_tool(BEFORE)
        assert "4 earlier calls have not come back" in outcome.decision.reason
        assert len(calls) == MOST_STUCK
    finally:
        release.set()
    while hooks._entries[0].calls.stuck:
        await asyncio.sleep(0.001)
    assert (await hooks.run_pre_tool(BEFORE)).decision == Allow()


async def test_a_coroutine_that_ignores_its_cancellation_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mulligan.hooks.calls.GRACE_SECONDS", 0.02)
    release = asyncio.Event()

    class Deaf(Hook):
        name = "deaf"
        timeout_ms = 10

        async def pre_tool(self, context: PreToolContext) -> Allow:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return Allow()

    outcome = await manager(Deaf()).run_pre_tool(BEFORE)
    assert "exceeded its time of 10 ms" in outcome.decision.reason
    release.set()


async def test_an_answer_that_blocked_the_loop_for_too_long_does_not_count() -> None:
    import time

    class Blocking(Hook):
        name = "blocking"
        timeout_ms = 5

        async def pre_tool(self, context: PreToolContext) -> Allow:
            time.sleep(0.02)
            return Allow()

    outcome = await manager(Blocking()).run_pre_tool(BEFORE)
    assert "exceeded its time" in outcome.decision.reason


async def test_who_cancels_the_caller_cancels_the_gate() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    class Sleeper(Hook):
        name = "sleeper"

        async def pre_tool(self, context: PreToolContext) -> Allow:
            started.set()
            try:
                await asyncio.sleep(3600)
            finally:
                ended.set()
            return Allow()

    task = asyncio.create_task(manager(Sleeper()).run_pre_tool(BEFORE))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_observers_neither_change_nor_stop_anything(caplog: Any) -> None:
    seen: list[Any] = []

    def look(context: PreToolContext) -> Allow:
        seen.append((context.code, context.decision))
        context.metadata["k"] = "changed"
        return Allow()

    observing = {"observer": True}
    outcome = await manager(
        gate("looks", look, **observing),
        gate("blocks", lambda _: Block(reason="no"), **observing),
        gate("rewrites", lambda _: Modify(transformed_code="evil"), **observing),
        gate("crashes", raises(ValueError("boom")), **observing),
        gate("exits", raises(SystemExit(1)), **observing),
        gate("sleeps", lambda _: asyncio.sleep(3600), **observing, timeout_ms=30),
        gate("fix", rewrite("x", "y")),
    ).run_pre_tool(BEFORE)
    assert outcome.decision == Modify(transformed_code="y")
    assert outcome.final == "y"
    assert seen == [("y", Modify(transformed_code="y"))]
    assert BEFORE.metadata == {"k": "v"}
    reasons = {v.hook: v.reason for v in outcome.verdicts if v.decision == "observe"}
    assert reasons == {
        "looks": None,
        "blocks": "an observer decides nothing: its Block was passed over",
        "rewrites": "an observer decides nothing: its Modify was passed over",
        "crashes": "the observer failed: ValueError: boom",
        "exits": "the observer failed: SystemExit: 1",
        "sleeps": "the observer exceeded its time of 30 ms",
    }
    assert caplog.text.count("observer_failed") == 5


async def test_a_gate_cannot_change_what_the_next_one_is_told() -> None:
    def meddle(context: PreToolContext) -> Allow:
        context.metadata["k"] = "changed"
        object.__setattr__(context, "code", "evil")
        return Allow()

    def check(context: PreToolContext) -> Any:
        same = (context.code, context.metadata) == ("x", {"k": "v"})
        return Allow() if same else Block(reason="changed")

    outcome = await manager(gate("a", meddle), gate("b", check)).run_pre_tool(BEFORE)
    assert (outcome.decision, outcome.final) == (Allow(), "x")


def redact(word: str) -> Callable[[Any], Any]:
    def say(context: PostToolContext) -> Any:
        if word not in context.output:
            return Allow()
        changed = {name: getattr(context, name).replace(word, "*") for name in ("stdout", "stderr")}
        return ModifyOutput(output=context.texts.model_copy(update=changed))

    return say


async def test_after_an_execution_a_text_is_rewritten_and_judged_again() -> None:
    hides = gate("hides", redact("out"))
    checks = gate("checks", lambda c: Block(reason="star") if "*" in c.stdout else Allow())
    outcome = await manager(hides).run_post_tool(AFTER)
    assert outcome.final == ExecutionOutput(stdout="*", stderr="err")
    assert outcome.decision == ModifyOutput(output=outcome.final)
    outcome = await manager(checks, hides).run_post_tool(AFTER)
    assert outcome.decision == Block(reason="checks: star")
    assert outcome.final == ExecutionOutput(error="Output withheld: checks: star")


async def test_a_rollback_is_heard_whatever_becomes_of_the_text() -> None:
    back = gate("back", lambda _: Rollback(reason="broke it"))
    hides = gate("hides", redact("out"))
    outcome = await manager(back).run_post_tool(AFTER)
    assert outcome.decision == Rollback(reason="back: broke it")
    assert outcome.final == AFTER.texts
    outcome = await manager(back, hides).run_post_tool(AFTER)
    assert (outcome.decision, outcome.final.stdout) == (Rollback(reason="back: broke it"), "*")
    blocks = gate("blocks", lambda _: Block(reason="no"))
    outcome = await manager(blocks, back).run_post_tool(AFTER)
    assert (outcome.decision, outcome.rollback) == (Block(reason="blocks: no"), "back: broke it")
    ask = gate("ask", lambda _: AskUser(prompt="show?"))
    outcome = await manager(ask, hides, back).run_post_tool(AFTER)
    assert outcome.decision == AskUser(prompt="ask: show?")
    assert outcome.final.stdout == ""
    assert (outcome.on_yes.stdout, outcome.rollback) == ("*", "back: broke it")


async def test_code_cannot_be_rewritten_after_it_ran() -> None:
    outcome = await manager(gate("g", SAYS["modify"])).run_post_tool(AFTER)
    assert "returned Modify, which is no decision of post_tool" in outcome.decision.reason


async def test_prompts_and_answers() -> None:
    class Polite(Hook):
        name = "polite"

        async def pre_llm(self, context: PreLlmContext) -> Any:
            return Modify(transformed_code=context.prompt.replace("damn", "please"))

        def post_llm(self, context: PostLlmContext) -> Any:
            return Block(reason=context.model)

    hooks = manager(Polite())
    before = PreLlmContext(prompt="damn", agent_id="a")
    assert (await hooks.run_pre_llm(before)).final == "please"
    after = PostLlmContext(prompt="p", response="r", agent_id="a", model="m")
    assert (await hooks.run_post_llm(after)).decision == Block(reason="polite: m")
    assert (await hooks.run_pre_tool(BEFORE)).verdicts == ()  # it has no say there


def test_names_are_needed_and_taken_once() -> None:
    with pytest.raises(ConfigError, match="a hook has no name"):
        manager(Hook())
    with pytest.raises(ConfigError, match="there is a hook 'a' already"):
        manager(gate("a", SAYS["allow"]), gate("a", SAYS["allow"]))


def test_hooks_are_described_in_their_order() -> None:
    made = manager(
        gate("a", SAYS["allow"]), gate("b", SAYS["allow"], observer=True, timeout_ms=7)
    ).describe()
    assert [each.model_dump() for each in made] == [
        {"name": "a", "observer": False, "stages": ["pre_tool", "post_tool"], "timeout_ms": 5000},
        {"name": "b", "observer": True, "stages": ["pre_tool", "post_tool"], "timeout_ms": 7},
    ]


# A gate as data: what it says of each text over a small alphabet.
TEXTS = "abcd"
answers = st.sampled_from(["allow", "block", "ask", "raise", *TEXTS])
tables = st.lists(st.fixed_dictionaries(dict.fromkeys(TEXTS, answers)), max_size=4)


@settings(max_examples=200, deadline=None)
@given(tables=tables)
def test_whatever_gates_say_what_runs_was_allowed_by_each(tables: list[dict[str, str]]) -> None:
    def says(table: dict[str, str]) -> Callable[[Any], Any]:
        async def say(context: PreToolContext) -> Any:
            answer = table[context.code]
            if answer == "raise":
                raise ValueError
            if answer in TEXTS:
                return Modify(transformed_code=answer)
            return SAYS[answer](context)

        return say

    hooks = manager(*(gate(f"g{n}", says(table)) for n, table in enumerate(tables)))
    context = BEFORE.model_copy(update={"code": "a"})
    outcome = asyncio.run(hooks.run_pre_tool(context))
    final = [table[outcome.final] for table in tables]
    if isinstance(outcome.decision, Block):
        bad = any(each in {"block", "raise"} for table in tables for each in table.values())
        assert bad or any(each in TEXTS for table in tables for each in table.values())
    else:
        assert all(each in {"allow", "ask", outcome.final} for each in final)
        assert isinstance(outcome.decision, AskUser) == ("ask" in final)
        if "ask" not in final:
            assert isinstance(outcome.decision, Modify) == (outcome.final != "a")


@pytest.mark.parametrize("quick", [True, False])
async def test_a_quick_hook_is_called_where_its_caller_is(quick: bool) -> None:
    class Quick(Hook):
        name = "quick"

        def is_quick(self, context: object) -> bool:
            return quick

        def pre_tool(self, context: PreToolContext) -> Block | Allow:
            return Block(reason=str(threading.current_thread() is threading.main_thread()))

    outcome = await manager(Quick()).run_pre_tool(BEFORE)
    assert outcome.decision == Block(reason=f"quick: {quick}")


@pytest.mark.parametrize("where", ["is_quick", "pre_tool"])
async def test_a_quick_hook_that_fails_blocks(where: str) -> None:
    class Quick(Hook):
        name = "quick"

        def is_quick(self, context: object) -> bool:
            if where == "is_quick":
                raise KeyError("x")
            return True

        def pre_tool(self, context: PreToolContext) -> Block | Allow:
            raise KeyError("x")

    outcome = await manager(Quick()).run_pre_tool(BEFORE)
    assert isinstance(outcome.decision, Block)
    assert "KeyError" in outcome.decision.reason


async def test_a_quick_hook_over_its_time_blocks() -> None:
    class Quick(Hook):
        name = "quick"
        timeout_ms = 1

        def is_quick(self, context: object) -> bool:
            return True

        def pre_tool(self, context: PreToolContext) -> Block | Allow:
            end = time.monotonic() + 0.01
            while time.monotonic() < end:
                pass
            return Allow()

    outcome = await manager(Quick()).run_pre_tool(BEFORE)
    assert outcome.decision == Block(reason="quick: the hook exceeded its time of 1 ms")
