"""The ways a value known to us can be written, as sequences of units for regular expressions.

A *form* is a list of units; each unit is one regular expression (RE2 syntax, bytes) for one
character of the value as written, and units may stand apart by a *gap*: what line wrapping,
quoting, or printing character by character puts between them. Everything is bounded, so a match
has a greatest length, and every beginning of a form can be recognised (see ``beginnings``).
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, replace

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
PIECE = 48
LONGEST_PIECE = 64
_BETWEEN = rb"[\x00-/:-@\[-`{-~]"  # ASCII that is neither letter nor digit
_TEXT_GAP = _BETWEEN + b"*"
_TEXT_PART = _TEXT_GAP + rb"[%&=\\#uxXU0-9A-Fa-f{;]*"
_WRAP_GAP = rb"(?:[\x00-/:-@\[-`{-~]|\\[rn])*"
_WRAP_PART = _WRAP_GAP + rb"(?:%2?)?"
_LINE_END = rb"(?:\r?\n|\\{1,2}n|\\{1,2}r\\{1,2}n)?"
_HEX_GAP = rb"(?:[\x00-/:-@\[-`{-~]+0?[xX]?|0[xX])?"
_HEX_PART = rb"[\x00-/:-@\[-`{-~]*0?[xX]?[0-9A-Fa-f]?"
_NUMBER_GAP = rb"[\x00-/:-@]+"
_NUMBER_PART = rb"[\x00-/:-@]*[0-9]{0,3}"
_HEAD_GAP = _BETWEEN + b"{0,4}"
_NAMED = {0x22: b"quot", 0x26: b"amp", 0x27: b"apos", 0x3C: b"lt", 0x3E: b"gt"}
_CONTROL = {0x0A: b"n", 0x0D: b"r", 0x09: b"t", 0x08: b"b", 0x0C: b"f"}
_ENOUGH_LETTERS = 6


@dataclass(frozen=True)
class Form:
    """One way to write a value.

    Attributes:
        units: a regular expression for each character as written.
        gap: what may stand between two units; unbounded, so compare with a bounded text.
        head_gap: the same for the first few units, bounded.
        part: a superset of what an unfinished gap and unit can look like.
        longest: bytes of the longest text that the form can match.
        optional: units that may be missing at the front and at the back (bits shared with
            neighbouring data in base64).
        plain: the form as it is written most of the time, where there is such a way: what
            begins with it needs no expression to be known.
    """

    units: tuple[bytes, ...]
    gap: bytes
    part: bytes
    longest: int
    head_gap: bytes = _HEAD_GAP
    optional_front: bool = False
    optional_back: bool = False
    plain: bytes = b""

    def head(self, units: int) -> Form:
        """The form of only the first so many units, for a first quick look."""
        units = min(units + self.optional_front, len(self.units) - self.optional_back)
        return replace(self, units=self.units[:units], gap=self.head_gap, optional_back=False)

    def from_unit(self, first: int) -> Form:
        """The form without its first units."""
        return replace(self, units=self.units[first:], optional_front=False)

    def whole(self) -> bytes:
        """A regular expression for the form."""
        units = list(self.units)
        front = b""
        if self.optional_front:
            front = b"(?:" + units.pop(0) + _LINE_END + b")?"
        back = b""
        if self.optional_back:
            back = b"(?:" + _LINE_END + units.pop() + rb"(?:={0,2}|(?:%3[dD]){0,2}))?"
        return front + self.gap.join(units) + back

    def beginnings(self) -> bytes:
        """A regular expression for every beginning of the form that a text can end with."""
        units = list(self.units)
        tail = b""
        if self.optional_back:
            pads = rb"(?:={0,2}|(?:%3[dD]){0,2}(?:%3?)?)"
            tail = (
                b"(?:" + _LINE_END + units.pop() + pads + b")?" + rb"(?:\r|\\{1,2}(?:r\\{0,2})?)?"
            )
        for unit in reversed(units[1:]):
            tail = b"(?:" + self.gap + unit + tail + b"|" + self.part + b")"
        nested = units[0] + tail
        if self.optional_front:
            nested = b"(?:" + nested + b"|" + self.from_unit(1).beginnings() + b")"
        return nested


def pieces(value: bytes) -> list[bytes]:
    """A long value in pieces that are looked for one by one, so a part of it is found, too."""
    if len(value) <= LONGEST_PIECE:
        return [value]
    cuts = list(range(0, len(value) - PIECE // 3, PIECE))
    return [value[a:b] for a, b in zip(cuts, [*cuts[1:], len(value)], strict=True)]


def forms(value: bytes, *, alone: bool = True) -> list[Form]:
    """Every form of one piece of a value (8 to 64 bytes); the usual ones where it is a part."""
    if not alone:
        return [_text(value), _hex(value), *_base64(value)]
    text = value.decode("utf-8", "surrogateescape")
    wide = value.decode("utf-8", "replace").encode("utf-16-le")
    twice = base64.b64encode(value).rstrip(b"=")
    found = [_text(value), _hex(value), _numbers(value), *_base64(value)]
    found += [_base64(wide)[0], _base64(twice)[0]]
    found.append(_plain(text[::-1].encode("utf-8", "surrogateescape")))
    found.append(_base32(value))
    return found


def word(value: bytes) -> Form:
    """A short value as it is, as a whole word."""
    units = [re.escape(bytes((c,))) for c in value]
    units[0], units[-1] = rb"\b" + units[0], units[-1] + rb"\b"
    return Form(tuple(units), b"", b"", len(value))


def _text(value: bytes) -> Form:
    """As it is, in string escapes of any language, URL or HTML encoded, quoted, UTF-16, spaced."""
    gap, head_gap = _TEXT_GAP, _HEAD_GAP
    if sum(bytes((c,)).isalnum() for c in value) < _ENOUGH_LETTERS:
        gap = head_gap = rb"\\{0,3}\x00?"
    units = []
    for unit in _characters(value):
        alternatives = [b"".join(map(_byte, unit)), b"".join(map(_percent, unit))]
        alternatives += [b"".join(rb"\\{0,4}x" + _hex_byte(c) for c in unit)]
        alternatives += [_code_point(unit)]
        if len(unit) == 1:
            alternatives += _single(unit[0])
        units.append(b"(?:" + b"|".join(a for a in alternatives if a) + b")")
    longest = 16 * len(value) + 4 * len(units)
    return Form(tuple(units), gap, _TEXT_PART, longest, head_gap, plain=value)


def _characters(value: bytes) -> list[bytes]:
    """UTF-8 characters of a value, or its bytes where it is no UTF-8."""
    text = value.decode("utf-8", "surrogateescape")
    return [c.encode("utf-8", "surrogateescape") for c in text]


def _single(code: int) -> list[bytes]:
    found = [rb"\\{1,4}0?%o" % code, b"=" + _hex_byte(code)]
    if code in _NAMED:
        found.append(b"&(?:amp;)?" + _NAMED[code] + b";")
    if code in _CONTROL:
        found.append(rb"\r?\n" if code == 0x0A else _byte(code))
        found.append(_CONTROL[code])
    if code == 0x20:
        found.append(rb"\+")
    return found


def _code_point(unit: bytes) -> bytes:
    try:
        code = ord(unit.decode())
    except UnicodeDecodeError:
        return b""
    html = rb"&#(?:0{0,4}%d|[xX]0{0,4}%s);" % (code, _any_case(b"%x" % code))
    if code > 0xFFFF:
        high, low = divmod(code - 0x10000, 0x400)
        pair = _any_case(b"%04x" % (0xD800 + high)), _any_case(b"%04x" % (0xDC00 + low))
        return rb"u%s\\{1,4}u%s|U%s|%s" % (*pair, _any_case(b"%08x" % code), html)
    digits = _any_case(b"%04x" % code)
    return rb"u(?:%s|\{0{0,4}%s\})|U0000%s|%s" % (digits, _any_case(b"%x" % code), digits, html)


def _plain(value: bytes) -> Form:
    units = tuple(b"".join(map(_byte, unit)) for unit in _characters(value))
    return Form(units, rb"\\{0,2}", rb"\\{0,2}", 3 * len(value), rb"\\{0,2}")


def _hex(value: bytes) -> Form:
    units = tuple(_hex_byte(c) for c in value)
    return Form(units, _HEX_GAP, _HEX_PART, 8 * len(value), _BETWEEN + b"{0,4}(?:0?[xX])?")


def _numbers(value: bytes) -> Form:
    units = tuple(b"%d" % c for c in value)
    return Form(units, _NUMBER_GAP, _NUMBER_PART, 7 * len(value), rb"[\x00-/:-@]{1,3}")


def _base64(value: bytes) -> list[Form]:
    """The three ways a value can lie in base64 of something longer (RFC 4648, 4 and 5)."""
    found = []
    for before in range(3):
        bits = "".join(f"{c:08b}" for c in value)
        skipped = (-8 * before) % 6  # bits that share a character with what is before the value
        whole = (len(bits) - skipped) // 6
        units = [_letter([int(bits[i : i + 6], 2)]) for i in range(skipped, skipped + 6 * whole, 6)]
        rest = bits[skipped + 6 * whole :]
        if skipped:
            units.insert(0, _letter([i for i in range(64) if f"{i:06b}".endswith(bits[:skipped])]))
        if rest:
            units.append(_letter([i for i in range(64) if f"{i:06b}".startswith(rest)]))
        found.append(
            Form(
                tuple(units), _WRAP_GAP, _WRAP_PART, 9 * len(units) + 8,
                optional_front=bool(skipped), optional_back=bool(rest),
            )
        )  # fmt: skip
    return found


def _letter(values: list[int]) -> bytes:
    letters = bytes(ALPHABET[v] for v in values)
    if letters == b"+":
        return rb"(?:[+-]|%2[bB])"
    if letters == b"/":
        return rb"(?:[/_]|%2[fF])"
    extra = rb"\-" * (b"+" in letters) + b"_" * (b"/" in letters)
    return b"[" + letters + extra + b"]" if len(values) > 1 else letters


def _base32(value: bytes) -> Form:
    written = base64.b32encode(value).rstrip(b"=")
    sure = written if len(value) % 5 == 0 else written[:-1]
    return Form(tuple(_any_case(bytes((c,))) for c in sure), _WRAP_GAP, _WRAP_PART, 8 * len(sure))


def _byte(code: int) -> bytes:
    return re.escape(bytes((code,))) if 0x20 <= code < 0x7F else b"\\x%02x" % code


def _percent(code: int) -> bytes:
    return b"%(?:25){0,2}" + _hex_byte(code)


def _hex_byte(code: int) -> bytes:
    return _any_case(b"%02x" % code)


def _any_case(text: bytes) -> bytes:
    return b"".join(
        b"[%c%c]" % (c, c - 32) if 0x61 <= c <= 0x7A else b"%c" % c for c in text.lower()
    )
