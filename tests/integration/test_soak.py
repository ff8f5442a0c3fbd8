"""Everything mixed, with faults: every request answered, no answer wrong; see ``support.soak``."""

from pathlib import Path

import pytest

from support import host
from support.small_disk import run_module
from support.soak import SECONDS


def check(seconds: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv(SECONDS, str(seconds))
    with host.data_directory() as path:
        done = run_module("support.soak", path, 400, seconds + 200)
    assert done.returncode == 0, done.stdout + done.stderr
    with capsys.disabled():
        print(f"\n{done.stdout}", end="")
    assert "answers:" in done.stdout
    assert host.naming(Path(path)) == []


@pytest.mark.long
@pytest.mark.timeout(300)
def test_twenty_seconds(monkeypatch, capsys) -> None:
    check(20, monkeypatch, capsys)


@pytest.mark.long
@pytest.mark.timeout(1000)
def test_ten_minutes(monkeypatch, capsys) -> None:
    check(600, monkeypatch, capsys)
