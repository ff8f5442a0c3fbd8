"""What a history must do on every database: a suite for test modules to inherit.

They give it two fixtures: ``store``, an open one of the class's own, and ``reopened``, which
closes and opens it again and returns what `open` did.
"""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mulligan.errors import HistoryError
from mulligan.history import Dropped, HistoryStore, blocks
from mulligan.models import (
    CommandHistoryEntry,
    HistoryQueryRequest,
    KernelState,
    NetworkConnection,
    Snapshot,
    Verdict,
)

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
INLINE = 2000  # output_inline_bytes of the stores
_numbers = itertools.count()

relaxed = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


def fresh(prefix: str) -> str:
    """An id nothing else in this process has."""
    return f"{prefix}-{next(_numbers)}"


def entry(vm_id: str, **values: object) -> CommandHistoryEntry:
    """An execution that has just begun, unless it is told otherwise."""
    given = {
        "id": fresh("exec"),
        "vm_id": vm_id,
        "agent_id": "agent",
        "command": "print(1)",
        "language": "python",
        "success": False,
        "exit_code": 0,
        "stdout": "",
        "stderr": "",
        "executed_at": NOON,
        "duration_ms": 0,
        "outcome": "running",
    }
    return CommandHistoryEntry(**{**given, **values})


def ended(begun: CommandHistoryEntry, *, success: bool = True, **values: object):
    """The same execution, over."""
    outcome = "success" if success else "failure"
    return begun.model_copy(update={"success": success, "outcome": outcome, **values})


def snapshot(vm_id: str, kind: str, **values: object) -> Snapshot:
    given = {"id": fresh("snap"), "vm_id": vm_id, "agent_id": "agent", "created_at": NOON}
    return Snapshot(**{**given, "kind": kind, **values})


def run(store: HistoryStore, vm_id: str, most: int | None = None, **values: object) -> Dropped:
    """An execution from begin to end."""
    begun = entry(vm_id, **values)
    dropped = store.begin(begun, max_entries=most)
    store.finish(ended(begun))
    return dropped


def ids(store: HistoryStore, vm_id: str, **filters: object) -> list[str]:
    return [each.id for each in store.query(HistoryQueryRequest(vm_id=vm_id, **filters)).entries]


# NUL, half surrogate pairs and the character that escapes them, more often than by chance.
texts = st.text(st.one_of(st.characters(), st.sampled_from("\x00\x1a\ud800\udfff'\"%\\😀")))
names = texts.filter(bool)
u64 = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**63 - 1, 2**63, 2**64 - 1]))
times = st.datetimes(timezones=st.just(UTC))
finite = st.floats(allow_nan=False, allow_infinity=False)
verdicts = st.builds(
    Verdict, hook=texts, decision=texts, reason=st.none() | texts, duration_ms=finite
)
entries = st.builds(
    CommandHistoryEntry,
    id=st.builds(lambda text: fresh("exec") + text, st.sampled_from(["", "/../../x", "\x00", "é"])),
    vm_id=names,
    agent_id=texts,
    command=texts,
    language=texts,
    snapshot_id=st.none() | texts,
    success=st.booleans(),
    exit_code=st.integers(-(2**31), 2**31 - 1),
    stdout=texts | st.builds(lambda text: text * INLINE, texts.filter(bool)),
    stderr=texts | st.builds(lambda text: text * INLINE, texts.filter(bool)),
    executed_at=times,
    duration_ms=u64,
    proposed_command=st.none() | texts,
    outcome=st.sampled_from(["success", "failure", "running", "timeout"]),
    error=st.none() | texts,
    kernel=st.none() | texts,
    verdicts=st.lists(verdicts, max_size=3),
    approval=st.none() | texts,
    stdin_sha256=st.none() | texts,
    truncated=st.booleans(),
    stdout_bytes=u64,
    stderr_bytes=u64,
    completed_at=st.none() | times,
    cpu_ms=u64,
    max_rss_kb=u64,
    snapshot_before=st.none() | texts,
    snapshot_after=st.none() | texts,
    change_bytes=st.none() | u64,
    network=st.lists(
        st.builds(
            NetworkConnection,
            host=texts,
            port=u64,
            via=texts,
            verdict=texts,
            reason=st.none() | texts,
            started_at=times,
            secrets=st.lists(texts, max_size=2),
        ),
        max_size=2,
    ),
)
snapshot_strategy = st.builds(
    Snapshot,
    id=st.builds(lambda: fresh("snap")),
    vm_id=names,
    agent_id=texts,
    name=st.none() | texts,
    description=st.none() | texts,
    kind=texts,
    created_at=times,
    execution_id=st.none() | texts,
    size_bytes=st.none() | u64,
    kernels=st.lists(
        st.builds(
            KernelState, name=texts, language=texts, memory=texts, notes=st.lists(texts, max_size=2)
        ),
        max_size=2,
    ),
)

WORDS = ["alpha", "beta", "gamma", "delta"]
facts = st.fixed_dictionaries(
    {
        "language": st.sampled_from(["python", "bash"]),
        "kernel": st.sampled_from([None, "main"]),
        "agent_id": st.sampled_from(["one", "two"]),
        "ending": st.sampled_from(["success", "failure", "running"]),
        "minute": st.integers(0, 9),
        "command": st.sampled_from(WORDS),
        "stdout": st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join),
    }
)
minutes = st.none() | st.integers(-1, 10)
requests = st.fixed_dictionaries(
    {
        "limit": st.none() | st.integers(0, 6),
        "offset": st.integers(0, 6),
        "failures_only": st.booleans(),
        "start": minutes,
        "end": minutes,
        "agent_id": st.sampled_from([None, None, "one"]),
        "language": st.sampled_from([None, None, "python", "cobol"]),
        "kernel": st.sampled_from([None, None, "main"]),
        "search": st.sampled_from([None, None, "alpha", "Beta gamma", " "]),
    }
)


def at(minute: int | None) -> datetime | None:
    return None if minute is None else NOON + timedelta(minutes=minute)


def matches(fact: dict, asked: dict) -> bool:
    """The filters, told plainly."""
    if asked["failures_only"] and fact["ending"] != "failure":
        return False
    for name in ("agent_id", "language", "kernel"):
        if asked[name] is not None and fact[name] != asked[name]:
            return False
    if asked["start"] is not None and fact["minute"] < asked["start"]:
        return False
    if asked["end"] is not None and fact["minute"] > asked["end"]:
        return False
    present = {fact["command"], *(fact["stdout"] if fact["ending"] != "running" else "").split()}
    return all(word in present for word in (asked["search"] or "").lower().split())


class HistorySuite:
    """Tests of one kind of store."""

    @relaxed
    @given(given=entries)
    def test_every_field_comes_back(self, store: HistoryStore, given: CommandHistoryEntry) -> None:
        store.finish(given)
        assert store.get(given.id) == given
        assert store.last(given.vm_id) == given
        shown = store.query(
            HistoryQueryRequest.model_construct(
                **{**HistoryQueryRequest(vm_id="x").model_dump(), "vm_id": given.vm_id, "limit": 1}
            )
        ).entries[0]
        if not {"stdout", "stderr"} & self.cut(given):
            assert shown == given
        store.finish(given)
        assert store.get(given.id) == given

    def cut(self, given: CommandHistoryEntry) -> set[str]:
        """Which outputs a query may show shortened."""
        outputs = {"stdout": given.stdout, "stderr": given.stderr}
        return {
            name
            for name, text in outputs.items()
            if len(text.encode(errors="surrogatepass")) > INLINE
        }

    @relaxed
    @given(given=snapshot_strategy, layer=st.none() | texts)
    def test_every_field_of_a_snapshot_comes_back(
        self, store: HistoryStore, given: Snapshot, layer: str | None
    ) -> None:
        store.add_snapshot(given, layer)
        assert store.get_snapshot(given.id) == (given, layer)
        assert store.list_snapshots(given.vm_id)[0] == given
        assert layer is None or (given.agent_id, layer) in store.referenced_layers()
        assert store.delete_snapshot(given.id)
        assert not store.delete_snapshot(given.id)
        assert store.get_snapshot(given.id) is None

    @relaxed
    @given(
        kept=st.lists(facts, max_size=14),
        asked=st.lists(requests, min_size=1, max_size=6),
        block=st.integers(1, 4),
        most=st.none() | st.integers(0, 8),
        again=st.booleans(),
    )
    def test_queries_agree_with_a_plain_list(
        self, store: HistoryStore, kept: list, asked: list, block: int, most: int, again: bool
    ) -> None:
        vm_id, run_ids = fresh("vm"), []
        model: list[dict] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "BLOCK_ROWS", block)
            for fact in kept:
                begun = entry(
                    vm_id,
                    **{k: fact[k] for k in ("language", "kernel", "agent_id")},
                    executed_at=at(fact["minute"]),
                    command=fact["command"],
                )
                dropped = store.begin(begun, max_entries=most)
                model.append(fact | {"id": begun.id})
                excess = len(model) - most if most is not None else 0
                old = [f["id"] for f in model[:-1] if f["ending"] != "running"][: max(excess, 0)]
                assert list(dropped.executions) == old
                model = [f for f in model if f["id"] not in old]
                if fact["ending"] != "running":
                    done = ended(begun, success=fact["ending"] == "success", stdout=fact["stdout"])
                    for _ in range(1 + again):
                        store.finish(done)
                run_ids.append(begun.id)
        newest = model[::-1]
        for question in asked:
            found = [fact["id"] for fact in newest if matches(fact, question)]
            filters = {k: v for k, v in question.items() if k not in {"start", "end"}}
            answer = store.query(
                HistoryQueryRequest(
                    vm_id=vm_id,
                    start_date=at(question["start"]),
                    end_date=at(question["end"]),
                    **filters,
                )
            )
            first, limit = question["offset"], question["limit"]
            page = found[first:] if limit is None else found[first : first + limit]
            assert ([each.id for each in answer.entries], answer.total) == (page, len(found))
        last = store.last(vm_id)
        assert (last and last.id) == (newest[0]["id"] if newest else None)
        store.delete_vm(vm_id)
        assert store.query(HistoryQueryRequest(vm_id=vm_id)).total == 0
        assert not [each for each in run_ids if store.get(each)]

    @relaxed
    @given(search=st.text())
    @example(search="%")
    @example(search="_")
    @example(search='"')
    @example(search="'; DROP TABLE mulligan_words; --")
    @example(search="a AND OR NOT NEAR(b, 3)")
    @example(search="words:x ^y z* -q (r")
    @example(search="\x00")
    @example(search="a\x00b")
    @example(search="\\")
    @example(search=":* & | ! <->")
    @example(search="🎉")
    @example(search="x" * 10_000)
    @example(search="%_" * 5000)
    @example(search=" ".join(f"w{n}" for n in range(2000)))
    @example(search="\ud800")
    def test_any_search_is_safe_and_finds_itself(self, store: HistoryStore, search: str) -> None:
        vm_id = fresh("vm")
        run(store, vm_id, command="")
        begun = entry(vm_id, command=f"before({search}) after")
        store.begin(begun, max_entries=None)
        found = ids(store, vm_id, search=search)
        words = [word for word in search.split() if any(c.isalnum() for c in word)]
        assert found in ([begun.id], []) or not search.strip()
        if words and search.isascii():
            assert found == [begun.id]

    def test_search_goes_by_words_of_code_and_output(self, store: HistoryStore) -> None:
        vm_id = fresh("vm")
        begun = entry(vm_id, command="df.head(10)\nmax_value = 3", proposed_command="proposed")
        store.begin(begun, max_entries=None)
        run(store, vm_id, command="other")
        assert ids(store, vm_id, search="head") == [begun.id]  # running, too
        store.finish(ended(begun, stdout="Größe 🎉", stderr="x.ZeroDivisionError: 数据库"))
        for search in (
            "HEAD",
            "head df",
            "df.head(10)",
            "max_value",
            "value",
            "größe",
            "GRÖSSE",
            "🎉",
            "zerodivisionerror",
            "Division",
            "数据",
            "proposed",
            "3",
        ):
            assert ids(store, vm_id, search=search) == [begun.id], search
        for search in ("hea", "%", "df other", "===", "nothing"):
            assert ids(store, vm_id, search=search) == [], search
        assert len(ids(store, vm_id, search="  ")) == 2
        assert ids(store, fresh("vm"), search="head") == []

    def test_search_covers_64_kib_of_each_output(self, store: HistoryStore) -> None:
        vm_id = fresh("vm")
        filler = "x " * 32_000
        begun = entry(
            vm_id,
            stdout=f"{filler} needle",
            stderr=f"{filler} haystack",
            success=True,
            outcome="success",
        )
        store.finish(begun)
        assert ids(store, vm_id, search="needle haystack") == [begun.id]

    def test_newest_first_though_the_clock_jumps_back(self, store: HistoryStore) -> None:
        vm_id = fresh("vm")
        times_ = [NOON, NOON - timedelta(days=400), NOON + timedelta(days=1), NOON]
        made = [entry(vm_id, executed_at=time) for time in times_]
        for each in made:
            store.begin(each, max_entries=None)
        for each in reversed(made):  # ended in another order than begun
            store.finish(ended(each))
        assert ids(store, vm_id) == [each.id for each in reversed(made)]
        assert ids(store, vm_id, start_date=NOON, end_date=NOON) == [made[3].id, made[0].id]
        assert store.last(vm_id).id == made[3].id

    def test_the_last_one_is_one_that_was_let_run(self, store: HistoryStore) -> None:
        vm_id = fresh("vm")
        assert store.last(vm_id) is None
        store.begin(entry(vm_id, outcome="refused"), max_entries=None)
        assert store.last(vm_id) is None
        ran = entry(vm_id)
        store.begin(ran, max_entries=None)
        store.begin(entry(vm_id, outcome="refused"), max_entries=None)
        assert store.last(vm_id) == ran

    def test_limits(self, store: HistoryStore) -> None:
        vm_id = fresh("vm")
        for _ in range(103):
            store.finish(ended(entry(vm_id)))
        assert len(ids(store, vm_id)) == 100
        assert len(ids(store, vm_id, limit=2**64 - 1)) == 103
        answer = store.query(HistoryQueryRequest(vm_id=vm_id, limit=0))
        assert (answer.entries, answer.total) == ([], 103)
        answer = store.query(HistoryQueryRequest(vm_id=vm_id, offset=2**64 - 1))
        assert (answer.entries, answer.total) == ([], 103)
        assert len(ids(store, vm_id, offset=100)) == 3

    def test_dropped_rows_release_their_snapshots(self, store: HistoryStore) -> None:
        vm_id = fresh("vm")
        kinds = ("restore_point", "execution", "manual", "pre_rollback")
        before, after, manual, undo = (snapshot(vm_id, kind) for kind in kinds)
        shared = snapshot(vm_id, "restore_point")
        first = entry(vm_id, snapshot_before=before.id, snapshot_id=after.id)
        own = snapshot(vm_id, "execution", execution_id=first.id)
        for each in (before, after, manual, undo, shared, own):
            store.add_snapshot(each, "layer")
        store.begin(first, max_entries=3)
        store.finish(ended(first, snapshot_after=manual.id))
        second = entry(vm_id, snapshot_before=shared.id, snapshot_after=undo.id)
        third = entry(vm_id, snapshot_before=shared.id)
        for each in (second, third):
            store.begin(each, max_entries=3)
            store.finish(ended(each))
        dropped = run(store, vm_id, most=3)
        assert dropped.executions == (first.id,)
        assert set(dropped.snapshots) == {before.id, after.id, own.id}
        assert store.get_snapshot(before.id) is None
        assert store.get_snapshot(manual.id)
        # What another row still names stays until that one goes.
        assert run(store, vm_id, most=3) == Dropped((second.id,), ())
        assert run(store, vm_id, most=3) == Dropped((third.id,), (shared.id,))
        assert {each.id for each in store.list_snapshots(vm_id)} == {manual.id, undo.id}

    def test_ids_may_be_any_text(self, store: HistoryStore) -> None:
        vm_id, odd = fresh("vm\x00\ud800"), fresh("'\x00\x1a/../😀")
        kept = snapshot(vm_id, "execution", id=odd)
        store.add_snapshot(kept, "layer")
        store.finish(ended(entry(vm_id, id=odd, snapshot_id=odd, stdout="o" * 2 * INLINE)))
        assert run(store, vm_id, most=1) == Dropped((odd,), (odd,))
        assert store.get_snapshot(odd) is None

    def test_a_fork_s_rows_keep_its_origin_s_snapshots(self, store: HistoryStore) -> None:
        origin, fork = fresh("vm"), fresh("vm")
        kept = snapshot(origin, "execution")
        store.add_snapshot(kept, "layer")
        store.finish(ended(entry(origin, snapshot_after=kept.id)))
        store.finish(ended(entry(fork, snapshot_before=kept.id)))
        assert run(store, origin, most=1).snapshots == ()
        assert run(store, fork, most=1).snapshots == (kept.id,)

    def test_running_rows_are_never_dropped(self, store: HistoryStore) -> None:
        vm_id = fresh("vm")
        running = [entry(vm_id) for _ in range(3)]
        for each in running:
            assert store.begin(each, max_entries=1) == Dropped()
        store.finish(ended(running[1]))
        assert run(store, vm_id, most=1).executions == (running[1].id,)
        assert ids(store, vm_id, failures_only=True) == []

    def test_snapshots_nothing_refers_to_go_at_the_next_start(
        self, store: HistoryStore, reopened: Callable[[], list[str]]
    ) -> None:
        vm_id = fresh("vm")
        kinds = ["manual", "pre_rollback", "execution", "restore_point", "restore_point"]
        made = [snapshot(vm_id, kind) for kind in kinds]
        done = ended(entry(vm_id, snapshot_before=made[4].id))
        for each in (*made, own := snapshot(vm_id, "execution", execution_id=done.id)):
            store.add_snapshot(each, "layer")
        store.finish(done)
        reopened()
        kept = {each.id for each in store.list_snapshots(vm_id)}
        referred = {made[4].id, own.id} if store.get(done.id) else set()  # it may not persist
        assert kept == {made[0].id, made[1].id} | referred

    def test_large_outputs(self, store: HistoryStore) -> None:
        vm_id = fresh("vm")
        long = "ä\x00\ud800" * INLINE
        each = ended(entry(vm_id), stdout=long, stderr="short")
        store.finish(each)
        assert store.get(each.id).stdout == store.last(vm_id).stdout == long
        shown = store.query(HistoryQueryRequest(vm_id=vm_id)).entries[0]
        assert shown.stdout.startswith(long[:100])
        assert shown.stderr == "short"
        small = each.model_copy(update={"stdout": "small"})
        store.finish(small)
        assert store.get(each.id) == small
        assert store.query(HistoryQueryRequest(vm_id=vm_id)).entries == [small]

    def test_a_vm_is_deleted_with_all_of_it(self, store: HistoryStore) -> None:
        vm_id, other = fresh("vm"), fresh("vm")
        kept = snapshot(other, "manual")
        gone = [snapshot(vm_id, kind) for kind in ("manual", "execution")]
        for each in (kept, *gone):
            store.add_snapshot(each, each.id)
        made = [entry(vm_id, stdout="x" * 3 * INLINE), entry(vm_id)]
        for each in made:
            store.begin(each, max_entries=None)
        stays = entry(other)
        store.begin(stays, max_entries=None)
        assert store.delete_vm(vm_id) == Dropped(
            tuple(each.id for each in made), tuple(each.id for each in gone)
        )
        assert store.list_snapshots(vm_id) == [] == ids(store, vm_id)
        assert ids(store, other) == [stays.id]
        assert ("agent", kept.id) in store.referenced_layers()
        assert ("agent", gone[0].id) not in store.referenced_layers()
        assert store.delete_vm(vm_id) == Dropped()

    def test_ids_are_taken_once(self, store: HistoryStore) -> None:
        vm_id = fresh("vm")
        each, kept = entry(vm_id), snapshot(vm_id, "manual")
        store.begin(each, max_entries=None)
        store.add_snapshot(kept, None)
        with pytest.raises(HistoryError, match=f"there is an execution {each.id} already"):
            store.begin(each, max_entries=None)
        with pytest.raises(HistoryError, match=f"there is a snapshot {kept.id} already"):
            store.add_snapshot(kept, None)
        assert store.query(HistoryQueryRequest(vm_id=vm_id)).total == 1

    def test_writers_and_readers_at_once(self, store: HistoryStore) -> None:
        vm_ids = [fresh("vm") for _ in range(2)]
        begin_together = threading.Barrier(6)

        def write(number: int) -> list[str]:
            begin_together.wait()
            made = [entry(vm_ids[number % 2], command=f"n{number}") for _ in range(15)]
            for each in made:
                store.begin(each, max_entries=None)
                store.finish(ended(each, stdout="y" * 2 * INLINE))
            return [each.id for each in made]

        def read(number: int) -> list[str]:
            begin_together.wait()
            for _ in range(15):
                answer = store.query(HistoryQueryRequest(vm_id=vm_ids[number % 2]))
                assert answer.total == len(answer.entries)
            return []

        with ThreadPoolExecutor(6) as pool:
            jobs = [pool.submit(write, n) for n in range(4)]
            jobs += [pool.submit(read, n) for n in range(2)]
            written = [each for job in jobs for each in job.result()]
        assert sorted(written) == sorted(each for vm in vm_ids for each in ids(store, vm))
        assert len(ids(store, vm_ids[0], search="n2")) == 15

    def test_rows_survive_and_running_ones_are_lost(
        self, store: HistoryStore, reopened: Callable[[], list[str]]
    ) -> None:
        vm_id = fresh("vm")
        done, running = ended(entry(vm_id), stdout="z" * 2 * INLINE), entry(vm_id, command="was_on")
        store.finish(done)
        store.begin(running, max_entries=None)
        assert running.id in reopened()
        assert store.get(done.id) == done
        lost = store.get(running.id)
        assert (lost.outcome, lost.success) == ("lost", False)
        assert lost.error == "the server was ended while this ran"
        assert ids(store, vm_id, failures_only=True) == [running.id]
        assert ids(store, vm_id, failures_only=True, search="was_on") == [running.id]
        assert running.id not in reopened()

    def test_closed_and_opened_twice(
        self, store: HistoryStore, reopened: Callable[[], list[str]]
    ) -> None:
        with pytest.raises(HistoryError, match="open already"):
            store.open()
        store.close()
        store.close()
        with pytest.raises(HistoryError, match="the history is closed"):
            store.last("")
        reopened()
        assert store.last("") is None
