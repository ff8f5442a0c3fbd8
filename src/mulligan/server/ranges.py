"""Byte ranges and validators of HTTP, as RFC 9110 has them (sections 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import NamedTuple

from mulligan.models import FileInfo

# What changed less than this ago may change again without its time telling.
SETTLED = timedelta(seconds=2)
_RANGE = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.ASCII | re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


class Part(NamedTuple):
    """Bytes of something: from ``start``, ``length`` of them."""

    start: int
    length: int


class NotSatisfiableError(Exception):
    """A range begins behind the end."""


def part_of(header: str | None, size: int) -> Part | None:
    """The part a Range header asks for; None for the whole.

    Several ranges, other units and what is no range are passed over, as RFC 9110 allows and asks.

    Raises:
        NotSatisfiableError: there is no such part.
    """
    found = _RANGE.fullmatch(header) if header is not None else None
    if found is None:
        return None
    first, last = found[1], found[2]
    if not first:
        if not last:
            return None
        length = min(int(last), size)
        if not length:
            raise NotSatisfiableError
        return Part(size - length, length)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise NotSatisfiableError
    end = min(int(last), size - 1) if last else size - 1
    return Part(start, end - start + 1)


def etag_of(info: FileInfo, now: datetime) -> str:
    """An entity tag: strong where the file has not changed for a moment, else weak."""
    number = int(info.mtime.timestamp() * 1_000_000)
    weak = "" if info.mtime <= now - SETTLED else "W/"
    return f'{weak}"{number:x}-{info.size:x}"'


def last_modified(info: FileInfo) -> str:
    """The time of the last change, as headers write it."""
    return format_datetime(info.mtime.astimezone(UTC).replace(microsecond=0), usegmt=True)


def is_known(headers: Mapping[str, str], etag: str) -> bool:
    """Whether If-None-Match has the tag: by the weak comparison."""
    header = headers.get("if-none-match")
    if header is None:
        return False
    opaque = etag.removeprefix("W/")
    known = (each.removeprefix("W/") for each in _ETAG.findall(header))
    return header.strip() == "*" or opaque in known


def range_holds(headers: Mapping[str, str], etag: str, modified: str) -> bool:
    """Whether If-Range, if there is one, is still true: by the strong comparison."""
    header = headers.get("if-range")
    if header is None:
        return True
    return header.strip() in (etag, modified) and not etag.startswith("W/")
