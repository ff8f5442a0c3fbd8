"""The measurement of the history runs: what it fills past the interface, the interface reads."""

import pytest
from bench import history


def test_it_finds_what_it_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "ROUNDS", 2)
    lines = history.measure(400, ["vm-one", "vm-two"], None, "process")
    totals = {line.name: line.total for line in lines}
    assert totals["newest 100"] == totals["search, in all rows"]
    assert totals["search, nowhere"] == 0
    assert {"begin", "finish", "finish, oldest dropped"} <= totals.keys()
