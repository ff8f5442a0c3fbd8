"""What approvals must do on every database: a suite for test modules to inherit.

They give it a fixture ``database``, which opens a database again each time it is called.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mulligan.errors import (
    ApprovalConflict,
    ApprovalDenied,
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalRequired,
    ValidationFailed,
)
from mulligan.history import approvals
from mulligan.history.approvals import ApprovalStore
from mulligan.models.approvals import STATES, ApprovalSubject
from support.history import fresh

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
Opener = Callable[..., Any]  # a context manager that gives an ApprovalStore


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def subject(**values: object) -> ApprovalSubject:
    given = {
        "code": "rm note",
        "language": "bash",
        "vm_id": fresh("vm"),
        "agent_id": fresh("agent"),
        "vm_state": "layer-1",
    }
    return ApprovalSubject(**{**given, **values})


class ApprovalSuite:
    """Tests of one kind of database."""

    def test_asked_approved_used_once(self, opened: Opener) -> None:
        clock = Clock()
        what = subject(stdin="in", env={"A": "secret"}, working_dir="/w", kernel=None)
        with opened(clock=clock) as store:
            asked = store.ask(what, "remove the note?")
            assert asked == store.get(asked.id)
            assert (asked.state, asked.prompt, asked.code) == (
                "pending",
                "remove the note?",
                "rm note",
            )
            assert (asked.env_names, asked.stdin, asked.vm_state) == (["A"], "in", "layer-1")
            assert asked.expires_at == NOON + timedelta(hours=1)
            with pytest.raises(ApprovalRequired, match=f"{asked.id}: remove the note") as caught:
                store.take(asked.id, what.digest())
            assert caught.value.approval_id == asked.id
        with opened(clock=clock) as store:  # it is durable
            clock.now += timedelta(minutes=30)
            said = store.answer(asked.id, True, "ada", "go ahead")
            assert (said.state, said.answered_by, said.comment) == ("approved", "ada", "go ahead")
            assert (said.answered_at, said.expires_at) == (clock.now, NOON + timedelta(hours=1.5))
            used = store.take(asked.id, what.digest(), "exec-1")
            assert (used.state, used.execution_id, used.used_at) == ("used", "exec-1", clock.now)
        with (
            opened(clock=clock) as store,
            pytest.raises(ApprovalConflict, match=r"was used at .* by exec-1"),
        ):
            store.take(asked.id, what.digest(), "exec-2")

    def test_a_no_and_an_expiry_are_told_apart(self, opened: Opener) -> None:
        clock = Clock()
        denied, unanswered, unused = subject(), subject(), subject()
        with opened(clock=clock) as store:
            no = store.ask(denied, "?")
            store.answer(no.id, False, "ada", "too risky")
            with pytest.raises(ApprovalDenied, match=f"ada said no to {no.id}: too risky"):
                store.take(no.id, denied.digest())
            waits, yes = store.ask(unanswered, "?"), store.ask(unused, "?")
            store.answer(yes.id, True, "bob")
            clock.now += timedelta(hours=1)
            assert store.get(waits.id).state == "expired"
            with pytest.raises(ApprovalExpired, match=f"nobody answered {waits.id} before 2025"):
                store.take(waits.id, unanswered.digest())
            with pytest.raises(ApprovalExpired, match=f"bob said yes to {yes.id}, but it was not"):
                store.take(yes.id, unused.digest())
            with pytest.raises(ApprovalExpired, match="nobody answered"):
                store.answer(waits.id, True, "late")
            with pytest.raises(ApprovalDenied):
                store.take(no.id, denied.digest())
            clock.now = NOON  # a clock that jumps back brings nothing back
            assert store.get(waits.id).state == "expired"
            with pytest.raises(ApprovalExpired):
                store.take(yes.id, unused.digest())

    @pytest.mark.parametrize(
        "change",
        [
            {"code": "rm  note"},
            {"language": "python"},
            {"vm_id": "other"},
            {"agent_id": "other"},
            {"vm_state": "layer-2"},
            {"stdin": ""},
            {"env": {"A": "b"}},
            {"working_dir": "/"},
            {"kernel": "main"},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_it_is_good_for_what_was_shown_alone(self, opened: Opener, change: dict) -> None:
        what = subject()
        other = what.model_copy(update=change)
        with opened() as store:
            asked = store.ask(what, "?")
            store.answer(asked.id, True, "ada")
            with pytest.raises(ApprovalConflict, match="is for another execution"):
                store.take(asked.id, other.digest())
            assert store.get(asked.id).state == "approved"
            assert store.ask(other, "?").id != asked.id

    def test_the_same_is_not_asked_twice(self, opened: Opener) -> None:
        clock, what = Clock(), subject()
        with opened(clock=clock) as store:
            first = store.ask(what, "?")
            assert store.ask(what, "please?") == first
            store.answer(first.id, True, "ada")
            assert store.ask(what, "?").state == "approved"
            store.take(first.id, what.digest())
            second = store.ask(what, "?")
            assert (second.id == first.id, second.state) == (False, "pending")
            store.answer(second.id, False, "ada")
            assert store.ask(what, "pretty please?").state == "denied"
            clock.now += timedelta(hours=1)
            assert store.ask(what, "?").state == "pending"

    def test_an_answer_stands_but_a_yes_can_be_taken_back(self, opened: Opener) -> None:
        what = subject()
        with opened() as store:
            asked = store.ask(what, "?")
            store.answer(asked.id, True, "ada")
            with pytest.raises(ApprovalConflict, match=f"{asked.id} was answered by ada at .*ved"):
                store.answer(asked.id, True, "bob")
            assert store.answer(asked.id, False, "bob").state == "denied"
            with pytest.raises(ApprovalConflict, match=r"was answered by bob at .*: denied"):
                store.answer(asked.id, True, "ada")
            with pytest.raises(ApprovalDenied, match="bob said no"):
                store.take(asked.id, what.digest())

    def test_what_is_not_there_or_not_an_answer(self, opened: Opener) -> None:
        with opened() as store:
            for call in (
                lambda: store.get("approval-0"),
                lambda: store.answer("approval-0", True, "ada"),
                lambda: store.take("approval-0", "digest"),
            ):
                with pytest.raises(ApprovalNotFound, match="Approval not found: approval-0"):
                    call()
            asked = store.ask(subject(), "?")
            with pytest.raises(ValidationFailed, match="approve must be true or false"):
                store.answer(asked.id, "no", "ada")  # type: ignore[arg-type]
            with pytest.raises(ValidationFailed, match="who answers is missing"):
                store.answer(asked.id, True, " ")
            with pytest.raises(ValidationFailed, match="there is no state 'open'"):
                store.list("open")
            assert store.get(asked.id).state == "pending"

    def test_lists_are_newest_first_by_state_and_agent(self, opened: Opener) -> None:
        clock, agent = Clock(), fresh("agent")
        with opened(clock=clock) as store:
            made = [store.ask(subject(agent_id=agent), f"{n}?") for n in range(6)]
            other = store.ask(subject(), "?")
            store.answer(made[0].id, True, "ada")
            store.answer(made[1].id, False, "ada")
            store.answer(made[2].id, True, "ada")
            store.take(made[2].id, made[2].digest)
            clock.now += timedelta(minutes=59)
            store.answer(made[3].id, True, "ada")
            clock.now += timedelta(minutes=1)
            late = store.ask(subject(agent_id=agent), "late?")
            order = [late.id, *(each.id for each in reversed(made))]
            assert [each.id for each in store.list(agent_id=agent)] == order
            assert [each.id for each in store.list(agent_id=agent, limit=2, offset=1)] == order[1:3]
            assert other.id in {each.id for each in store.list("expired")}
            by_state = {state: [each.id for each in store.list(state, agent)] for state in STATES}
            assert by_state == {
                "pending": [late.id],
                "approved": [made[3].id],
                "denied": [made[1].id],
                "expired": [made[5].id, made[4].id, made[0].id],
                "used": [made[2].id],
            }

    def test_an_agent_cannot_flood(self, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(approvals, "MOST_PENDING", 3)
        monkeypatch.setattr(approvals, "MOST_KEPT", 2)
        agent = fresh("agent")
        with opened() as store:
            made = [store.ask(subject(agent_id=agent), "?") for _ in range(3)]
            with pytest.raises(ValidationFailed, match="3 questions waiting"):
                store.ask(subject(agent_id=agent), "?")
            store.ask(subject(), "?")  # another agent may
            for each in made:
                store.answer(each.id, False, "ada")
            last = store.ask(subject(agent_id=agent), "?")
            kept = [each.id for each in store.list(agent_id=agent)]
            assert kept == [last.id, made[2].id, made[1].id]

    def test_any_text_comes_back(self, opened: Opener) -> None:
        odd = "\x00\x1a\ud800 ' \" 😀"
        what = subject(code=odd, stdin=odd, vm_state=odd, env={odd: odd}, working_dir=odd)
        with opened() as store:
            asked = store.ask(what, odd)
            store.answer(asked.id, True, odd, odd)
            found = store.take(asked.id, what.digest(), odd)
            shown = (found.code, found.stdin, found.vm_state, found.env_names, found.working_dir)
            assert shown == (odd, odd, odd, [odd], odd)
            assert (found.prompt, found.answered_by, found.comment) == (odd, odd, odd)

    def test_of_many_who_want_it_one_gets_it(self, opened: Opener) -> None:
        workers = 8
        with ExitStack() as stack, ThreadPoolExecutor(workers) as pool:
            # Two stores share no lock, as two processes do not.
            stores = [stack.enter_context(opened()) for _ in range(2)]
            for _ in range(5):
                what, start = subject(), threading.Barrier(workers)

                def ask(n: int, what=what, start=start) -> str:
                    start.wait()
                    return stores[n % 2].ask(what, "?").id

                (asked,) = set(pool.map(ask, range(workers)))
                stores[0].answer(asked, True, "ada")

                def take(n: int, what=what, start=start, asked=asked) -> str | None:
                    start.wait()
                    try:
                        return stores[n % 2].take(asked, what.digest(), f"e{n}").execution_id
                    except ApprovalConflict:
                        return None

                winners = [won for won in pool.map(take, range(workers)) if won]
                assert winners == [stores[0].get(asked).execution_id]

    def test_of_a_yes_and_a_no_at_once_a_no_is_never_lost(self, opened: Opener) -> None:
        with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
            stores: list[ApprovalStore] = [stack.enter_context(opened()) for _ in range(2)]
            for _ in range(5):
                asked, start = stores[0].ask(subject(), "?"), threading.Barrier(2)

                def answer(n: int, asked=asked, start=start) -> None:
                    start.wait()
                    try:
                        stores[n].answer(asked.id, n == 0, "ada")
                    except ApprovalConflict:
                        assert n == 0  # a yes after the no

                list(pool.map(answer, range(2)))
                assert stores[0].get(asked.id).state == "denied"
