"""Diffs: what is told of a change, and how much of it."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.guest import jobs
from mulligan.guest.jobs import text
from mulligan.guest.jobs.diff import Limits, diff
from mulligan.models import DiffEntry

WIDE = Limits(text=65536, total=1 << 23, entries=10**6)


def trees(top: Path, *names: str) -> list[Path]:
    paths = [top / name for name in names]
    for path in paths:
        path.mkdir()
    return paths


def told(old: list[Path], new: list[Path], limits: Limits = WIDE) -> tuple[list[DiffEntry], bool]:
    *entries, end = diff([str(path) for path in old], [str(path) for path in new], limits)
    return [DiffEntry.model_validate(entry) for entry in entries], bool(end["truncated"])


def test_what_is_told_of_each_change(tmp_path: Path) -> None:
    old, new = trees(tmp_path, "old", "new")
    (old / "gone").write_text("was\n")
    (old / "changed").write_text("one\ntwo\n")
    (new / "changed").write_text("one\n2\n")
    (old / "mode").touch(0o644)
    (new / "mode").touch()
    (new / "mode").chmod(0o4755)
    (old / "swap").mkdir()
    (old / "swap" / "in").touch()
    (new / "swap").symlink_to("/etc/passwd")
    (new / "binary").write_bytes(b"\0\1")
    (new / "latin").write_bytes(b"caf\xe9")
    os.mkfifo(new / "pipe", 0o600)
    os.mknod(new / "socket", stat.S_IFSOCK | 0o600)
    entries, truncated = told([old], [new])
    assert not truncated
    found = {
        entry.path: (entry.change, entry.kind, entry.old_size, entry.new_size, entry.text_diff)
        for entry in entries
    }
    assert found == {
        "/binary": ("added", "file", None, 2, None),
        "/changed": (
            "changed", "file", 8, 6,
            "--- a/changed\n+++ b/changed\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n",
        ),
        "/gone": ("removed", "file", 4, None, "--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-was\n"),
        "/latin": ("added", "file", None, 4, None),
        "/mode": ("changed", "file", 0, 0, None),
        "/pipe": ("added", "fifo", None, None, None),
        "/socket": ("added", "socket", None, None, None),
        "/swap": ("changed", "symlink", None, 11, None),
        "/swap/in": ("removed", "file", 0, None, None),
    }  # fmt: skip
    modes = {entry.path: (entry.old_mode, entry.new_mode) for entry in entries}
    assert modes["/mode"] == ("0644", "4755")
    assert modes["/gone"] == ("0644", None)


def test_names_of_any_bytes_become_text(tmp_path: Path) -> None:
    old, new = trees(tmp_path, "old", "new")
    Path(os.fsdecode(os.fsencode(new) + b"/\xff\n\xe2\x82\xac")).write_text("x\n")
    (entry,), _ = told([old], [new])
    assert entry.path == "/\\xff\n€"
    assert entry.text_diff is not None
    assert entry.text_diff.splitlines()[1].endswith("\\\\xff\\n€")


def test_copies_that_change_nothing_and_times_are_no_change(tmp_path: Path) -> None:
    old, new = trees(tmp_path, "old", "new")
    for tree in (old, new):
        (tree / "d").mkdir()
        (tree / "d" / "f").write_text("same")
        os.utime(tree / "d" / "f", (len(tree.name), 7 if tree is old else 9))
    assert told([new, old], [old]) == ([], False)
    assert told([old], [new]) == ([], False)


def test_a_shared_bottom_is_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, base, extra = trees(tmp_path, "image", "base", "extra")
    for tree in (image, base):
        for number in range(50):
            (tree / f"{tree.name}{number}").mkdir()
    (extra / "base7").mkdir()
    (extra / "base7" / "f").touch()
    listed = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda place: listed.append(place) or real(place))
    entries, _ = told([base, image], [extra, base, image])
    assert [entry.path for entry in entries] == ["/base7/f"]
    assert len(listed) == 2


def test_limits(tmp_path: Path) -> None:
    old, new = trees(tmp_path, "old", "new")
    for number in range(10):
        (new / f"f{number}").write_text("line\n" * 100)
    entries, truncated = told([old], [new], Limits(text=1000, total=10**6, entries=9))
    assert (len(entries), truncated) == (9, True)
    entries, truncated = told([old], [new], Limits(text=1000, total=10**6, entries=10))
    assert (len(entries), truncated) == (10, False)
    entries, truncated = told([old], [new], Limits(text=1000, total=2000, entries=10))
    assert [entry.text_diff is not None for entry in entries] == [True] * 3 + [False] * 7
    assert truncated
    entries, truncated = told([old], [new], Limits(text=100, total=10**6, entries=10))
    assert all(entry.text_diff is None for entry in entries)  # too long to look into
    entries, _ = told([old], [new], Limits(text=200, total=10**6, entries=10))
    cut = entries[0].text_diff
    assert cut is not None
    assert cut.endswith("+line\n\\ Cut: the diff is longer than 200 bytes\n")
    assert len(cut) < 260
    entries, truncated = told([old], [new], Limits(text=1000, total=0, entries=10))
    assert (entries[0].text_diff, truncated) == (None, False)


# Texts


LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\r\n", "\n", "\u2028\x0b\n"]), max_size=30)


@given(LINES, LINES, st.sampled_from(["", "end"]), st.sampled_from(["", "end"]))
def test_a_unified_diff_makes_the_new_text_of_the_old(
    old: list[str], new: list[str], old_end: str, new_end: str
) -> None:
    before, after = "".join(old) + old_end, "".join(new) + new_end
    difference = text.unified(before, after, "/f", 10**6, text.Effort())
    assert (difference == "") == (before == after)
    assert patched(before, difference) == after


def patched(old: str, difference: str) -> str:
    """Applies a unified diff; every context and removed line must be where it says."""
    rest = [line + "\n" for line in old.split("\n")]
    rest[-1] = rest[-1][:-1]
    result: list[str] = []
    taken, mark = 0, ""
    for line in difference.split("\n")[2:-1]:
        if line.startswith("@@"):
            start, _, count = line.split()[1][1:].partition(",")
            first = int(start) - (count != "0")
            result += rest[taken:first]
            taken = first
        elif line.startswith("\\"):
            if mark in "+ ":
                result[-1] = result[-1][:-1]
        elif line[0] in " -":
            assert rest[taken].rstrip("\n") == line[1:].rstrip("\n")
            taken += 1
        if line[0] in " +":
            result.append(line[1:] + "\n")
        mark = line[0]
    return "".join(result + rest[taken:])


def test_hostile_texts_cost_a_bounded_effort() -> None:
    old = "".join(f"{number * 7919 % 10007}\n" for number in range(10_000))
    new = "".join(f"{number * 104729 % 10007}\n" for number in range(10_000))
    effort = text.Effort(100_000)
    difference = text.unified(old, new, "/f", 10**7, effort)
    assert patched(old, difference) == new
    assert effort.left > -50_000


# The entry


def lines(capfdbinary: pytest.CaptureFixture[bytes], **arguments: Any) -> list[Any]:
    jobs.main(arguments)
    return [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]


def test_jobs_answer_in_lines_of_json(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    a, b = trees(tmp_path, "a", "b")
    (b / "f").write_text("x")
    paths = [str(b), str(a)]
    assert lines(capfdbinary, op="copy", source=paths[0], target=f"{tmp_path}/copy") == [
        {"entries": 1}
    ]
    assert lines(capfdbinary, op="merge", trees=paths, target=f"{tmp_path}/merge") == [
        {"entries": 1, "copied": 0}
    ]
    (found,) = lines(capfdbinary, op="size", trees=paths)
    assert found["entries"] == 1
    entry, end = lines(capfdbinary, op="diff", old=[], new=[str(b)], image=str(a))
    assert DiffEntry.model_validate(entry).path == "/f"
    assert entry.keys() == DiffEntry.model_fields.keys()
    assert end == {"end": True, "truncated": False}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "op must be one of copy, merge, diff, size"),
        ({"op": "format"}, "op"),
        ({"op": "copy", "source": "/a"}, "target must be an absolute path"),
        ({"op": "copy", "source": "a", "target": "/b"}, "source"),
        ({"op": "copy", "source": "/a\0", "target": "/b"}, "source"),
        ({"op": "merge", "trees": [], "target": "/b"}, "trees must be a list"),
        ({"op": "merge", "trees": "/a", "target": "/b"}, "trees"),
        ({"op": "merge", "trees": ["/a"], "target": "/b", "bottom": True}, "'bottom'"),
        ({"op": "size", "trees": [1]}, "trees"),
        ({"op": "diff", "old": [], "new": [], "max_entries": -1}, "max_entries"),
        ({"op": "diff", "old": [], "new": [], "max_total": True}, "max_total"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        jobs.main(arguments)
