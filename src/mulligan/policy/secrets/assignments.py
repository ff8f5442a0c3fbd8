"""Values assigned to names that say what they are: ``password = "..."``, ``API_KEY=...``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from mulligan.policy.secrets import values
from mulligan.policy.secrets.expressions import compile_bytes

_LONGEST_NAME = 80
_LONGEST_VALUE = 512
_COLOUR = rb"(?:\x1b\[[0-9;]{0,10}m)?"
_SIGN = (
    rb"(?::[ \t]{0,4}[A-Za-z_\[\]|.&<> ]{1,24}=|=>|={1,2}|[?:]=|->|:|<-|\t"
    rb"|[ \t](?:--|\||\.{2,40})[ \t])"
)
_TAG = rb"(?:![A-Za-z/!]{1,20}[ \t]{1,2})?(?:\[[ \t]{0,2})?"  # of YAML; a list
_TO_VALUE = (  # from the word in a name to its value
    rb"[0-9a-z_.\-]{0,40}(?:\\{0,3}[\"'`\])*]){0,3}[ \t]{0,20}" + _COLOUR + _SIGN
    + rb"[ \t]{0,20}" + _COLOUR + _TAG + rb"(?:[bru]{0,2}\\{0,3}[\"'`])?"
)  # fmt: skip
_CANDIDATE = compile_bytes(
    rb"(?:(?:pass|pwd?|secret|psk)" + _TO_VALUE + rb"[^ \t\r\"'`][^\t\r\"'`]{3}"
    rb"|(?:token|key|auth|cred|jwt|bearer|fernet|hmac|mnemonic|sid|seed|salt|signature|otp)"
    + _TO_VALUE + rb"[^\s\"'`]{8})",
    within_lines=True,
    any_case=True,
)  # fmt: skip
_FLAG = compile_bytes(
    rb"--?[0-9a-z\-]{0,30}(?:pass(?:word|wd|phrase)?|pwd|secret|token|api-?key|(?:secret|access)-key)"
    rb"(?:[ \t]{1,4}|=)[^ \t\r\-][^ \t\r]{3}",
    within_lines=True,
    any_case=True,
)
_PAIR_NAME = (
    rb"name[\"']?[ \t]{0,4}[:=][ \t]{0,4}[\"']?([0-9A-Za-z_.\-]{3,80})[\"']?,?[ \t\r]{0,4}\n"
)
_PAIR = compile_bytes(
    _PAIR_NAME + rb"[ \t]{0,40}[\"']?value[\"']?[ \t]{0,4}[:=][ \t]{0,4}", any_case=True
)
NAME_LINE = re.compile(
    rb"(?i)name[\"']?[ \t]{0,4}[:=][ \t]{0,4}[\"']?[0-9A-Za-z_.-]*"
    rb"(?:pass|pwd|secret|token|key|auth|cred)[0-9A-Za-z_.-]*[\"']?,?[ \t\r]{0,4}\n"
)
_NAME_CHARACTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_.-"
_SPLIT = re.compile(rb"(?<=[a-z0-9])(?=[A-Z])|[_.\-]+|(?<=[A-Z])(?=[A-Z][a-z])")
_QUOTE = re.compile(rb"(?:[bBrRuUfF]{0,2})(\\{0,3})([\"'`])")
_BARE = re.compile(rb"[^\s\"'`<>\x1b]+|[^\s\x1b]+")
_IN_URL = re.compile(rb"[&#\s]")
_CLOSERS = {ord(")"): ord("("), ord("]"): ord("["), ord("}"): ord("{")}


class Assignments:
    """Judges assignments by the words of their names."""

    def __init__(self, table: Mapping[str, list[str]], placeholders: values.Placeholders) -> None:
        self._placeholders = placeholders
        self._classes = {
            strength: {
                tuple(w.encode() for w in words.lower().split())
                for words in table.get(strength, [])
            }
            for strength in ("strong", "medium", "weak")
        }
        self._not_before = {w.lower().encode() for w in table.get("not_before", [])}
        self._not_after = {w.lower().encode() for w in table.get("not_after", [])}
        vendors = [re.escape(w.encode()) for w in table.get("vendors", [])]
        self._vendors = compile_bytes(b"|".join(vendors) or rb"[^\x00-\xff]", any_case=True)
        self.strength = lru_cache(maxsize=4096)(self._strength)

    def find(self, text: bytes) -> Iterator[tuple[int, int, str]]:
        """Start, end and kind of the values to hide."""
        at = 0
        while (match := _CANDIDATE.search(text, at)) is not None:
            start, end = match.span()
            at = end - 4
            found = self._judge(text, start, _value_start(text, start, end))
            if found is not None:
                yield found
                at = max(at, found[1])
        at = 0
        while (match := _FLAG.search(text, at)) is not None:
            at = match.end() - 4
            start, end, how = _value(text, at, tight=True, env=True)
            value = text[start:end]
            secret = values.is_strong(value, how) if how.quoted else values.is_mixed(value)
            if secret and not self._placeholders.has(value):
                yield start, end, "password"
                at = max(at, end)

    def _strength(self, name: bytes) -> str:
        """How surely a name's words tell of a secret: strong, medium, weak, or an empty text."""
        parts = [part.lower() for part in _SPLIT.split(name) if part]
        words = [part.rstrip(b"0123456789") or part for part in parts]
        for strength, known in self._classes.items():
            for length in (3, 2, 1):
                for i in range(len(words) - length, -1, -1):
                    if tuple(words[i : i + length]) in known:
                        if self._not_before & set(words[:i]) or self._not_after & set(
                            words[i + length :]
                        ):
                            return ""
                        return strength
        return ""

    def pairs(self, text: bytes) -> Iterator[tuple[int, int, str]]:
        """The same of values on the line below their names (``name: X``, ``value: ...``)."""
        at = 0
        while (match := _PAIR.search(text, at)) is not None:
            at = match.end()
            strength = self.strength(text[match.start(1) : match.end(1)])
            start, end, how = _value(text, at, tight=True, env=True)
            value = text[start:end]
            judge = values.is_strong if strength == "strong" else values.is_medium
            if strength and judge(value, how) and not self._placeholders.has(value):
                yield start, end, "password" if strength == "strong" else "token"

    def _judge(self, text: bytes, start: int, value_at: int) -> tuple[int, int, str] | None:
        head = text[max(0, start - _LONGEST_NAME) : start]
        name_start = start - len(head) + len(head.rstrip(_NAME_CHARACTERS))
        rest = text[start:value_at]
        name_end = value_at - len(rest.lstrip(_NAME_CHARACTERS))
        colour = head.rfind(b"\x1b")
        if colour >= 0:  # the m that ends it is no part of the name
            name_start = max(name_start, start - len(head) + head.find(b"m", colour) + 1)
        name = text[name_start:name_end]
        if text[name_start - 1 : name_start] == b":" and b"arn:" in head:
            return None  # arn:aws:secretsmanager:...:secret:name
        strength = self.strength(name)
        if not strength:
            return None
        separator = text[name_end:value_at]
        tight = not separator.endswith((b" ", b"\t"))
        first, last, how = _value(text, value_at, tight=tight, env=name.isupper())
        if name_start and text[name_start - 1] in b"?&" and not how.quoted:
            cut = _IN_URL.search(text, first, last)
            last = cut.start() if cut else last
        value = text[first:last]
        if len(value) < values.SHORTEST or value == name or (b"==" in separator and not how.quoted):
            return None
        if strength == "strong":
            secret, kind = values.is_strong(value, how), "password"
        elif strength == "medium":
            secret, kind = values.is_medium(value, how), "token"
        else:
            vendor = self._vendors.search(name) is not None
            secret, kind = values.is_weak(value, vendor=vendor), "key"
        return (first, last, kind) if secret and not self._placeholders.has(value) else None


_SEPARATORS = re.compile(
    rb"[\w.-]*[\\\"'`\])*]*[ \t]*" + _COLOUR + _SIGN + rb"[ \t]*" + _COLOUR + _TAG
)  # fmt: skip


def _value_start(text: bytes, start: int, end: int) -> int:
    """Where the value of a candidate begins: behind the name and what separates them."""
    match = _SEPARATORS.match(text, start, end)
    return end - 1 if match is None else match.end()


def _value(text: bytes, at: int, *, tight: bool, env: bool) -> tuple[int, int, values.Written]:
    """Where the value that begins at a place begins and ends, without its quotes."""
    limit = min(len(text), at + _LONGEST_VALUE)
    quote = _QUOTE.match(text, at)
    if quote is not None:
        end = _closing(text, quote.end(), limit, quote[1] + quote[2])
        at = quote.end()
        if end >= 0:
            return at, end, values.Written(text, at, end, quoted=True, tight=tight, env=env)
    bare = _BARE.match(text, at, limit)
    end = at if bare is None else bare.end()
    escaped = text.find(b"\\n", at, end)
    if escaped > at:  # a line end in a text that is itself quoted
        end = escaped
    while end > at and (text[end - 1] in b",;\\" or _unopened(text, at, end)):
        end -= 1
    return at, end, values.Written(text, at, end, quoted=False, tight=tight, env=env)


def _closing(text: bytes, at: int, limit: int, quote: bytes) -> int:
    """Where the closing quote is, on this line; -1 where it is not."""
    line_end = text.find(b"\n", at, limit)
    limit = limit if line_end < 0 else line_end
    while True:
        found = text.find(quote, at, limit)
        if found < 0 or len(quote) > 1 or text[found - 1 : found] != b"\\":
            return found
        at = found + 1


def _unopened(text: bytes, at: int, end: int) -> bool:
    """Whether the last character closes a bracket that was opened before the value."""
    opener = _CLOSERS.get(text[end - 1])
    return opener is not None and text.count(bytes((opener,)), at, end) < text.count(
        text[end - 1 : end], at, end
    )
