"""The audit log's file, and how much of everything an agent may have."""

import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.engine.requests.allowance import COUNTED_S, MIB, Allowance
from mulligan.errors import TooManyRequests
from mulligan.server.audit_log import FILE, AuditLog, read_entries
from mulligan.server.rates import TokenBucket
from mulligan.settings import LimitSettings

TIME = "2025-01-02T03:04:05Z"


def entry(number: int, **more: object) -> dict[str, object]:
    return {"time": TIME, "agent": "a", "ids": {}, "status": number} | more


def statuses(directory: Path, **more: object) -> list[object]:
    return [each.get("status", each) for each in read_entries(directory, **more)]


def test_a_line_an_entry_for_the_servers_user_alone(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, file_mb=1, files=2)
    for number in range(3):
        log.write(entry(number))
    assert statuses(tmp_path) == [0, 1, 2]
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_the_file_may_be_moved_away_at_any_time(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, file_mb=1, files=2)
    log.write(entry(1))
    (tmp_path / FILE).rename(tmp_path / "elsewhere")
    log.write(entry(2))
    assert statuses(tmp_path) == [2]
    assert json.loads((tmp_path / "elsewhere").read_text())["status"] == 1


def test_what_is_long_is_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, file_mb=1, files=3)
    pad = "x" * 50_000
    for number in range(100):
        log.write(entry(number, pad=pad))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [FILE, f"{FILE}.1", f"{FILE}.2"]
    assert all(path.stat().st_size <= MIB for path in tmp_path.iterdir())
    found = statuses(tmp_path)
    assert found == list(range(100 - len(found), 100))
    assert len(found) >= 40


def test_one_file_alone(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, file_mb=1, files=1)
    for number in range(50):
        log.write(entry(number, pad="x" * 50_000))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert statuses(tmp_path)[-1] == 49


def test_writers_do_not_mix(tmp_path: Path) -> None:
    def work(first: int) -> None:
        log = AuditLog(tmp_path, file_mb=64, files=2)
        for number in range(first, first + 100):
            log.write(entry(number, pad="x" * 5000))

    threads = [threading.Thread(target=work, args=(100 * each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses(tmp_path)) == list(range(400))


def test_what_cannot_be_written_is_told_and_counted(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, file_mb=1, files=2)
    log.write(entry(1))
    (tmp_path / FILE).rename(tmp_path / "kept")
    (tmp_path / FILE).mkdir()
    log.write(entry(2))
    log.write(entry(3))
    assert log.failure == os.strerror(21)
    (tmp_path / FILE).rmdir()
    log.write(entry(4))
    assert log.failure is None
    assert statuses(tmp_path) == [{"time": TIME, "lost": 2}, 4]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / FILE).symlink_to(tmp_path / "victim")
    log = AuditLog(tmp_path, file_mb=1, files=2)
    log.write(entry(1))
    assert log.failure is not None
    assert not (tmp_path / "victim").exists()


def test_a_line_torn_by_a_full_disk_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(tmp_path, file_mb=1, files=2)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
        log.write(entry(1))
    assert log.failure is not None
    log.write(entry(2))
    assert statuses(tmp_path) == [{"time": TIME, "lost": 1}, 2]


def test_reading_chooses_and_passes_over_what_is_no_entry(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, file_mb=1, files=2)
    log.write(entry(1, time="2025-01-01T00:00:00Z"))
    with (tmp_path / FILE).open("ab") as file:
        file.write(b"nonsense\n[1]\n\xff\n" + b"[" * 100_000 + b"\n5\n{\n")
    log.write(entry(2))
    log.write(entry(3, agent=None, ids={"agent_id": "b"}))
    since = datetime(2025, 1, 2, tzinfo=UTC)
    assert statuses(tmp_path) == [1, 2, 3]
    assert statuses(tmp_path, since=since) == [2, 3]
    assert statuses(tmp_path, agent="a") == [1, 2]
    assert statuses(tmp_path, agent="b") == [3]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    st.floats(0.1, 1000),
    st.integers(1, 50),
    st.lists(st.floats(0, 10), min_size=1, max_size=60),
)
def test_a_bucket_lets_through_no_more_than_it_says(
    rate: float, burst: int, pauses: list[float]
) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, burst, clock)
    passed = 0
    for pause in pauses:
        clock.now += pause
        wait = bucket.take()
        passed += not wait
        assert passed <= burst + clock.now * rate + 1e-6
        if wait:
            clock.now += wait + 1e-6
            assert bucket.take() == 0  # after the wait it said, there is one
            passed += 1


def test_executions_are_counted_while_they_run() -> None:
    allowance = Allowance(LimitSettings(running_executions=2))
    with allowance.execution("a"), allowance.execution("a"):
        with allowance.execution("b"):
            pass
        third = allowance.execution("a")
        with pytest.raises(TooManyRequests, match="runs 2 executions") as caught, third:
            pytest.fail("a third one ran")
        assert caught.value.retry_after_s >= 1
    with allowance.execution("a"):
        pass


def test_vms_that_are_being_made_count() -> None:
    allowance = Allowance(LimitSettings(vms=5))
    with allowance.vms("a", 2, 2), allowance.vms("a", 2, 1):
        more = allowance.vms("a", 2, 1)
        with pytest.raises(TooManyRequests), more:
            pytest.fail("one too many was made")
    with pytest.raises(TooManyRequests), allowance.vms("a", 0, 6):
        pytest.fail("one too many was made")


@pytest.mark.anyio
async def test_bytes_are_counted_now_and_then_and_at_the_limit_always() -> None:
    clock = Clock()
    allowance = Allowance(LimitSettings(stored_mb=1), clock)
    counted: list[str] = []
    size = MIB - 1

    async def count(agent_id: str) -> int:
        counted.append(agent_id)
        return size

    await allowance.stored("a", count)
    await allowance.stored("a", count)
    assert counted == ["a"]
    size = MIB
    clock.now = COUNTED_S
    for _ in range(2):
        with pytest.raises(TooManyRequests, match="has 1 MB on disk and may have 1 MB"):
            await allowance.stored("a", count)
    assert len(counted) == 3
    size = 0
    await allowance.stored("a", count)
