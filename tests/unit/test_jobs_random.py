"""Random changes in random stacks: overlayfs itself says what jobs must make of them."""

import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mulligan.guest.jobs.copy import copy
from mulligan.guest.jobs.diff import Limits, diff
from mulligan.guest.jobs.merge import merge
from mulligan.guest.jobs.size import size
from support.overlays import Stack, inside, naive_diff, quietly, raw, remove, view

LIMITS = Limits(text=65536, total=1 << 23, entries=10**6)
BOUNDED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# Few names, and an image that has them: changes are to meet each other.
NAMES = st.sampled_from([b"a", b"a", b"a", b"a", b"b", b"b", b"\xff", b"new\nline"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
KINDS = st.sampled_from(
    ["write", "write", "mkdir", "mkdir", "remove", "remove", "rename", "rename", "link", "symlink"]
    + [
        "chmod",
        "xattr",
        "noxattr",
        "fifo",
        "socket",
        "sparse",
        "utime",
        "touch",
        "remake",
        "rewrite",
    ]
)
CHANGES = st.lists(st.tuples(KINDS, PATHS, PATHS, st.integers(0, 9)), max_size=12)
LAYERS = st.lists(CHANGES, min_size=1, max_size=4)
Change = tuple[str, bytes, bytes, int]


def change(top: Path, changes: list[Change]) -> None:
    """Does what can be done of some changes."""
    for kind, name, other_name, number in changes:
        path, other = (os.path.join(os.fsencode(top), each) for each in (name, other_name))
        quietly(_DO[kind], path, other, number)


def _write(path: bytes, other: bytes, number: int) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        file.write(b"%d\n" % number * number)


def _rewrite(path: bytes, other: bytes, number: int) -> None:
    """Copies up and changes nothing."""
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.pwrite(descriptor, os.pread(descriptor, 100, 0), 0)
    finally:
        os.close(descriptor)


def _sparse(path: bytes, other: bytes, number: int) -> None:
    with open(path, "xb") as file:
        file.seek(number * 100_000)
        file.write(b"end")
        file.truncate(number * 150_000 + 3)


def _remake(path: bytes, other: bytes, number: int) -> None:
    remove(path)
    os.mkdir(path)
    Path(os.fsdecode(path), "a").write_bytes(b"x")


def _xattr(path: bytes, other: bytes, number: int) -> None:
    # What looks like overlayfs' own belongs to the program, inside an overlay.
    names = [b"user.one", b"user.two", b"user.overlay.opaque", b"user.overlay.x"]
    os.setxattr(path, names[number % 4], b"%d" % number, follow_symlinks=False)


def _noxattr(path: bytes, other: bytes, number: int) -> None:
    for name in os.listxattr(path, follow_symlinks=False):
        os.removexattr(path, name, follow_symlinks=False)


_DO: dict[str, Any] = {
    "write": _write,
    "rewrite": _rewrite,
    "sparse": _sparse,
    "remake": _remake,
    "xattr": _xattr,
    "noxattr": _noxattr,
    "mkdir": lambda path, other, number: os.mkdir(path, 0o700 + number),
    "remove": lambda path, other, number: remove(path),
    "rename": lambda path, other, number: os.rename(path, other),
    "link": lambda path, other, number: os.link(path, other, follow_symlinks=False),
    "symlink": lambda path, other, number: os.symlink(other, path),
    "chmod": lambda path, other, number: os.chmod(
        path, [0, 0o4711, 0o1777, 0o2750, 0o600][number % 5]
    ),
    "fifo": lambda path, other, number: os.mkfifo(path, 0o640),
    "socket": lambda path, other, number: os.mknod(path, stat.S_IFSOCK | 0o600),
    "utime": lambda path, other, number: os.utime(
        path, ns=(1, number * 10**9 + 7), follow_symlinks=False
    ),
    "touch": lambda path, other, number: os.utime(path, follow_symlinks=False),
}


def build(stack: Stack, image: list[Change], layers: list[list[Change]]) -> None:
    """An image that is no overlay, and trees over it."""
    plain = [each for each in image if not (each[0] == "xattr" and each[3] % 4 > 1)]
    for directory in ("a/a/a", "a/b", "b/a"):
        (stack.image / directory).mkdir(parents=True)
        for name in ("file", "\udcff"):
            (stack.image / directory / name).write_text(directory)
    change(stack.image, plain)
    for layer in layers:
        stack.add(lambda merged, layer=layer: change(merged, layer))


def assert_diff(stack: Stack, old: list[str], new: list[str]) -> None:
    *entries, end = diff([*old, str(stack.image)], [*new, str(stack.image)], LIMITS)
    assert end == {"end": True, "truncated": False}
    paths = [entry["path"] for entry in entries]
    assert paths == sorted(paths)
    for entry in entries:
        del entry["text_diff"]
    assert {entry["path"]: entry for entry in entries} == naive_diff(
        stack.view(old), stack.view(new)
    )


@BOUNDED
@given(image=CHANGES, layers=LAYERS, cut=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_a_merged_part_of_a_stack_does_what_the_part_did(image, layers, cut) -> None:
    def work(stack: Stack) -> None:
        build(stack, image, layers)
        trees = stack.newest_first()
        first, last = min(cut) % len(trees), max(cut) % len(trees)
        first, last = min(first, last), max(first, last) + 1
        before = [raw(tree) for tree in stack.trees]
        merged = stack.new()
        merge(trees[first:last], str(merged))
        assert stack.view([*trees[:first], str(merged), *trees[last:]]) == stack.view(trees)
        assert [raw(tree) for tree in stack.trees] == before
        assert list(diff(trees[first:last], [str(merged)], LIMITS)) == [
            {"end": True, "truncated": False}
        ]

    inside(work)


@BOUNDED
@given(image=CHANGES, layers=LAYERS, branch=LAYERS, cut=st.integers(0, 4))
def test_a_diff_says_what_differs(image, layers, branch, cut) -> None:
    def work(stack: Stack) -> None:
        build(stack, image, layers)
        trees = stack.newest_first()
        shared = trees[len(trees) - min(cut, len(trees)) :]
        assert_diff(stack, shared, trees)
        assert_diff(stack, trees, shared)
        stack.trees = [Path(path) for path in reversed(shared)]
        for layer in branch:
            stack.add(lambda merged, layer=layer: change(merged, layer))
        assert_diff(stack, trees, stack.newest_first())

    inside(work)


@BOUNDED
@given(image=CHANGES, layers=LAYERS, late=CHANGES)
def test_a_copy_of_a_live_tree_is_that_tree(image, layers, late) -> None:
    def work(stack: Stack) -> None:
        build(stack, image, layers)
        upper, copied = stack.new(), stack.new()
        upper.mkdir()
        with stack.mounted(stack.newest_first(), upper) as merged:
            change(merged, late)
            made = copy(str(upper), str(copied))
            expected = view(merged)
        assert stack.view([str(copied), *stack.newest_first()]) == expected
        assert raw(copied) == raw(upper)
        assert made == {"entries": len(raw(upper)) - 1}
        change(copied, late)  # shares nothing with what it was made of

    inside(work)


@BOUNDED
@given(layers=LAYERS)
def test_sizes_are_those_of_du(layers) -> None:
    def work(stack: Stack) -> None:
        # du is a program, and has lost the right to look into locked directories.
        build(stack, [], [[each for each in layer if each[0] != "chmod"] for layer in layers])
        merged = stack.new()
        trees = stack.newest_first()
        merge(trees, str(merged))
        trees.append(str(merged))
        found = subprocess.run(["du", "-scB1", *trees], capture_output=True, check=True)
        total = int(found.stdout.splitlines()[-1].split()[0])
        entries = sum(len(raw(Path(tree))) - 1 for tree in trees)
        assert size([*trees, *trees]) == {"bytes": total, "entries": entries}

    inside(work)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_both_file_systems_know_all_kinds_of_changes(where: str, tmp_path: Path) -> None:
    """The strategies would be worth little if most of their changes failed."""

    def work(stack: Stack) -> None:
        name = os.fsencode(stack.image / "x")
        for kind, do in _DO.items():
            if kind in (
                "rewrite",
                "remove",
                "rename",
                "link",
                "chmod",
                "xattr",
                "noxattr",
                "utime",
            ):
                _write(name, b"", 3)
            elif kind == "remake":
                os.mkdir(name)
            if kind != "touch":
                do(name, name + b"2", 1)
            assert os.path.lexists(name) == (kind not in ("remove", "rename", "touch")), kind
            for left in (name, name + b"2"):
                if os.path.lexists(left):
                    remove(left)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s")

    inside(work, tmp_path if where == "disk" else None)
