"""Copies and merges of what programs may make on purpose, on both kinds of file systems."""

import errno
import os
import resource
import stat
import sys
from pathlib import Path

import pytest

from mulligan.guest.jobs.copy import copy
from mulligan.guest.jobs.diff import Limits, diff
from mulligan.guest.jobs.merge import merge
from mulligan.guest.jobs.size import size
from support.overlays import Stack, inside, raw, remove, view

LIMITS = Limits(text=65536, total=1 << 23, entries=10**6)
DEPTH = 3000
TIB = 1 << 40


@pytest.fixture(params=["memory", "disk"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param == "disk" else None


def assert_merges(stack: Stack) -> Path:
    """The whole stack, and the trees but the newest, can be replaced by their merge."""
    trees = stack.newest_first()
    expected = stack.view(trees)
    merged, older = stack.new(), stack.new()
    merge(trees, str(merged))
    assert stack.view([str(merged)]) == expected
    if len(trees) > 1:
        merge(trees[1:], str(older))
        assert stack.view([trees[0], str(older)]) == expected
    return merged


def opaque(path: Path) -> bool:
    return "user.overlay.opaque" in os.listxattr(path)


def test_a_directory_removed_and_made_anew_hides_what_was_in_it(disk: Path | None) -> None:
    def work(stack: Stack) -> None:
        (stack.image / "d" / "deep").mkdir(parents=True)
        (stack.image / "d" / "deep" / "old").write_text("image")
        stack.add(lambda top: (top / "d" / "gone").write_text("x"))

        def anew(top: Path) -> None:
            remove(os.fsencode(top / "d"))
            (top / "d" / "deep").mkdir(parents=True)
            (top / "d" / "new").write_text("new")
            (top / "d" / "late").write_text("late")

        stack.add(anew)
        # In an opaque directory the kernel would list this whiteout as a file.
        stack.add(lambda top: (top / "d" / "late").unlink())
        merged = assert_merges(stack)
        assert opaque(merged / "d")
        assert not opaque(merged / "d" / "deep")
        assert sorted(os.listdir(merged / "d")) == ["deep", "new"]

    inside(work, disk)


def test_a_directory_becomes_a_file_and_a_directory_again(disk: Path | None) -> None:
    def work(stack: Stack) -> None:
        (stack.image / "d").mkdir()
        (stack.image / "d" / "f").write_text("image")

        def to_file(top: Path) -> None:
            remove(os.fsencode(top / "d"))
            (top / "d").write_text("file")

        def to_directory(top: Path) -> None:
            (top / "d").unlink()
            (top / "d").mkdir()

        stack.add(to_file)
        assert_merges(stack)
        upper = stack.add(to_directory)
        assert opaque(assert_merges(stack) / "d")
        os.removexattr(upper / "d", "user.overlay.opaque")  # the kernel need not have set it
        assert opaque(assert_merges(stack) / "d")

    inside(work, disk)


def test_whiteouts_of_the_image_and_renames_over_files_stay(disk: Path | None) -> None:
    def work(stack: Stack) -> None:
        for name in "abc":
            (stack.image / name).write_text(name)
        stack.add(lambda top: (top / "a").unlink())
        stack.add(lambda top: (top / "b").rename(top / "c"))
        merged = assert_merges(stack)
        assert stat.S_ISCHR((merged / "a").lstat().st_mode)
        assert stat.S_ISCHR((merged / "b").lstat().st_mode)
        assert (merged / "c").stat().st_ino == (stack.trees[1] / "c").stat().st_ino

    inside(work, disk)


def test_whiteouts_that_are_files_are_understood(disk: Path | None) -> None:
    def work(stack: Stack) -> None:
        for directory in ("d", "e"):
            (stack.image / directory).mkdir()
            (stack.image / directory / "f").write_text("image")
        tree = stack.new()
        for directory in ("d", "e"):
            (tree / directory).mkdir(parents=True)
            (tree / directory / "f").touch()
        os.setxattr(tree / "d", "user.overlay.opaque", b"x")
        os.setxattr(tree / "d" / "f", "user.overlay.whiteout", b"")
        stack.trees.append(tree)
        copied, merged = stack.new(), stack.new()
        copy(str(tree), str(copied))
        assert raw(copied) == raw(tree)
        merge([str(copied)], str(merged))
        assert stat.S_ISCHR((merged / "d" / "f").lstat().st_mode)
        assert not opaque(merged / "d")
        assert stack.view([str(merged)]).keys() == {b"", b"d", b"e", b"e/f"}
        found = [each.get("path") for each in diff([], [str(merged)], LIMITS)]
        assert found == [each.get("path") for each in diff([], [str(tree)], LIMITS)]

    inside(work, disk)


def test_hard_links_of_several_layers(disk: Path | None) -> None:
    def work(stack: Stack) -> None:
        def first(top: Path) -> None:
            (top / "d").mkdir()
            (top / "one").write_text("shared")
            os.link(top / "one", top / "d" / "two")
            os.mkfifo(top / "pipe")
            os.link(top / "pipe", top / "d" / "pipe")
            os.symlink("one", top / "to")
            os.link(top / "to", top / "d" / "to", follow_symlinks=False)

        stack.add(first)
        stack.add(lambda top: os.link(top / "one", top / "three"))
        merged = assert_merges(stack)
        copied = stack.new()
        copy(str(merged), str(copied))
        assert raw(copied) == raw(merged)
        # The kernel copies an inode up for the one name that was touched.
        assert (copied / "one").stat().st_ino == (copied / "three").stat().st_ino
        assert sorted(os.listdir(copied)) == ["d", "one", "pipe", "three", "to"]

    inside(work, disk)


def test_a_file_of_too_many_names_is_copied_once(disk: Path | None) -> None:
    def work(stack: Stack) -> None:
        def change(top: Path) -> None:
            (top / "one").write_text("shared")
            os.link(top / "one", top / "two")
            (top / "single").write_text("x")

        tree = stack.add(change)
        full = (tree / "one").stat().st_ino
        real = os.link

        def link(name: str, new: str, **more: object) -> None:
            inode = os.stat(name, dir_fd=more["src_dir_fd"], follow_symlinks=False).st_ino
            if inode == full:
                raise OSError(errno.EMLINK, "Too many links")
            real(name, new, **more)

        os.link = link  # this process is a child of the test's own
        merged = stack.new()
        assert merge([str(tree)], str(merged)) == {"entries": 3, "copied": 2}
        os.link = real
        assert raw(merged) == raw(tree)
        assert (merged / "one").stat().st_ino != full

    inside(work, disk)


def test_hostile_entries_are_copied_and_linked_as_they_are(disk: Path | None) -> None:
    def work(stack: Stack) -> None:
        def change(top: Path) -> None:
            here = os.fsencode(top)
            for name in (b"new\nline", b"\xff\xfe", b"-rf", b" ", b"\\", b"x" * 255):
                Path(os.fsdecode(here + b"/" + name)).write_bytes(name)
            os.symlink("loop", top / "loop")
            os.symlink("/etc/passwd", top / "passwd")
            os.symlink("/etc", top / "etc")
            os.symlink(b"\xff" * 4000, here + b"/long")
            os.utime(top / "loop", ns=(5, 123456789), follow_symlinks=False)
            os.mkfifo(top / "fifo", 0o604)
            os.mknod(top / "socket", stat.S_IFSOCK | 0o711)
            (top / "file").write_text("secret")
            os.setxattr(top / "file", "user.note", b"\0\xff")
            os.setxattr(top / "file", "user.overlay.origin", b"the program's own")
            os.utime(top / "file", ns=(1, 987654321))
            os.chmod(top / "file", 0)
            (top / "suid").touch()
            os.chmod(top / "suid", 0o6755)
            (top / "locked").mkdir()
            (top / "locked" / "in").touch()
            os.setxattr(top / "locked", "user.note", b"d")
            os.utime(top / "locked", ns=(1, 42))
            os.chmod(top / "locked", 0o1000)

        tree = stack.add(change)
        copied = stack.new()
        copy(str(tree), str(copied))
        assert raw(copied) == raw(tree)
        assert stack.view([str(copied)]) == stack.view([str(tree)])
        merged = assert_merges(stack)
        assert raw(merged) == raw(tree)
        assert (merged / "etc").is_symlink()

    inside(work, disk)


def test_depth_needs_neither_paths_nor_descriptors() -> None:
    def work(stack: Stack) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
        tree = stack.new()
        tree.mkdir()
        place = os.open(tree, os.O_RDONLY)
        for _ in range(DEPTH):
            os.mkdir("deep-down", dir_fd=place)
            os.mkdir("aside", dir_fd=place)
            below = os.open("deep-down", os.O_RDONLY, dir_fd=place)
            os.close(place)
            place = below
        os.mkfifo("bottom", dir_fd=place)
        os.close(place)
        copied, merged = stack.new(), stack.new()
        open_before = len(os.listdir("/proc/self/fd"))
        made = copy(str(tree), str(copied))
        assert made == {"entries": 2 * DEPTH + 1}
        assert merge([str(copied), str(tree)], str(merged)) == made | {"copied": 0}
        assert size([str(merged)])["entries"] == 2 * DEPTH + 1
        assert len(list(diff([str(tree)], [str(merged)], LIMITS))) == 1
        *entries, end = diff([], [str(merged)], LIMITS)
        assert end["truncated"]  # the paths alone are longer than an answer may be
        assert sum(len(str(entry["path"])) for entry in entries) < 64 << 20
        assert len(os.listdir("/proc/self/fd")) <= open_before  # earlier tests' may be collected
        assert sys.getrecursionlimit() <= DEPTH

    inside(work)


def test_holes_stay_holes_and_cost_nothing(disk: Path | None) -> None:
    def work(stack: Stack) -> None:
        def change(top: Path) -> None:
            with open(top / "sparse", "wb") as file:
                file.write(b"begin")
                file.seek(TIB // 2)
                file.write(b"middle")
                file.truncate(TIB)
            with open(top / "hole", "wb") as file:
                file.truncate(TIB)

        tree = stack.add(change)
        copied = stack.new()
        copy(str(tree), str(copied))
        for name in ("sparse", "hole"):
            old, new = (tree / name).stat(), (copied / name).stat()
            assert (new.st_size, new.st_blocks) == (TIB, old.st_blocks)
        with open(copied / "sparse", "rb+") as file:
            assert file.read(5) == b"begin"
            file.seek(TIB // 2)
            assert file.read(8) == b"middle\0\0"
            assert len(list(diff([str(tree)], [str(copied)], LIMITS))) == 1
            file.seek(TIB - 1)
            file.write(b"!")
            file.flush()
            changed, _ = diff([str(tree)], [str(copied)], LIMITS)
        assert changed["path"] == "/sparse"
        assert changed["text_diff"] is None

    inside(work, disk)


def test_what_overlayfs_noted_for_itself_is_not_copied() -> None:
    def work(stack: Stack) -> None:
        tree = stack.new()
        (tree / "d").mkdir(parents=True)
        for name in ("origin", "impure", "nlink", "overlay.kept"):
            os.setxattr(tree / "d", f"user.overlay.{name}", b"y")
        copied, merged = stack.new(), stack.new()
        copy(str(tree), str(copied))
        merge([str(tree)], str(merged))
        assert os.listxattr(copied / "d") == ["user.overlay.overlay.kept"]
        assert os.listxattr(merged / "d") == ["user.overlay.overlay.kept"]

    inside(work)


def test_access_control_lists_are_content(disk: Path | None) -> None:
    acl = "system.posix_acl_default"
    # Version 2, then owner, group, others: tag, permissions, no id.
    entries = b"".join(
        bytes([tag, 0, bits, 0]) + b"\xff" * 4 for tag, bits in ((1, 7), (4, 5), (32, 0))
    )

    def work(stack: Stack) -> object:
        tree = stack.new()
        (tree / "d").mkdir(parents=True)
        (tree / "d" / "before").touch()
        try:
            os.setxattr(tree / "d", acl, b"\2\0\0\0" + entries)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            return "skip"
        copied, merged = stack.new(), stack.new()
        copy(str(tree), str(copied))
        merge([str(tree)], str(merged))
        for made in (copied, merged):
            assert view(made) == view(tree)
            assert os.getxattr(made / "d", acl) == os.getxattr(tree / "d", acl)
        os.removexattr(copied / "d", acl)
        changed, _ = diff([str(tree)], [str(copied)], LIMITS)
        assert (changed["path"], changed["change"]) == ("/d", "changed")
        return None

    if inside(work, disk):
        pytest.skip("no access control lists on this file system")


def test_a_target_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    for name in ("source", "target", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "file").touch()
    (tmp_path / "target" / "mine").touch()
    (tmp_path / "link").symlink_to("empty")
    for job, source in ((copy, str(tmp_path / "source")), (merge, [str(tmp_path / "source")])):
        with pytest.raises(ValueError, match="is not empty"):
            job(source, str(tmp_path / "target"))
        with pytest.raises(OSError):  # noqa: PT011  (no directory)
            job(source, str(tmp_path / "link"))
        assert os.listdir(tmp_path / "target") == ["mine"]
        assert os.listdir(tmp_path / "empty") == []
    with pytest.raises(FileNotFoundError):
        copy(str(tmp_path / "none"), str(tmp_path / "empty"))
