"""Column types that hold every value of the models, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNSAFE = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a([0-9a-f]{4})")
_SIGN = 1 << 63


def escape(text: str) -> str:
    """A text both databases take: U+001A and four hex digits stand for what they refuse.

    PostgreSQL takes no NUL and neither takes half a surrogate pair. U+001A is escaped too, so
    that every text comes back as it was and different texts stay different.
    """
    if text.isascii() and "\x00" not in text and "\x1a" not in text:
        return text
    return _UNSAFE.sub(lambda match: f"\x1a{ord(match[0]):04x}", text)


def unescape(text: str) -> str:
    """The text that was given to `escape`."""
    if "\x1a" not in text:
        return text
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


def microseconds(time: datetime) -> int:
    """Microseconds since 1970 UTC; exact, and compared alike by every database."""
    return (time - _EPOCH) // _MICROSECOND


class AnyText(TypeDecorator[str]):
    """Text with NUL and lone surrogates; see `escape`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else escape(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else unescape(value)


class Unsigned(TypeDecorator[int]):
    """0 to 2**64 - 1 in a signed column: what is 2**63 or more is held as a negative number."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return value - 2 * _SIGN if value is not None and value >= _SIGN else value

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return value + 2 * _SIGN if value is not None and value < 0 else value


class Time(TypeDecorator[datetime]):
    """A UTC time as microseconds since 1970."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else _EPOCH + value * _MICROSECOND
