"""Keeping secrets out of what goes back: the one object callers use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from mulligan.errors import ConfigError
from mulligan.policy.secrets.injected import InjectedSecret, check
from mulligan.policy.secrets.patterns import PatternSet
from mulligan.policy.secrets.stream import Finding, StreamRedactor, withheld

Mode = Literal["redact", "block", "off"]
MODES = ("redact", "block", "off")
_MOST_DEPTH = 64
T = TypeVar("T")


@dataclass(frozen=True)
class Redacted(Generic[T]):
    """What may go back.

    Attributes:
        text: the text, bytes or structure without secrets; a notice alone where ``blocked``.
        findings: what was found, at most 1000; of a structure, places within their own texts.
        count: how many were found.
        blocked: mode is ``block`` and something was found.
    """

    text: T
    findings: tuple[Finding, ...] = field(default=())
    count: int = 0
    blocked: bool = False


class Sanitizer:
    """Takes injected values and everything that looks like a secret out of outputs.

    Immutable and safe to share between threads; each stream has a redactor of its own.
    """

    def __init__(
        self,
        injected: Iterable[InjectedSecret] = (),
        patterns: PatternSet | None = None,
        mode: Mode = "redact",
    ) -> None:
        """Raises ConfigError for a value that cannot be kept secret or an unknown mode."""
        if mode not in MODES:
            raise ConfigError(
                f"secrets mode {mode!r}", field="mode", remedy=f"use one of: {', '.join(MODES)}"
            )
        self._injected = check(injected)
        self._patterns = PatternSet.default() if patterns is None else patterns
        self.mode: Mode = mode

    def stream(self) -> StreamRedactor:
        """A redactor for one stream of bytes."""
        return StreamRedactor(self._injected, self._patterns, self.mode)

    def redact_bytes(self, data: bytes, *, truncated: bool = False) -> Redacted[bytes]:
        """Bytes without secrets. ``truncated``: they were cut off at their end."""
        redactor = self.stream()
        out = redactor.feed(data) + redactor.finish(truncated=truncated)
        if redactor.blocked:
            out = withheld(redactor.findings[0].kind)
        findings = tuple(sorted(redactor.findings, key=lambda f: (f.start, f.end)))
        return Redacted(out, findings, redactor.count, redactor.blocked)

    def redact(self, text: str, *, truncated: bool = False) -> Redacted[str]:
        """Text without secrets; places in characters. ``truncated``: it was cut off at its end."""
        data = text.encode("utf-8", "surrogatepass")
        done = self.redact_bytes(data, truncated=truncated)
        if not done.count:
            return Redacted(text)
        out = done.text.decode("utf-8", "surrogatepass")
        findings = done.findings if text.isascii() else _in_characters(data, done.findings)
        return Redacted(out, findings, done.count, done.blocked)

    def redact_structure(self, value: Any) -> Redacted[Any]:
        """A JSON-like value with every text in it redacted, keys of objects, too.

        A text that stands under a key is judged with the key before it, so that
        ``{"password": "..."}`` loses its value. Raises ValueError for more than 64 levels.
        """
        walk = _Walk(self)
        out = walk.of(value, 0)
        return Redacted(out, tuple(walk.findings), walk.count, walk.blocked)


class _Walk:
    def __init__(self, sanitizer: Sanitizer) -> None:
        self._sanitizer = sanitizer
        self.findings: list[Finding] = []
        self.count = 0
        self.blocked = False

    def of(self, value: Any, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise ValueError(f"more than {_MOST_DEPTH} levels of objects and lists")
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, bytes):
            return self._noted(self._sanitizer.redact_bytes(value))
        if isinstance(value, dict):
            return {self.of(k, depth + 1): self._under(k, v, depth) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([self.of(item, depth + 1) for item in value])
        return value

    def _under(self, key: Any, value: Any, depth: int) -> Any:
        if not isinstance(key, str) or not isinstance(value, str) or "\n" in value:
            return self.of(value, depth + 1)
        plain = self._text(value)
        if plain != value:
            return plain
        start = f'"{key}": "'
        whole = self._sanitizer.redact(f'{start}{value}"')
        if not whole.count or not whole.text.startswith(start) or not whole.text.endswith('"'):
            return value
        self.count += whole.count
        self.findings += [
            Finding(f.kind, f.start - len(start), f.end - len(start)) for f in whole.findings
        ]
        return whole.text[len(start) : -1]

    def _text(self, value: str) -> str:
        return self._noted(self._sanitizer.redact(value))

    def _noted(self, done: Redacted[T]) -> T:
        self.findings += done.findings
        self.count += done.count
        self.blocked = self.blocked or done.blocked
        return done.text


def _in_characters(data: bytes, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Places in bytes as places in characters; findings in order, not overlapping much."""
    places = sorted({place for f in findings for place in (f.start, f.end)})
    characters, at, count = {}, 0, 0
    for place in places:
        count += len(data[at:place].decode("utf-8", "surrogatepass"))
        characters[place], at = count, place
    return tuple(Finding(f.kind, characters[f.start], characters[f.end]) for f in findings)
