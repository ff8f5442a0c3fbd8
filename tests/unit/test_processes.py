"""Looking for processes that come and go during the look."""

import os

import pytest

from mulligan.guest import processes, procfs


@pytest.mark.parametrize(
    ("looks", "found", "sure"),
    [
        ([([], set())], [], True),
        ([([7], set())], [7], True),
        ([([], {4}), ([], {4})], [], True),  # a zombie nobody takes away
        ([([], {4}), ([5], {4})], [5], True),  # 4 forked 5 and ended before it was looked into
        ([([], {4}), ([], {4, 5}), ([6], {4, 5})], [6], True),
        ([([], {n}) for n in range(processes.LOOKS)], [], False),
    ],
)
def test_a_look_is_repeated_while_something_ends(monkeypatch, looks, found, sure) -> None:
    monkeypatch.setattr(procfs, "last_pid", lambda: b"9")
    left = iter(looks)

    def find(over: set[int]) -> list[int]:
        seen, ended = next(left)
        over |= ended
        return seen

    assert processes._look(find) == (found, sure)
    assert next(left, None) is None


def test_a_look_is_repeated_while_something_is_made(monkeypatch) -> None:
    numbers = iter([b"1", b"2", b"2", b"2"])
    monkeypatch.setattr(procfs, "last_pid", lambda: next(numbers))
    assert processes._look(lambda over: []) == ([], True)
    assert next(numbers, None) is None


def test_what_has_ended_is_told_apart() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    over: set[int] = set()
    try:
        assert pid not in processes.others(set(), over)
        assert pid in over
    finally:
        os.waitpid(pid, 0)
