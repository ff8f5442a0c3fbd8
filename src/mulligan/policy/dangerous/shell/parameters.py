"""Parameter expansion (Bash manual 3.5.3): what ``${...}`` stands for, as far as it is known."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from mulligan.policy.dangerous.paths import WORKSPACE
from mulligan.policy.dangerous.patterns import compiled
from mulligan.policy.dangerous.values import EMPTY, HOME, UNKNOWN, Text, anything, joined

if TYPE_CHECKING:
    from mulligan.policy.dangerous.shell.state import State

_PARAMETER = re.compile(
    r"(?P<mark>[!#]?)(?P<name>[A-Za-z_]\w*|[0-9]+|[@*#?$!_-])(?P<index>\[[^\]]*\])?(?P<rest>.*)",
    re.DOTALL | re.ASCII,
)
_SLICE = re.compile(r":\s*(?:\(\s*)?(-?\d{1,6})\s*\)?\s*(?::\s*(-?\d{1,6})\s*)?")
_REPLACE = re.compile(r"(//?)([#%]?)((?:\\.|[^/])*)(?:/(.*))?", re.DOTALL)
_TRIM = re.compile(r"(##?|%%?)(.*)", re.DOTALL)
_LONGEST_TRIMMED = 2048


def expansion(inside: str, state: State, word: Callable[[str], Text]) -> Text:
    """The text of ``${inside}``; several values have blanks between.

    Args:
        word: expands the words in it.
    """
    parts = _PARAMETER.fullmatch(inside)
    if parts is None:
        return anything()
    values = values_of(parts["name"], parts["index"], state)
    rest = parts["rest"]
    if parts["mark"] == "!" and values and not rest:
        values = values_of(joined(values).text, None, state)
    elif parts["mark"] == "#":
        return anything()
    if rest[:1] and (rest[0] in "-+=?" or rest[:2] in (":-", ":+", ":=", ":?")):
        return _default(values, rest.lstrip(":"), parts["name"], state, word)
    if values is None:
        return anything()
    if not rest or rest.startswith("@"):
        return joined(values, " ") if values else EMPTY
    return joined([_changed(value, rest, word) for value in values], " ") if values else EMPTY


def values_of(name: str, index: str | None, state: State) -> list[Text] | None:
    """The values of a parameter, those of an array by ``[@]``; None if it has none."""
    if name in "@*" or name.isdigit():
        return _positional(name, state)
    values = state.variables.get(name)
    if values is None or index is None or index in ("[@]", "[*]"):
        return values
    number = index[1:-1]
    if number.lstrip("-").isdigit() and len(number) < 6:
        return values[int(number) :][:1]
    return values


def _positional(name: str, state: State) -> list[Text] | None:
    if name == "0" or state.positional is None:
        return None
    if name in "@*":
        return state.positional
    return state.positional[int(name[:4]) - 1 :][:1]


def _default(
    values: list[Text] | None, rest: str, name: str, state: State, word: Callable[[str], Text]
) -> Text:
    """``-``, ``=``, ``+``, ``?``: a parameter nobody set has its default or is not known."""
    instead = word(rest[1:])
    known = joined(values, " ") if values else None
    if rest[0] == "+":
        return instead if known is not None else EMPTY
    if known is not None and known.text:
        return known
    if rest[0] == "=":
        state.variables[name] = [instead]
    if rest[0] == "?":  # the script stops where it is not set, so it is some directory or other
        return Text(f"{WORKSPACE}/{UNKNOWN}")
    return instead


def _changed(value: Text, rest: str, word: Callable[[str], Text]) -> Text:
    text = value.text.replace(HOME, "/home/agent") if rest[0] == ":" else value.text
    if UNKNOWN in text:
        return anything(value.tags)
    changed = _cut(text, rest) if rest[0] == ":" else _rewritten(text, rest, word)
    return anything(value.tags) if changed is None else Text(changed, value.tags)


def _cut(text: str, rest: str) -> str | None:
    span = _SLICE.fullmatch(rest)
    if span is None:
        return None
    start = int(span[1])
    start = max(0, len(text) + start) if start < 0 else start
    if span[2] is None:
        return text[start:]
    length = int(span[2])
    return text[start : length if length < 0 else start + length]


def _rewritten(text: str, rest: str, word: Callable[[str], Text]) -> str | None:
    if rest[0] == "^":
        return text.upper() if rest.startswith("^^") else text[:1].upper() + text[1:]
    if rest[0] == ",":
        return text.lower() if rest.startswith(",,") else text[:1].lower() + text[1:]
    replace = _REPLACE.fullmatch(rest)
    if replace:
        return _replaced(text, replace, word)
    trim = _TRIM.fullmatch(rest)
    return _trimmed(text, trim[1], word(trim[2]).text) if trim else None


def _replaced(text: str, replace: re.Match[str], word: Callable[[str], Text]) -> str | None:
    pattern = word(replace[3]).text
    new = word(replace[4] or "").text
    if not pattern or UNKNOWN in pattern or len(text) > _LONGEST_TRIMMED:
        return None
    try:
        expression = compiled([pattern.replace("|", "[|]")])
    except ValueError:
        return None
    if replace[2]:
        return None
    return expression.sub(lambda _: new, text, count=0 if replace[1] == "//" else 1)


def _trimmed(text: str, how: str, pattern: str) -> str | None:
    """``#`` and ``##`` take from the front, ``%`` and ``%%`` from the end."""
    if not pattern or UNKNOWN in pattern or len(text) > _LONGEST_TRIMMED:
        return None
    try:
        expression = compiled([pattern.replace("|", "[|]")])
    except ValueError:
        return None
    lengths = range(len(text) + 1) if len(how) == 1 else range(len(text), -1, -1)
    if len(text) > 256:
        return None
    for length in lengths:
        piece = text[:length] if how[0] == "#" else text[len(text) - length :]
        if expression.fullmatch(piece):
            return text[length:] if how[0] == "#" else text[: len(text) - length]
    return text
