"""Judging a value by what it stands beside: a secret, a placeholder, or a piece of program?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mulligan.policy.secrets import checks
from mulligan.policy.secrets.expressions import Expression, compile_bytes

_TEMPLATE = (
    rb"\$\{|\$\(|\{\{|<%|#\{|%\(|\$[A-Za-z_]\w*(?::[\w$:-]*)?$|\$\$\(|%[A-Za-z_]\w*%$|%[sdvr]$|<[^<>]*>$"
    rb"|\{[\w.:\[\]'\" ]*\}$|\[[a-zA-Z ]*redacted|@[A-Za-z_]+@$|\$env:"
)
_SAME = re.compile(rb"(.)\1*[\"']?$|[*xX.#_-]+$|(?:[^\w]|_)+$")
_SEQUENCE = re.compile(rb"(?i)^(?:abcdef|123456|012345|abc123|qwerty)[0-9a-z]{0,3}$")
_CODE = re.compile(
    rb"^(?:[A-Za-z_$][\w$]*(?:\.|->|::|\?\.)){1,}[A-Za-z_$]|^[A-Za-z_$][\w.$:]*[(\[]"
    rb"|^(?:new|await|return|not|lambda|function|typeof|if|os|process|env|config|self|this)\b[ .([]"
    rb"|^(?:\(|\[|\{|=>|->|\|\||&&|!=|==|[!=<>]=)"
)
_CALL = re.compile(rb"[A-Za-z_][\w.]*[(\[].*[)\]]|[(\[{]")
_NUMBER = re.compile(rb"0[xob][0-9A-Fa-f_]+|[0-9]+(?:\.[0-9]+)+|[0-9]+(?:ms|s|m|h|d|%)")
_DOTTED = re.compile(rb"[A-Za-z]+\.[A-Za-z]+[0-9!?#*%@&]+")
_TOKEN = re.compile(rb"[0-9A-Za-z_=.~+/-]+")
_MODULE = re.compile(rb"[a-z_]\w*(?:\.[A-Za-z_]\w*){2,}")
_SCHEME = re.compile(rb"[0-9A-Z]+(?:-[0-9A-Z]+)+$")
_IDENTIFIER = re.compile(rb"[A-Za-z_][A-Za-z_]*$")
_PATH = re.compile(
    rb"^(?:~?/|\.{1,2}/|[A-Za-z]:\\)[\w.@~/\\ -]*$|^(?:[a-z][a-z0-9+.-]*://|file:|arn:)"
    rb"|^[\w.-]+(?:/[\w.-]+)+\.\w{1,5}$"
)
_PLAIN = re.compile(rb"[0-9][0-9.,:/TZ+ -]*[a-zA-Z%]{0,3}$")
_PROSE = re.compile(
    rb"(?i)(?:^|[ .])(?:the|your|please|must|is|are|was|enter|invalid|required|incorrect|cannot"
    rb"|should|for|and|not|with|to|a|an|of|here|does|changed|updated|forgot|reset)(?:[ .!?,:]|$)"
)
_MIXED_LENGTH = 6
SHORTEST = 4  # characters of a password


@dataclass(frozen=True)
class Placeholders:
    """Words and parts of words that stand where a secret goes."""

    words: frozenset[bytes]
    parts: Expression

    @classmethod
    def of(cls, table: Mapping[str, list[str]]) -> Placeholders:
        """From the ``[placeholders]`` table of a pattern file."""
        parts = sorted(table.get("parts", []), key=len, reverse=True)
        pattern = b"|".join([*(re.escape(part.encode()) for part in parts), _TEMPLATE])
        words = frozenset(word.lower().encode() for word in table.get("words", []))
        return cls(words, compile_bytes(pattern, any_case=True))

    def has(self, value: bytes) -> bool:
        """Whether a value is a placeholder."""
        if value.lower() in self.words or _SAME.match(value) or _SEQUENCE.match(value):
            return True
        return self.parts.search(value) is not None

    def in_token(self, value: bytes) -> bool:
        """Whether a vendor's token is a placeholder: ``EXAMPLE``, ``xxxxxxxx``, ``...``."""
        upper = value.upper()
        return any(part in upper for part in (b"EXAMPLE", b"XXXXXX", b"PLACEHOLDER", b"YOUR-"))


def _is_code(value: bytes) -> bool:
    """Whether a value is an expression; ``Falcon.tiger7`` with its digit is a password."""
    if _CODE.match(value) is None:
        return False
    return _DOTTED.fullmatch(value) is None


def _is_expression(value: bytes) -> bool:
    """Whether a value is program text; tokens have dots, too, and random parts between them."""
    if _CODE.match(value) is None:
        return False
    parts = _TOKEN.fullmatch(value) and value.split(b".")
    return not parts or not any(len(p) >= 16 and checks.looks_random(p) for p in parts)


def is_password(value: bytes) -> bool:
    """A password as people choose them, in a place where only a password can be."""
    return len(value) >= 3 and not _CALL.match(value) and not _PATH.match(value)


def is_mixed(value: bytes) -> bool:
    """At least six characters of two kinds or more, a digit or a sign among them."""
    core = value.rstrip(b".,;:!?)'\"`")
    if len(core) < _MIXED_LENGTH or _is_code(core) or _PATH.match(core) or _PLAIN.match(core):
        return False
    inner = core.strip(b"-_.")
    return len(checks.classes(inner)) >= 2 and bool(checks.digits(inner) or checks.signs(inner))


def is_header_value(value: bytes) -> bool:
    """A credential in a header: not a word, not the name of a scheme."""
    if _CODE.match(value) or _SCHEME.match(value):
        return False
    if _IDENTIFIER.match(value.replace(b"-", b"")) and len(value) < 24:
        return False
    return checks.digits(value) > 0 or checks.entropy(value) > 3.5


def is_random(value: bytes) -> bool:
    """Random characters, in hex or mixed."""
    if checks.is_hex(value) and not value.isdigit():
        return len(value) >= 20 and checks.entropy(value) > 2.8
    return checks.looks_random(value)


TESTS: dict[str, Callable[[bytes], bool]] = {
    "url": is_password,
    "header": is_header_value,
    "password": is_password,
    "mixed": is_mixed,
    "random": is_random,
}
"""What ``value`` of a pattern may name."""


class Written:
    """How a value stands in an assignment.

    Attributes:
        quoted: in quotes.
        tight: no blank between the name and the value.
        env: the name is in capitals.
    """

    __slots__ = ("_end", "_start", "_text", "env", "quoted", "tight")

    def __init__(
        self, text: bytes, start: int, end: int, *, quoted: bool, tight: bool, env: bool
    ) -> None:
        self._text, self._start, self._end = text, start, end
        self.quoted, self.tight, self.env = quoted, tight, env

    @property
    def alone(self) -> bool:
        """Whether there is nothing else on the line."""
        text, start, end = self._text, self._start, self._end
        line_end = text.find(b"\n", end, end + 4)
        if text[end : line_end if line_end >= 0 else end + 4].strip(b"\r ;"):
            return False
        line_start = text.rfind(b"\n", max(0, start - 100), start) + 1
        before = text[line_start:start].lstrip(b" \t+-").removeprefix(b"export ")
        return b" " not in before.rstrip(b" :=")


def is_strong(value: bytes, how: Written) -> bool:
    """Whether what is assigned to a password's name is one."""
    if len(value) < SHORTEST or _PATH.match(value) or _MODULE.fullmatch(value):
        return False
    if _CALL.match(value) if how.quoted else _is_code(value):
        return False
    if value.endswith(b":"):
        return False
    if b" " in value and (not how.quoted or _PROSE.search(value)):
        return False
    if how.quoted:
        word = value.islower() and value.isalpha() and len(value) < 6
        return not word
    return _is_strong_unquoted(value, how)


def _is_strong_unquoted(value: bytes, how: Written) -> bool:
    if _NUMBER.fullmatch(value):
        return False
    if value.isdigit():
        return how.tight and len(value) >= 6
    if _IDENTIFIER.match(value):
        if how.tight and len(value) >= 6 and (how.env or how.alone):
            return True
        mixed = checks.transitions(value) >= 0.2 and len(value) >= 8
        return mixed and (how.tight or how.alone)
    return not value.endswith((b"(", b"{", b"[")) or len(value) >= 10


def is_medium(value: bytes, how: Written) -> bool:
    """Whether what is assigned to the name of a token or key is one."""
    if len(value) < 8 or b" " in value:
        return False
    if _is_expression(value) or _PATH.match(value) or _PLAIN.match(value):
        return False
    if value.lower().startswith((b"sha256:", b"sha1:", b"sha512-", b"sha256-", b"md5:")):
        return False
    if _IDENTIFIER.match(value.replace(b"-", b"").replace(b".", b"")):
        return len(value) >= 16 and checks.transitions(value) > 0.25
    digits = checks.digits(value)
    least = 2.5 if how.quoted or how.tight or how.alone else 3.0
    return digits >= 1 and checks.entropy(value) >= least and (digits > 1 or len(value) >= 20)


def is_weak(value: bytes, *, vendor: bool) -> bool:
    """Whether what is assigned to something called a key is a key: random, and no digest."""
    if len(value) < 20 or b" " in value or _PATH.match(value) or _is_expression(value):
        return vendor and len(value) >= 16 and is_random(value)
    if checks.is_hex(value) or checks.is_uuid(value):
        return vendor and not value.isdigit()
    return checks.looks_random(value)
