"""Paths in VMs, and what VMs tell of files."""

import errno
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.engine.files import names as filenames
from mulligan.errors import (
    FileBroken,
    FileConflict,
    FileDiskFull,
    FileError,
    FileForbidden,
    FileMissing,
)
from mulligan.guest import filework


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("x", b"/workspace/x"),
        (".", b"/workspace/"),
        ("./a//b/./c", b"/workspace/a/b/c"),
        ("/", b"/"),
        ("/etc//passwd", b"/etc/passwd"),
        ("/a/", b"/a/"),
        ("../../etc", b"/workspace/../../etc"),  # the kernel knows where that is
        ("ä", "/workspace/ä".encode()),
        ("\udcff", b"/workspace/\xff"),
    ],
)
def test_paths(path: str, expected: bytes) -> None:
    assert filenames.to_bytes(path) == expected


@pytest.mark.parametrize("path", ["", "a\0b", "\0", "a/" * 2500, "x" * 5000, "\ud800"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(FileError) as refused:
        filenames.to_bytes(path, "source")
    assert refused.value.field == "source"
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("text", "name"),
    [(r"\xff", b"\xff"), (r"a\\b", b"a\\b"), (r"\\xff", b"\\xff"), (r"\\\xff", b"\\\xff")],
)
def test_escapes(text: str, name: bytes) -> None:
    assert filenames.unescape(text) == name
    assert filenames.escape(name) == text


@pytest.mark.parametrize("text", ["\\", r"\x", r"\xf", r"\x41", r"\n", r"a\ b", r"\xFF", "\ud800"])
def test_what_is_no_escape(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        filenames.unescape(text)


@given(st.binary(max_size=40))
def test_escaped_names_are_read_back(name: bytes) -> None:
    text = filenames.escape(name)
    text.encode()  # JSON and terminals can have it
    assert filenames.unescape(text) == name


@given(record=st.binary(max_size=60), inside=st.booleans())
def test_any_record_is_a_file_or_refused(record: bytes, inside: bool) -> None:
    try:
        found = filenames.info(record, b"/workspace", inside=inside)
    except FileBroken:
        return
    found.model_dump_json()


def record(
    mode: int, size: int = 0, mtime: int = 0, name: bytes = b"x", target: bytes = b""
) -> bytes:
    return filework.NAME.pack(mode, size, mtime, len(name)) + name + target


def test_records() -> None:
    link = filenames.info(record(stat.S_IFLNK | 0o777, 3, 0, b"l", b"\xff"), b"/a", inside=True)
    assert (link.type, link.target, link.escaped, link.path) == ("symlink", r"\xff", True, "/a/l")
    far = filenames.info(record(stat.S_IFREG, 5, 2**63 - 1), b"/a")
    assert (far.name, far.size) == ("a", 5)
    assert filenames.info(record(0xFFFF), b"/").type == "unknown"


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        record(stat.S_IFREG, 2**64 - 1),
        record(stat.S_IFREG, name=b"../../up"),
        filework.NAME.pack(stat.S_IFREG, 0, 0, 500) + b"short",
    ],
)
def test_records_that_cannot_be(hostile: bytes) -> None:
    with pytest.raises(FileBroken):
        filenames.info(hostile, b"/a", inside=True)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, FileMissing),
        (errno.EACCES, FileForbidden),
        (errno.EROFS, FileForbidden),
        (errno.EISDIR, FileConflict),
        (errno.ENOTEMPTY, FileConflict),
        (errno.ELOOP, FileConflict),
        (errno.EBUSY, FileConflict),
        (errno.EFBIG, FileDiskFull),
        (errno.ENOSPC, FileDiskFull),
        (errno.ENAMETOOLONG, FileError),
        (errno.EIO, FileBroken),
        (filework.IN_THE_WAY, FileConflict),
        (99999, FileConflict),
    ],
)
def test_failures(number: int, kind: type[FileError]) -> None:
    error = filenames.failure(number, "what it said", b"/workspace/x", "path")
    assert type(error) is kind
    assert error.field == "path"
    assert "/workspace/x" in str(error)


def test_failures_say_what_is_there_instead_of_a_file() -> None:
    error = filenames.failure(filework.REFUSED, oct(stat.S_IFIFO), b"/p", "path")
    assert "no regular file but a fifo" in str(error)
    hostile = filenames.failure(filework.REFUSED, "0o1\n\x1b[2J", b"/p", "path")
    assert "\x1b" not in str(hostile)
    assert os.strerror(errno.EIO).lower() not in str(hostile)
