"""Ranges and validators of HTTP."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.models import FileInfo
from mulligan.server import ranges

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def info(age: timedelta = timedelta(hours=1), size: int = 10) -> FileInfo:
    return FileInfo(name="x", path="/x", type="file", size=size, mode="0644", mtime=NOW - age)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=0-", (0, 10)),
        ("bytes=3-5", (3, 3)),
        ("bytes=9-", (9, 1)),
        ("bytes=5-999999999999999999", (5, 5)),
        ("bytes=-3", (7, 3)),
        ("bytes=-100", (0, 10)),
        ("BYTES=1-2", (1, 2)),
        ("bytes= 1-2", (1, 2)),
        # what is no single range of bytes counts as not being there
        ("bytes=5-3", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("bytes=a-b", None),
        ("bytes=+1-2", None),
        ("bytes=1.0-2", None),
        ("bytes=²-", None),
        ("items=0-1", None),
        ("", None),
        ("bytes=" + "9" * 50 + "-", None),
    ],
)
def test_part(header: str | None, expected: tuple[int, int] | None) -> None:
    assert ranges.part_of(header, 10) == expected


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=10-20", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_parts_there_are_none_of(header: str, size: int) -> None:
    with pytest.raises(ranges.NotSatisfiableError):
        ranges.part_of(header, size)


number = st.integers(0, 40)


@given(size=number, first=st.none() | number, last=st.none() | number)
def test_part_is_what_slices_say(size: int, first: int | None, last: int | None) -> None:
    """Held against a range as Python's own slices have it."""
    data = bytes(range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is not None:
        expected = data[first:] if last is None else data[first : last + 1]
        ignored = last is not None and last < first
    else:
        expected = data[-last:] if last else b""
        ignored = last is None
    try:
        part = ranges.part_of(header, size)
    except ranges.NotSatisfiableError:
        assert expected == b""
        assert not ignored
        return
    assert (part is None) == ignored
    if part is not None:
        assert data[part.start : part.start + part.length] == expected != b""


@given(header=st.text(max_size=40), size=number)
def test_no_header_does_harm(header: str, size: int) -> None:
    try:
        part = ranges.part_of(header, size)
    except ranges.NotSatisfiableError:
        return
    if part is not None:
        assert 0 <= part.start < part.start + part.length <= size


def test_tags_are_strong_when_a_file_has_settled() -> None:
    old, new = ranges.etag_of(info(), NOW), ranges.etag_of(info(timedelta()), NOW)
    assert old.startswith('"')
    assert new.startswith('W/"')
    assert ranges.etag_of(info(size=11), NOW) != old


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ("*", True),
        ('"a-1"', True),
        ('W/"a-1"', True),
        ('"b", W/"a-1" , "c"', True),
        ('"b"', False),
        ("a-1", False),
        ("", False),
    ],
)
def test_if_none_match(header: str, known: bool) -> None:
    assert ranges.is_known({"if-none-match": header}, '"a-1"') == known


@pytest.mark.parametrize(
    ("header", "etag", "holds"),
    [
        (None, 'W/"a"', True),
        ('"a"', '"a"', True),
        ('W/"a"', 'W/"a"', False),
        ('"b"', '"a"', False),
        ("Sun, 01 Mar 2026 11:00:00 GMT", '"a"', True),
        ("Sun, 01 Mar 2026 10:00:00 GMT", '"a"', False),
    ],
)
def test_if_range(header: str | None, etag: str, holds: bool) -> None:
    headers = {} if header is None else {"if-range": header}
    assert ranges.range_holds(headers, etag, ranges.last_modified(info())) == holds
