"""Sets of patterns: read from TOML, changed by mappings of the same form, compiled and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from mulligan.errors import ConfigError
from mulligan.policy.secrets import checks, values
from mulligan.policy.secrets.assignments import Assignments
from mulligan.policy.secrets.expressions import Expression, compile_bytes, error, literals

_FILE = Path(__file__).with_name("patterns.toml")
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_BEFORE = rb"(?:\b|_|\\{1,4}[nrtbfv]|%[0-9A-Fa-f]{2}|\x1b\[[0-9;]{0,10}m)"
_WORD = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_LONGEST_REGEX = 4000


@dataclass(frozen=True)
class Pattern:
    """What one kind of secret looks like.

    Attributes:
        id: small letters, digits and ``-``; the marker is ``[redacted:id]``.
        name: what people call it.
        regex: RE2 syntax; matches inside one line. A group ``secret`` is what goes, else all of it.
        keywords: at least one is in every text that can match, in any case.
        entropy: least Shannon entropy, bits a character.
        check: a checksum or test of ``checks.CHECKSUMS``.
        value: a test of ``values.TESTS``; placeholders are then left alone, too.
        any_case: capitals do not count.
        bounded: letters, digits and ``_`` may not touch the match.
        enabled: false switches it off.
        examples, near_misses: templates of texts that must, and must not, be found.
    """

    id: str
    name: str = ""
    regex: str = ""
    keywords: tuple[str, ...] = ()
    entropy: float = 0.0
    check: str = ""
    value: str = ""
    any_case: bool = False
    bounded: bool = True
    enabled: bool = True
    examples: tuple[str, ...] = ()
    near_misses: tuple[str, ...] = ()

    def judge(self, placeholders: values.Placeholders, text: bytes, start: int, end: int) -> bool:
        """Whether a match is a secret."""
        found = text[start:end]
        if self.bounded and end < len(text) and text[end] in _WORD and text[end - 1] in _WORD:
            return False
        if self.value:
            return not placeholders.has(found) and values.TESTS[self.value](found)
        if placeholders.in_token(found) or checks.entropy(found) < self.entropy:
            return False
        return not self.check or checks.CHECKSUMS[self.check](found)


class Compiled:
    """A pattern and its expression, compiled when a text first has one of its keywords.

    Args:
        pattern: see the class.
        source: the expression in full; the group "secret" is what goes.
    """

    def __init__(self, pattern: Pattern, source: bytes) -> None:
        self.pattern = pattern
        self._source = source

    @cached_property
    def expression(self) -> Expression:
        """It; raises ``error`` where it is none."""
        return compile_bytes(self._source, within_lines=True, any_case=self.pattern.any_case)

    @cached_property
    def group(self) -> int:
        """The number of the group that goes."""
        return self.expression.groupindex[b"secret"]


_FIELDS = {field.name: field.type for field in fields(Pattern)}
_KINDS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "tuple[str, ...]": (list, tuple),
    "float": (int, float),
    "bool": bool,
}


class PatternSet:
    """Patterns and rules, ready to be used by any number of sanitizers and threads."""

    def __init__(self, table: Mapping[str, Any], *, checked: bool = False) -> None:
        """From a mapping of the form of patterns.toml; raises ConfigError naming what is wrong.

        With ``checked`` its expressions are known to be some: those packaged are tested.
        """
        rows = _list(table, "pattern")
        self.patterns: dict[str, Pattern] = {}
        for row in rows:
            pattern = _pattern(row, self.patterns)
            self.patterns[pattern.id] = pattern
        self.placeholders = values.Placeholders.of(_lists(table, "placeholders"))
        self.assignments = Assignments(_lists(table, "assignment"), self.placeholders)
        self.rules = _rules(table.get("rules", {}))
        self.compiled = [_compiled(p) for p in self.patterns.values() if p.enabled]
        if not checked:
            for each in self.compiled:
                _check_expression(each)
        self._keywords, self._users = _keyword_sets(self.compiled)

    @classmethod
    @lru_cache(maxsize=1)
    def default(cls) -> PatternSet:
        """The packaged patterns."""
        return cls(_packaged(), checked=True)

    @classmethod
    def of(cls, changes: Mapping[str, Any]) -> PatternSet:
        """The packaged patterns with changes.

        Args:
            changes: ``{"pattern": [{...}]}``: a row with a known id replaces the fields it names
                (``{"id": "jwt", "enabled": false}`` switches one off), others are added.
                ``assignment`` and ``placeholders`` add to the lists of the same name; ``rules``
                switches ``assignment``, ``bare`` and ``blocks``.

        Raises:
            ConfigError: a pattern is not one; the error names it and what is wrong.
        """
        table = _packaged()
        table["pattern"] = [*table["pattern"], *_list(changes, "pattern")]
        for section in ("assignment", "placeholders"):
            for key, more in _lists(changes, section).items():
                table[section][key] = [*table[section].get(key, []), *more]
        unknown = set(changes) - {"pattern", "assignment", "placeholders", "rules"}
        if unknown:
            raise ConfigError(f"secret patterns: unknown key {min(unknown)!r}", field="patterns")
        return cls({**table, "rules": changes.get("rules", {})})

    def in_play(self, text: bytes) -> list[Compiled]:
        """The patterns whose keywords a text has."""
        present = {user for i in self._keywords.Match(text) or () for user in self._users[i]}
        return [self.compiled[i] for i in sorted(present)]


def _packaged() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def _wrong(name: object, what: str) -> ConfigError:
    return ConfigError(f"secret pattern {name!r}: {what}", field="patterns")


def _list(table: Mapping[str, Any], key: str) -> list[Any]:
    rows = table.get(key, [])
    if not isinstance(rows, list):
        raise _wrong(key, "must be a list of tables")
    return rows


def _lists(table: Mapping[str, Any], section: str) -> dict[str, list[str]]:
    found = table.get(section, {})
    if not isinstance(found, Mapping):
        raise _wrong(section, "must be a table")
    for key, words in found.items():
        if not isinstance(words, list) or not all(isinstance(w, str) and w for w in words):
            raise _wrong(f"{section}.{key}", "must be a list of texts")
    return dict(found)


def _rules(given: object) -> dict[str, bool]:
    rules = {"assignment": True, "bare": True, "blocks": True}
    if not isinstance(given, Mapping):
        raise _wrong("rules", "must be a table")
    for key, on in given.items():
        if key not in rules or not isinstance(on, bool):
            raise _wrong(f"rules.{key}", f"must be one of {', '.join(rules)}, true or false")
        rules[key] = on
    return rules


def _pattern(row: object, known: Mapping[str, Pattern]) -> Pattern:
    """One row, on top of the pattern of the same id if there is one."""
    if not isinstance(row, Mapping) or not isinstance(row.get("id"), str):
        raise _wrong(row, "must be a table with an id")
    name = row["id"]
    if not name or len(name) > 64 or not _ID_CHARACTERS.issuperset(name):
        raise _wrong(name, "an id is small letters, digits and -")
    _check_fields(name, row)
    base = vars(known[name]) if name in known else {}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    pattern = Pattern(**{**base, **given})
    if not pattern.regex or len(pattern.regex) > _LONGEST_REGEX:
        raise _wrong(name, f"needs a regex of at most {_LONGEST_REGEX} characters")
    if not pattern.keywords:
        raise _wrong(name, "needs at least one keyword")
    if pattern.check and pattern.check not in checks.CHECKSUMS:
        raise _wrong(name, f"check must be one of {', '.join(sorted(checks.CHECKSUMS))}")
    if pattern.value and pattern.value not in values.TESTS:
        raise _wrong(name, f"value must be one of {', '.join(sorted(values.TESTS))}")
    return pattern


def _check_fields(name: str, row: Mapping[str, Any]) -> None:
    for key, value in row.items():
        if key not in _FIELDS:
            raise _wrong(name, f"unknown field {key!r}")
        kind = _KINDS[str(_FIELDS[key])]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise _wrong(name, f"{key} is no {_FIELDS[key]}")
        if isinstance(value, list) and not all(isinstance(item, str) and item for item in value):
            raise _wrong(name, f"{key} must be a list of texts")


def _compiled(pattern: Pattern) -> Compiled:
    source = pattern.regex.encode()
    named = b"(?P<secret>" in source
    if not named:
        source = b"(?P<secret>" + source + b")"
    if pattern.bounded:
        source = _BEFORE + b"(?:" + source + b")"
    return Compiled(pattern, source)


def _check_expression(compiled: Compiled) -> None:
    try:
        expression = compiled.expression
    except error as problem:
        raise _wrong(compiled.pattern.id, f"regex: {_text(problem)}") from None
    if expression.match(b"") is not None:
        raise _wrong(compiled.pattern.id, "regex matches an empty text")


def _text(problem: Exception) -> str:
    detail = problem.args[0] if problem.args else problem
    return detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)


def _keyword_sets(compiled: Iterable[Compiled]) -> tuple[Any, list[list[int]]]:
    """A set expression of all keywords, and which patterns each belongs to."""
    users: dict[bytes, list[int]] = {}
    for i, each in enumerate(compiled):
        for keyword in each.pattern.keywords:
            users.setdefault(keyword.lower().encode(), []).append(i)
    found = literals(users)
    return found, list(users.values())
