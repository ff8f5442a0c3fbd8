"""Approvals on SQLite, over kill -9, and asked of people."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.register_assert_rewrite("support.approvals")

from mulligan.errors import (  # noqa: E402
    ApprovalConflict,
    ApprovalDenied,
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalRequired,
)
from mulligan.history import HistoryStore  # noqa: E402
from mulligan.history.approvals import ApprovalStore, open_approvals  # noqa: E402
from mulligan.hooks.manager import Outcome  # noqa: E402
from mulligan.hooks.permits import Answer, Permits  # noqa: E402
from mulligan.models import Approval  # noqa: E402
from mulligan.models.approvals import ApprovalSubject  # noqa: E402
from mulligan.models.hooks import (  # noqa: E402
    Allow,
    AskUser,
    ExecutionOutput,
    PostToolContext,
)
from support.approvals import ApprovalSuite, Opener, subject  # noqa: E402
from support.history import ended, entry  # noqa: E402


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    return partial(open_approvals, tmp_path_factory.mktemp("data") / "history")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ApprovalStore]:
    with open_approvals(tmp_path) as made:
        yield made


class TestSqlite(ApprovalSuite):
    pass


FIELDS = {
    "code": st.text(),
    "language": st.text(),
    "vm_id": st.text(),
    "agent_id": st.text(),
    "vm_state": st.text(),
    "stdin": st.none() | st.text(),
    "env": st.dictionaries(st.text(), st.text(), max_size=2),
    "working_dir": st.none() | st.text(),
    "kernel": st.none() | st.text(),
}


@given(st.fixed_dictionaries(FIELDS), st.fixed_dictionaries(FIELDS))
def test_digests_are_equal_exactly_where_subjects_are(one: dict, two: dict) -> None:
    first, second = ApprovalSubject(**one), ApprovalSubject(**two)
    assert (first.digest() == second.digest()) == (first == second)
    turned = ApprovalSubject(**{**one, "env": dict(reversed(one["env"].items()))})
    assert turned.digest() == first.digest()


ANSWER = """
import sys
from pathlib import Path
from mulligan.history.approvals import open_approvals
with open_approvals(Path(sys.argv[1])) as store:
    for waiting in store.list("pending"):
        print(store.answer(waiting.id, True, "ada").id)
"""


def test_a_server_s_history_goes_on_while_another_process_answers(tmp_path: Path) -> None:
    """Also where this process opens the file twice: else the other one, on leaving, would take the
    log away under it."""
    hour = timedelta(hours=1)
    command = [sys.executable, "-c", ANSWER, str(tmp_path)]
    with HistoryStore(tmp_path) as history:
        running = entry("vm")
        history.begin(running, max_entries=None)
        approvals = history.approvals(expires_after=hour, use_within=hour)
        with open_approvals(tmp_path) as again:
            for store in (approvals, again, approvals, again):
                asked = store.ask(subject(), "?")
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                assert done.stdout.split() == [asked.id]
                assert store.take(asked.id, asked.digest).state == "used"
        asked = approvals.ask(subject(), "?")
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [asked.id]
        assert history.get(running.id).outcome == "running"
        history.finish(ended(running))


def test_they_are_on_the_disk_though_executions_are_not(tmp_path: Path) -> None:
    hour = timedelta(hours=1)
    with HistoryStore(tmp_path, persist=False) as history:
        asked = history.approvals(expires_after=hour, use_within=hour).ask(subject(), "?")
    with open_approvals(tmp_path) as later:
        assert later.get(asked.id) == asked


def test_a_history_of_before_approvals_gets_their_table(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as history:
        old = ended(entry("vm"))
        history.finish(old)
    with sqlite3.connect(tmp_path / "history.db") as database:
        database.execute("DROP TABLE mulligan_approvals")
        for younger in ("mulligan_tokens", "mulligan_idempotency_keys"):
            database.execute(f"DROP TABLE {younger}")
        for column in ("network", "packages"):
            database.execute(f"ALTER TABLE mulligan_executions DROP COLUMN {column}")
        database.execute("UPDATE mulligan_version SET version_num = '0001'")
    database.close()
    with open_approvals(tmp_path) as store:
        assert store.ask(subject(), "?").state == "pending"
    with HistoryStore(tmp_path) as history:
        assert history.get(old.id) == old


def test_a_yes_taken_by_a_process_that_is_killed_stays_used(tmp_path: Path) -> None:
    what = subject()
    with open_approvals(tmp_path) as store:
        asked = store.ask(what, "?")
        store.answer(asked.id, True, "ada")
    child = os.fork()
    if child == 0:
        try:
            with open_approvals(tmp_path) as store:
                store.take(asked.id, what.digest(), "exec-never")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    with open_approvals(tmp_path) as store:
        found = store.get(asked.id)
        assert (found.state, found.execution_id) == ("used", "exec-never")
        with pytest.raises(ApprovalConflict, match="was used at"):
            store.take(asked.id, what.digest())


@pytest.mark.anyio
class TestPermits:
    async def test_a_question_waits_and_a_yes_is_found_by_what_it_is_for(
        self, store: ApprovalStore
    ) -> None:
        permits, what = Permits(store), subject()
        with pytest.raises(ApprovalRequired, match=r"approval-\w+: sure\?") as caught:
            await permits.obtain(what, "sure?")
        assert "run the same again with it" in str(caught.value.remedy)
        store.answer(caught.value.approval_id, True, "ada")
        with pytest.raises(ApprovalRequired):
            await permits.obtain(what.model_copy(update={"vm_state": "layer-2"}), "sure?")
        used = await permits.obtain(what, "sure?", execution_id="exec-1")
        assert (used.id, used.execution_id) == (caught.value.approval_id, "exec-1")
        with pytest.raises(ApprovalRequired) as again:
            await permits.obtain(what, "sure?")
        assert again.value.approval_id != used.id

    async def test_a_yes_that_is_brought_along(self, store: ApprovalStore) -> None:
        permits, what = Permits(store), subject()
        asked = store.ask(what, "?")
        with pytest.raises(ApprovalRequired):
            await permits.obtain(what, "?", approval_id=asked.id)
        store.answer(asked.id, True, "ada")
        other = what.model_copy(update={"code": f"{what.code} "})
        with pytest.raises(ApprovalConflict, match="another execution"):
            await permits.obtain(other, "?", approval_id=asked.id)
        with pytest.raises(ApprovalNotFound):  # another agent's is nobody's
            await permits.obtain(
                what.model_copy(update={"agent_id": "another"}), "?", approval_id=asked.id
            )
        assert (await permits.obtain(what, "?", approval_id=asked.id)).state == "used"

    async def test_two_executions_race_and_one_runs(self, store: ApprovalStore) -> None:
        permits, what = Permits(store), subject()
        asked = store.ask(what, "?")
        store.answer(asked.id, True, "ada")
        tries = [permits.obtain(what, "?", approval_id=asked.id) for _ in range(6)]
        done = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(each, Approval) for each in done) == 1
        assert sum(isinstance(each, ApprovalConflict) for each in done) == 5

    async def test_nobody_to_ask(self, store: ApprovalStore) -> None:
        with pytest.raises(ApprovalDenied, match="nobody can be: sure") as caught:
            await Permits(store, mode="refuse").obtain(subject(), "sure?")
        assert caught.value.field == "approvals.mode"
        assert store.list() == []
        permits = Permits(store, mode="refuse", approver=lambda _: True)
        assert (await permits.obtain(subject(), "sure?")).state == "used"

    @pytest.mark.parametrize("kind", ["thread", "coroutine"])
    async def test_an_approver_is_shown_what_runs(self, store: ApprovalStore, kind: str) -> None:
        shown: list[Approval] = []
        here = threading.get_ident()

        def ask(approval: Approval) -> Answer:
            assert (threading.get_ident() == here) == (kind == "coroutine")
            shown.append(approval)
            return Answer(approval.code == "good", "ada", "said so")

        async def ask_later(approval: Approval) -> Answer:
            return ask(approval)

        permits = Permits(store, approver=ask if kind == "thread" else ask_later)
        used = await permits.obtain(subject(code="good"), "?")
        assert (used.state, used.answered_by, used.comment) == ("used", "ada", "said so")
        with pytest.raises(ApprovalDenied, match=r"ada said no to .*: said so"):
            await permits.obtain(subject(code="bad"), "?")
        assert [each.code for each in shown] == ["good", "bad"]

    @pytest.mark.parametrize("says", [None, "yes", 1, ValueError("gone"), Answer("yes")])
    async def test_an_approver_that_fails_has_not_answered(
        self, store: ApprovalStore, says: Any
    ) -> None:
        def ask(_: Approval) -> Any:
            if isinstance(says, Exception):
                raise says
            return says

        with pytest.raises(ApprovalRequired) as caught:
            await Permits(store, approver=ask).obtain(subject(), "?")
        assert store.get(caught.value.approval_id).state == "pending"

    async def test_an_approver_is_not_waited_for_longer_than_the_question_stands(
        self, tmp_path: Path
    ) -> None:
        async def ask(_: Approval) -> bool:
            await asyncio.sleep(3600)
            return True

        with (
            open_approvals(tmp_path / "h", expires_after=timedelta(milliseconds=30)) as store,
            pytest.raises(ApprovalExpired, match="nobody answered"),
        ):
            await Permits(store, approver=ask).obtain(subject(), "?")

    async def test_people_are_waited_for_outside_of_locks(self, store: ApprovalStore) -> None:
        asked: list[str] = []

        def ask(approval: Approval) -> bool:
            asked.append(approval.id)
            return True

        permits, what = Permits(store, approver=ask), subject()
        with pytest.raises(ApprovalRequired) as waits:
            await permits.require(what, "?")
        assert asked == []
        assert await permits.consult(waits.value.approval_id)
        assert asked == [waits.value.approval_id]
        assert (await permits.require(what, "?", execution_id="exec-1")).state == "used"
        assert not await Permits(store).consult(store.ask(what, "?").id)

    async def test_whoever_answers_first_counts(self, store: ApprovalStore) -> None:
        async def ask(approval: Approval) -> bool:
            store.answer(approval.id, False, "bob")
            return True

        with pytest.raises(ApprovalDenied, match="bob said no"):
            await Permits(store, approver=ask).obtain(subject(), "?")

    async def test_output_is_released_by_an_approver_alone(self, store: ApprovalStore) -> None:
        context = PostToolContext(
            original_code="c",
            exit_code=0,
            duration_ms=1,
            agent_id="a",
            vm_id="v",
            stdout="out",
            execution_id="exec-1",
        )
        kept = ExecutionOutput(error="withheld")
        ask = Outcome(AskUser(prompt="show it?"), kept, context.texts)
        shown: list[Approval] = []

        def approve(approval: Approval) -> bool:
            shown.append(approval)
            return True

        asking = Permits(store, approver=approve)
        assert await asking.released(context, ask) == context.texts
        assert (shown[0].language, "out" in shown[0].code) == ("output", True)
        refusing = Permits(store, approver=lambda _: False)
        context = context.model_copy(update={"execution_id": "exec-2"})
        said = await refusing.released(context, ask)
        assert said.error.startswith("Output withheld: Approval denied: approver said no")
        assert said.stdout == ""
        assert await Permits(store).released(context, ask) == kept
        allowed = Outcome(Allow(), context.texts, context.texts)
        assert await asking.released(context, allowed) == context.texts
        assert len(shown) == 1
