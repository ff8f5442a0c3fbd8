"""Finding values that we put into a VM ourselves, however they are written, in a stream of bytes.

Every form of every value begins with a *head*, its first few characters as written. One regular
expression finds heads; what stands at one is then compared with the whole forms that have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import re2

from mulligan.errors import ConfigError
from mulligan.policy.secrets.encodings import Form, forms, pieces, word
from mulligan.policy.secrets.expressions import Expression, compile_bytes, options

SHORTEST = 4
SHORTEST_ENCODED = 8
LONGEST = 8 * 1024
MOST_BYTES = 16 * 1024
HEAD = 8
_HEAD_REACH = 256  # bytes of the longest head
_FORMS_TOGETHER = 80
_CUT_SHORT = 4  # units of a value that must be there to be taken for its beginning
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_UNFINISHED = (
    rb"(?:%(?:25?){0,2}[0-9A-Fa-f]?|\\{1,4}[uUxX]?[0-9A-Fa-f{]{0,8}|&[#a-zA-Z0-9;]{0,8}"
    rb"|=[0-9A-F]?|[uUx][0-9A-Fa-f{]{0,7}|[0-9A-Fa-f]|[0-9]{1,3}|0[xX]?|\r|[\x80-\xff]{1,3})"
)


@dataclass(frozen=True)
class InjectedSecret:
    """A value given to programs that must not come back.

    Attributes:
        name: what the marker calls it: a letter or ``_``, then letters, digits, ``_ . -``.
        value: 4 bytes to 8 KiB. From 8 bytes on it is found in every encoding of
            ``encodings.forms``; shorter values only as a whole word, as they are.
    """

    name: str
    value: str = field(repr=False)


def check(secrets: Iterable[InjectedSecret]) -> tuple[InjectedSecret, ...]:
    """The secrets, without repetitions, longest first.

    Raises:
        ConfigError: a name is no name, or a value too short or too long.
    """
    kept: dict[str, InjectedSecret] = {}
    for secret in secrets:
        if not _NAME.fullmatch(secret.name):
            raise ConfigError(
                f"secret name {secret.name!r}",
                field="secrets",
                remedy="use a letter or _, then up to 63 letters, digits, _ . -",
            )
        size = len(_encode(secret.value))
        if size < SHORTEST or size > LONGEST or not secret.value.strip():
            raise ConfigError(
                f"secret {secret.name}: a value of {size} bytes cannot be kept secret",
                field="secrets",
                remedy=f"use {SHORTEST} to {LONGEST} bytes that are not blank",
            )
        kept.setdefault(secret.value, secret)
    if sum(len(_encode(value)) for value in kept) > MOST_BYTES:
        raise ConfigError(
            f"more than {MOST_BYTES} bytes of secrets", field="secrets", remedy="inject fewer"
        )
    return tuple(sorted(kept.values(), key=lambda s: -len(s.value)))


def _encode(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class _Written:
    """One form of one secret; what is rarely needed is compiled when it is."""

    name: str
    form: Form

    @cached_property
    def whole(self) -> Expression:
        return compile_bytes(self.form.whole())

    @cached_property
    def beginning(self) -> Expression:
        return compile_bytes(self.form.beginnings() + rb"\z")


class _Matcher:
    """What is compiled for a set of secrets."""

    def __init__(self, secrets: tuple[InjectedSecret, ...]) -> None:
        self.written: list[_Written] = []
        for secret in secrets:
            value = _encode(secret.value)
            if len(value) < SHORTEST_ENCODED:
                self.written.append(_Written(secret.name, word(value)))
                continue
            parts = pieces(value)
            for part in parts:
                for form in forms(part, alone=len(parts) == 1):
                    self.written.append(_Written(secret.name, form))
        self.reach = max(written.form.longest for written in self.written)
        groups = range(0, len(self.written), _FORMS_TOGETHER)
        self.groups = [_Heads(self.written[i : i + _FORMS_TOGETHER]) for i in groups]

    def ending(self, text: bytes, at: int) -> int:
        """From where on the text could be the beginning of a head."""
        start = max(at, len(text) - _HEAD_REACH)
        return min(_start(group.ending, text, start) for group in self.groups)

    def cut_short(self, text: bytes, at: int) -> int:
        """From where on the text is a beginning of a head that is long enough to tell something."""
        start = max(at, len(text) - _HEAD_REACH)
        return min(_start(group.cut_short, text, start) for group in self.groups)

    def at(self, text: bytes, start: int) -> list[_Written]:
        """What can begin there, by its head."""
        window = text[start : start + _HEAD_REACH]
        return [written for group in self.groups for written in group.at(window)]


class _Heads:
    """Heads of some forms, few enough that the automaton stays small."""

    def __init__(self, written: list[_Written]) -> None:
        self._written = written
        self._forms = [w.form.head(HEAD) for w in written]
        self.expression = compile_bytes(b"|".join(head.whole() for head in self._forms))
        self._which = re2.Set.MatchSet(options())
        for head in self._forms:
            self._which.Add(head.whole())
        self._which.Compile()

    @cached_property
    def ending(self) -> Expression:
        """A beginning of a head, at the end of the text."""
        found = [head.beginnings() for head in self._forms]
        return compile_bytes(b"(?:" + b"|".join([*found, _UNFINISHED]) + rb")\z")

    @cached_property
    def cut_short(self) -> Expression:
        """The same, of at least a few characters."""
        long = [head for head in self._forms if len(head.units) > _CUT_SHORT]
        found = [_at_least(head, _CUT_SHORT) for head in long] or [rb"[^\x00-\xff]"]
        return compile_bytes(b"(?:" + b"|".join(found) + rb")\z")

    def at(self, window: bytes) -> list[_Written]:
        return [self._written[i] for i in self._which.Match(window) or ()]


def _start(expression: Expression, text: bytes, at: int) -> int:
    match = expression.search(text, at)
    return len(text) if match is None else match.start()


class _HeadSearch:
    """Goes through the heads of all groups in the order of one text."""

    def __init__(self, matcher: _Matcher, text: bytes) -> None:
        self._text = text
        self._groups = matcher.groups
        self._next = [-1] * len(self._groups)

    def find(self, seek: int) -> int:
        """Where the first head at or after ``seek`` begins; the text's length where none is."""
        for i, group in enumerate(self._groups):
            if self._next[i] < seek:
                self._next[i] = _start(group.expression, self._text, seek)
        return min(self._next)


@lru_cache(maxsize=4)  # those of kilobytes of secrets are large
def _matcher(secrets: tuple[InjectedSecret, ...]) -> _Matcher:
    return _Matcher(secrets)


def _at_least(form: Form, units: int) -> bytes:
    """Beginnings of a form with so many units at least."""
    first = int(form.optional_front)
    head = form.gap.join(form.units[first : first + units - 1])
    return head + form.gap + form.from_unit(first + units - 1).beginnings()


@dataclass(frozen=True)
class Found:
    """A place in the bytes that were fed, and the name of the secret there."""

    start: int
    end: int
    name: str


class InjectedFinder:
    """Looks through a stream; keeps back only what can still become a secret.

    At most ``reach`` bytes are kept back, and none once what came last cannot be the beginning of
    any form of any secret.
    """

    def __init__(self, secrets: tuple[InjectedSecret, ...]) -> None:
        self._matcher = _matcher(secrets) if secrets else None
        self._kept = b""
        self._base = 0  # where in the stream what is kept begins
        self._context = b""  # the byte before it
        self._given = 0  # so much of what is kept was given out while nothing came

    @property
    def active(self) -> bool:
        """Whether there is anything to look for."""
        return self._matcher is not None

    @property
    def held(self) -> int:
        """Bytes kept back."""
        return len(self._kept) - self._given

    def feed(self, data: bytes) -> Iterator[tuple[bytes, Found | None]]:
        """Bytes that can go, in order: free text with None, or a secret's bytes with its place."""
        if self._matcher is not None:
            yield from self._pass(self._matcher, data, last=False, truncated=False)
        elif data:
            yield data, None

    def flush_idle(self) -> bytes:
        """Nothing came for a while: what is kept, up to four characters or more of a secret.

        It stays known: if it turns out to have begun a secret, the rest of that is found.
        """
        if self._matcher is None:
            return b""
        text = self._context + self._kept
        at = len(self._context)
        end = min(self._matcher.cut_short(text, at), _HeadSearch(self._matcher, text).find(at)) - at
        given, self._given = self._given, max(self._given, end)
        return self._kept[given : self._given]

    def finish(self, *, truncated: bool) -> Iterator[tuple[bytes, Found | None]]:
        """The rest. ``truncated``: the text was cut here, so a beginning of a secret goes, too."""
        if self._matcher is not None:
            yield from self._pass(self._matcher, b"", last=True, truncated=truncated)

    def _pass(
        self, matcher: _Matcher, data: bytes, *, last: bool, truncated: bool
    ) -> Iterator[tuple[bytes, Found | None]]:
        text = self._context + self._kept + data
        at = seek = len(self._context)
        offset = self._base - at
        given = at + self._given
        hold = len(text) if last else matcher.ending(text, at)
        search = _HeadSearch(matcher, text)
        while (start := search.find(seek)) < hold:
            candidates = matcher.at(text, start)
            if (truncated or not last) and _unfinished(candidates, text, start):
                hold = start
                break
            end, name = _longest(candidates, text, start)
            if end <= start:
                seek = start + 1
                continue
            if start > max(at, given):
                yield text[max(at, given) : start], None
            yield text[start:end], Found(start + offset, end + offset, name)
            at = seek = end
            if hold < at:
                hold = len(text) if last else matcher.ending(text, at)
        if truncated:
            hold = min(hold, matcher.cut_short(text, at))
        if hold > max(at, given):
            yield text[max(at, given) : hold], None
        if last and hold < len(text):
            name = next((w.name for w in matcher.at(text, hold)), "cut short")
            yield text[hold:], Found(hold + offset, len(text) + offset, name)
            hold = len(text)
        self._given = max(0, given - hold)
        self._kept, self._base = text[hold:], hold + offset
        self._context = text[max(0, hold - 1) : hold]


def _unfinished(candidates: list[_Written], text: bytes, start: int) -> bool:
    """Whether all that follows can be the beginning of one of them."""
    size = len(text) - start
    for written in candidates:
        if written.form.plain:
            if text.startswith(written.form.plain, start):
                continue  # it is there
            if written.form.plain.startswith(text[start:]):
                return True
        if size <= written.form.longest and written.beginning.match(text, start) is not None:
            return True
    return False


def _longest(candidates: list[_Written], text: bytes, start: int) -> tuple[int, str]:
    """The farthest end of what is wholly there, and its name; (start, "") for nothing."""
    best = start, ""
    for written in candidates:
        if written.form.plain and text.startswith(written.form.plain, start):
            if (end := start + len(written.form.plain)) > best[0]:
                best = end, written.name
            continue
        match = written.whole.match(text, start, min(len(text), start + written.form.longest + 1))
        if match is not None and match.end() > best[0]:
            best = match.end(), written.name
    return best
