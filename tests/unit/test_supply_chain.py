"""What Mulligan is made of: named, explained, and looked up honestly."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import audit  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return found[0]


def named(requirements: list[str]) -> set[str]:
    return {name_of(each) for each in requirements} - {"mulligan"}


def test_the_page_has_each_dependency_and_no_other() -> None:
    page = (ROOT / "docs/dependencies.md").read_text()
    listed = re.findall(r"^\| `([^`]+)` \| ([^|]{10,}) \|", page, re.MULTILINE)
    wanted = named(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        wanted |= named(extra)
    assert [name for name, _ in listed] == sorted({name for name, _ in listed}, key=str.lower)
    assert {name for name, _ in listed} == wanted


def test_every_locked_package_has_a_version_and_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=\S)", lock.strip())
    assert len(entries) > len(PROJECT["dependencies"])
    for entry in entries:
        assert "==" in entry.splitlines()[0], entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
        assert "://" not in entry, entry.splitlines()[0]


HOLE = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": [], "description": "it is open"}
WELL = {"name": "well", "version": "1.0", "vulns": []}
OPEN = {"name": "open", "version": "1.0", "vulns": [HOLE]}
SKIPPED = {"name": "mine", "skip_reason": "Dependency not found"}


def test_a_package_nobody_knows_is_not_one_without_holes() -> None:
    report = json.dumps({"dependencies": [WELL, OPEN, SKIPPED], "fixes": []})
    assert audit.judge(report) == (["open 1.0: PYSEC-1, mended in 2.0"], ["mine"])


@pytest.mark.parametrize("printed", ["", "no", "[]", '{"dependencies": []}', "{}"])
def test_a_report_of_nothing_is_none(printed: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        audit.judge(printed)


@pytest.mark.parametrize(
    ("packages", "failed", "lenient", "status"),
    [
        ([WELL], 0, False, 0),
        ([WELL, OPEN], 1, False, 1),
        ([WELL, OPEN], 1, True, 1),
        ([WELL, SKIPPED], 0, False, 1),
        ([WELL, SKIPPED], 0, True, 0),
        ([OPEN, SKIPPED], 1, True, 1),
        (None, 1, False, 1),
        (None, 1, True, 0),
    ],
)
def test_the_status(monkeypatch, capsys, packages, failed, lenient, status) -> None:
    printed = "" if packages is None else json.dumps({"dependencies": packages})
    done = subprocess.CompletedProcess([], failed, printed, "ConnectionError: no route\n")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(sys, "argv", ["audit.py", *(["--if-possible"] if lenient else [])])
    assert audit.main() == status
    unknown = packages is None or SKIPPED in packages
    assert (audit.UNKNOWN in capsys.readouterr().err) == unknown
