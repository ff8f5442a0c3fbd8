"""What serde and chrono take and write, as far as the structs of the wire format use them.

A rule says which JSON values a field's type takes: derived ``Deserialize`` ignores unknown fields,
wants every field but an ``Option``, takes null for an ``Option`` alone, and converts nothing.
"""

import json
import re
from collections.abc import Callable

Rule = Callable[[object, str], None]

# chrono's FromStr of DateTime<Utc>: RFC 3339 with "T" or a space, seconds, any fraction.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def integer(low: int, high: int) -> Rule:
    def check(value: object, where: str) -> None:
        assert type(value) is int, f"{where}: {value!r} is no integer"
        assert low <= value <= high, f"{where}: {value} is out of range"

    return check


def of(kind: type) -> Rule:
    def check(value: object, where: str) -> None:
        assert type(value) is kind, f"{where}: {value!r} is no {kind.__name__}"

    return check


def f64(value: object, where: str) -> None:
    assert type(value) in (int, float), f"{where}: {value!r} is no number"


def time(value: object, where: str) -> None:
    assert isinstance(value, str), f"{where}: {value!r} is no text"
    assert _TIME.fullmatch(value), f"{where}: {value!r} is no time"


def anything(value: object, where: str) -> None:
    """``serde_json::Value``."""


def vec(rule: Rule) -> Rule:
    def check(value: object, where: str) -> None:
        assert isinstance(value, list), f"{where}: {value!r} is no array"
        for number, each in enumerate(value):
            rule(each, f"{where}[{number}]")

    return check


class Option:
    """``Option<T>``, and what ``#[serde(default)]`` makes of a field: it may be missing."""

    def __init__(self, rule: Rule, *, null: bool = True) -> None:
        self._rule = rule
        self._null = null

    def __call__(self, value: object, where: str) -> None:
        if value is not None or not self._null:
            self._rule(value, where)


def struct(**fields: Rule) -> Rule:
    def check(value: object, where: str) -> None:
        assert isinstance(value, dict), f"{where}: {value!r} is no object"
        for name, rule in fields.items():
            if name in value:
                rule(value[name], f"{where}.{name}")
            else:
                assert isinstance(rule, Option), f"{where}: {name} is missing"

    return check


String = of(str)
Bool = of(bool)
U32 = integer(0, 2**32 - 1)
U64 = Usize = integer(0, 2**64 - 1)
I32 = integer(-(2**31), 2**31 - 1)


def written(**fields: object) -> bytes:
    """A struct as serde_json writes it: in the order of its fields, each there, None as null."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def json_macro(fields: dict[str, object]) -> bytes:
    """``json!({…})`` as it is sent: its map is sorted by key."""
    return written(**dict(sorted(fields.items())))
