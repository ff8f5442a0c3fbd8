"""Bash's quoting (Bash manual 3.1.2) and brace expansion (3.5.1), on the text of one word."""

from __future__ import annotations

import re
from typing import Final

MOST_WORDS: Final = 128
"""Words one word's braces may become."""

_MOST_TRIES: Final = 16  # braces that turn out not to be expanded; each costs a look at the rest

_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|0?([0-7]{1,3})|c(.)|(.))",
    re.DOTALL,
)
_LETTERS = {
    "a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
    "v": "\v", "\\": "\\", "'": "'", '"': '"', "?": "?",
}  # fmt: skip
_RANGE = re.compile(r"(-?\d{1,6})\.\.(-?\d{1,6})|([A-Za-z])\.\.([A-Za-z])")


def ansi_c(text: str) -> str:
    """What stands between ``$'`` and ``'``, or is printed by ``echo -e`` and ``printf``."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    hexadecimal = match[1] or match[2] or match[3]
    if hexadecimal or match[4]:
        number = int(hexadecimal, 16) if hexadecimal else int(match[4], 8)
        return chr(number) if number < 0xD800 or 0xE010 < number < 0x110000 else "?"
    if match[5]:
        return chr(ord(match[5]) & 31)
    return _LETTERS.get(match[6], "\\" + match[6])


def closing(text: str, start: int, opening: str, close: str) -> int:
    """Where the bracket opened just before ``start`` closes, quotes passed over; or the end."""
    depth = 1
    at = start
    while at < len(text):
        character = text[at]
        if character == "\\":
            at += 1
        elif character == "'":
            at = _after(text, at + 1, "'") - 1
        elif character == '"':
            at = _quoted(text, at + 1) - 1
        elif character == opening:
            depth += 1
        elif character == close:
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return len(text)


def _after(text: str, start: int, what: str) -> int:
    end = text.find(what, start)
    return len(text) if end < 0 else end + 1


def _quoted(text: str, start: int) -> int:
    """The place after a ``"`` that closes a string begun before ``start``.

    A ``$(`` in it opens a new context with quotes of its own.
    """
    at = start
    depth = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text.startswith("$(", at):
            depth += 1
            at += 1
        elif text[at] == ")" and depth:
            depth -= 1
        elif text[at] == '"' and not depth:
            return at + 1
        at += 1
    return len(text)


def quoted_end(text: str, start: int) -> int:
    """Where the string ends whose ``"`` is just before ``start``."""
    return _quoted(text, start) - 1 if start <= len(text) else len(text)


def braces(word: str) -> list[str]:
    """The words that ``a{b,c}d`` and ``{1..3}`` stand for; at most ``MOST_WORDS``."""
    done: list[str] = []
    waiting = [word]
    while waiting and len(done) + len(waiting) < MOST_WORDS:
        word = waiting.pop()
        split = _first_brace(word)
        if split is None:
            done.append(word)
        else:
            before, options, after = split
            waiting.extend(before + option + after for option in reversed(options[:MOST_WORDS]))
    return done + waiting[::-1][: MOST_WORDS - len(done)]


def _first_brace(word: str) -> tuple[str, list[str], str] | None:
    at = tries = 0
    while at < len(word) and tries < _MOST_TRIES:
        character = word[at]
        if character == "\\":
            at += 1
        elif character == "'":
            at = _after(word, at + 1, "'") - 1
        elif character == '"':
            at = _quoted(word, at + 1) - 1
        elif word.startswith("${", at):
            at = closing(word, at + 2, "{", "}")
        elif word.startswith("$(", at):
            at = closing(word, at + 2, "(", ")")
        elif character == "{":
            tries += 1
            end = closing(word, at + 1, "{", "}")
            options = _options(word[at + 1 : end]) if end < len(word) else None
            if options is not None:
                return word[:at], options, word[end + 1 :]
        at += 1
    return None


def _options(inside: str) -> list[str] | None:
    span = _RANGE.fullmatch(inside)
    if span and span[1]:
        first, last = int(span[1]), int(span[2])
        step = 1 if last >= first else -1
        return [str(number) for number in range(first, last + step, step)[:MOST_WORDS]]
    if span:
        low, high = sorted((ord(span[3]), ord(span[4])))
        return [chr(code) for code in range(low, high + 1)]
    parts = []
    start = at = 0
    while at < len(inside):
        character = inside[at]
        if character == "\\":
            at += 1
        elif character == "'":
            at = _after(inside, at + 1, "'") - 1
        elif character == '"':
            at = _quoted(inside, at + 1) - 1
        elif character == "{":
            at = closing(inside, at + 1, "{", "}")
        elif character == ",":
            parts.append(inside[start:at])
            start = at + 1
        at += 1
    return [*parts, inside[start:]] if parts else None
