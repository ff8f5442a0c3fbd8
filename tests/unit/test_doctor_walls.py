"""What the doctor makes of a probe's answer; the probe itself runs in its own test, in a VM."""

import json

import pytest

from mulligan.cli.walls import walls
from mulligan.guest import landlock

GOOD = {
    "capabilities": [""],
    "no_new_privs": "1",
    "seccomp": "2",
    "mount": "EPERM",
    "namespace": "EPERM",
    "trace": "EPERM",
    "keys": "empty",
    "memory": "EACCES",
    "limits": "EPERM",
    "device": "EACCES",
    "setuid": True,
}


def judged(**changes: object) -> dict[str, tuple[str, str]]:
    found = walls(json.dumps(GOOD | changes))
    return {finding.check: (finding.state, finding.detail) for finding in found}


def test_all_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 6)
    assert {state for state, _ in judged().values()} == {"ok"}


@pytest.mark.parametrize(
    ("change", "check", "named"),
    [
        ({"capabilities": ["", "1"]}, "rights of programs", "capabilities"),
        ({"no_new_privs": "0"}, "rights of programs", "no_new_privs"),
        ({"setuid": False}, "rights of programs", "nosuid"),
        ({"namespace": "done"}, "rights of programs", "namespaces"),
        ({"seccomp": "0"}, "system calls", "seccomp"),
        ({"mount": "done"}, "system calls", "mount"),
        ({"trace": "done"}, "system calls", "trace"),
        ({"limits": "done"}, "system calls", "limits"),
        ({"keys": "open"}, "/proc", "keys"),
        ({"memory": "open"}, "/proc", "memory"),
        ({"device": "EPERM"}, "Landlock", "Landlock"),
    ],
)
def test_what_does_not_hold_is_named(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], check: str, named: str
) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 6)
    found = judged(**change)
    state, detail = found.pop(check)
    assert state == "fail"
    assert named in detail
    assert {state for state, _ in found.values()} == {"ok"}


@pytest.mark.parametrize("version", [0, 1])
def test_a_kernel_without_landlock(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    monkeypatch.setattr(landlock, "version", lambda: version)
    found = {finding.check: finding for finding in walls(json.dumps(GOOD | {"device": "EPERM"}))}
    assert found["Landlock"].state == "note"
    assert "lsm=" in (found["Landlock"].remedy or "")


@pytest.mark.parametrize("said", ["", "[]", "{}", "null", "1", '"x"'])
def test_no_answer(said: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        list(walls(said))


@pytest.mark.parametrize(("device", "state"), [("EACCES", "ok"), ("EPERM", "note")])
def test_another_kernel_is_asked_by_what_it_answers(device: str, state: str) -> None:
    said = json.dumps(GOOD | {"device": device})
    found = {finding.check: finding.state for finding in walls(said, own_kernel=True)}
    assert found["Landlock"] == state
