"""Constant folding: what operators and methods make of texts that are known."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable
from typing import Final

from mulligan.policy.dangerous import decode
from mulligan.policy.dangerous.program.value import Val
from mulligan.policy.dangerous.values import LONGEST, NO_TAGS, UNKNOWN

_MOST_ITEMS: Final = 4096
_LARGEST: Final = 2**80


def joined(parts: list[Val]) -> Val:
    """Texts, or lists, put together; numbers are added."""
    tags = NO_TAGS
    for part in parts:
        if part.tags:
            tags |= part.tags
    if parts and all(part.items is not None for part in parts):
        items = [item for part in parts for item in part.items or []]
        return Val(items=items[:_MOST_ITEMS], tags=tags)
    if parts and all(part.number is not None for part in parts):
        return Val(number=sum(part.number or 0 for part in parts), tags=tags)
    if not any(part.text is not None or part.path is not None for part in parts):
        return Val(tags=tags)
    return Val("".join(part.as_text().text for part in parts)[:LONGEST], tags=tags)


def binary(operator: str, left: Val, right: Val) -> Val:
    """``%`` formats, ``/`` joins paths, ``*`` repeats; of numbers only what matters."""
    tags = left.tags | right.tags
    if operator in ("Mod", "%") and left.text is not None:
        return formatted(left, right)
    if operator == "Div" and (left.path is not None or left.ref == "pathlib.Path()"):
        path = posixpath.join(left.path or "", right.as_text().text)
        return Val(path, ref=left.ref, path=path, tags=tags)
    if left.number is not None and right.number is not None:
        return Val(number=_arithmetic(operator, left.number, right.number), tags=tags)
    if operator in ("Mult", "*"):
        text, count = (left, right) if left.text is not None else (right, left)
        if text.text is not None and isinstance(count.number, int):
            if len(text.text) * count.number > LONGEST:
                return Val(UNKNOWN, tags=tags | {"huge"} if _huge(text, count) else tags)
            return Val(text.text * count.number, tags=tags)
        if text.items is None and count.items is not None:
            text, count = count, text
        if text.items is not None and _huge(text, count):
            return Val(items=text.items, tags=tags | {"huge"})
    return Val(tags=tags)


def _huge(text: Val, count: Val) -> bool:
    length = len(text.text) if text.text is not None else 8 * len(text.items or [])
    return isinstance(count.number, int | float) and length * count.number >= 1 << 20


def _arithmetic(operator: str, left: float, right: float) -> float | None:
    try:
        if operator in ("Mult", "*"):
            made: float = left * right
        elif operator in ("Pow", "**"):
            made = left**right if abs(right) <= 80 and abs(left) <= 1 << 40 else 1e300
        elif operator in ("Sub", "-"):
            made = left - right
        elif operator in ("BitXor", "^"):
            made = int(left) ^ int(right)
        elif operator in ("LShift", "<<"):
            made = int(left) << int(right) if right <= 80 else 1e300
        elif operator in ("FloorDiv", "Div", "/"):
            made = left / right
        elif operator in ("Mod", "%"):
            made = left % right
        else:
            return None
    except (ArithmeticError, ValueError):
        return None
    return (
        made
        if isinstance(made, float) or (isinstance(made, int) and abs(made) < _LARGEST)
        else 1e300
    )


def formatted(form: Val, values: Val) -> Val:
    """``form % values``."""
    items = values.items if values.items is not None else [values]
    waiting = list(items)

    def fill(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        if match[1]:
            entry = (values.fields or {}).get(match[1])
            return entry.as_text().text if entry is not None else UNKNOWN
        return waiting.pop(0).as_text().text if waiting else UNKNOWN

    text = re.sub(r"%(?:\((\w+)\))?[-#0 +]*\d*(?:\.\d+)?[a-zA-Z%]", fill, form.text or "")
    return Val(text[:LONGEST], tags=form.tags | values.all_tags())


def template(form: Val, arguments: list[Val], keywords: dict[str, Val]) -> Val:
    """``form.format(...)``."""
    waiting = list(arguments)
    tags = form.tags
    for value in (*arguments, *keywords.values()):
        tags |= value.all_tags()

    def fill(match: re.Match[str]) -> str:
        name = re.split(r"[.\[]", match[1])[0]
        if name.isdigit():
            place = int(name[:4])
            return arguments[place].as_text().text if place < len(arguments) else UNKNOWN
        if name:
            return keywords[name].as_text().text if name in keywords else UNKNOWN
        return waiting.pop(0).as_text().text if waiting else UNKNOWN

    text = re.sub(r"\{([\w.\[\]]*)(?:![rsa])?(?::[^{}]*)?\}", fill, form.text or "")
    return Val(text.replace("{{", "{").replace("}}", "}")[:LONGEST], tags=tags)


def cut(base: Val, bounds: list[float | None]) -> Val:
    """``base[low:high:step]``."""
    numbers = [int(bound) if isinstance(bound, int | float) else None for bound in bounds]
    low, high, step = (*numbers, None, None, None)[:3]
    if base.ref is not None:
        return base
    if step == 0:
        return Val(tags=base.tags)
    if base.text is not None and UNKNOWN not in base.text:
        return Val(base.text[low:high:step], tags=base.tags)
    if base.items is not None:
        return Val(items=base.items[low:high:step], tags=base.tags)
    return Val(base.text, tags=base.tags)


# Methods of texts and lists

Method = Callable[[Val, list[Val]], "Val | None"]


def _changed(change: Callable[[str], str]) -> Method:
    def method(base: Val, _arguments: list[Val]) -> Val | None:
        return None if base.text is None else Val(change(base.text), tags=base.tags)

    return method


def _join(base: Val, arguments: list[Val]) -> Val | None:
    """Python's ``separator.join(items)`` and JavaScript's ``items.join(separator)``."""
    if base.text is not None and arguments:
        separator, values = base.text, arguments[0]
        if values.text is not None:
            return Val(separator.join(values.text), tags=values.tags)
    else:
        separator, values = (arguments[0].as_text().text if arguments else ","), base
    if values.items is None:
        return Val(tags=values.tags | base.tags)
    tags = values.all_tags() | base.tags
    text = separator.join(item.as_text().text for item in values.items)
    return Val(text[:LONGEST], tags=tags)


def _split(base: Val, arguments: list[Val]) -> Val | None:
    if base.text is None:
        return None
    separator = arguments[0].text if arguments else None
    parts = list(base.text) if separator == "" else base.text.split(separator)
    return Val(items=[Val(part, tags=base.tags) for part in parts[:_MOST_ITEMS]], tags=base.tags)


def _reverse(base: Val, _arguments: list[Val]) -> Val | None:
    if base.items is not None:
        base.items = base.items[::-1]
        return base
    return None


def _replace(base: Val, arguments: list[Val]) -> Val | None:
    if base.text is None or len(arguments) < 2:
        return None
    old, new = arguments[0].text, arguments[1].as_text().text
    if not old or UNKNOWN in old:
        return Val(UNKNOWN, tags=base.tags)
    return Val(base.text.replace(old, new)[:LONGEST], tags=base.tags | arguments[1].tags)


def _concat(base: Val, arguments: list[Val]) -> Val | None:
    return joined([base, *arguments]) if base.text is not None or base.items is not None else None


def _append(base: Val, arguments: list[Val]) -> Val | None:
    if base.items is None or len(base.items) >= _MOST_ITEMS:
        return None
    base.items.extend(arguments)
    return Val()


def _extend(base: Val, arguments: list[Val]) -> Val | None:
    if base.items is None or not arguments or len(base.items) >= _MOST_ITEMS:
        return None
    base.items.extend(arguments[0].items or [Val(tags=arguments[0].tags)])
    return Val()


def _repeat(base: Val, arguments: list[Val]) -> Val | None:
    if base.text is None or not arguments:
        return None
    return binary("*", base, arguments[0])


def _to_string(base: Val, arguments: list[Val]) -> Val | None:
    """``Buffer.toString('base64')`` and the like; without an argument the text itself."""
    if base.text is None or (
        arguments and arguments[0].text not in ("utf8", "utf-8", "ascii", "binary")
    ):
        return None
    return base


def _decode(base: Val, arguments: list[Val]) -> Val | None:
    """``text.decode('hex')``: the codecs that Python 2 had, and UTF-8."""
    if base.text is None:
        return None
    codec = arguments[0].text if arguments else "utf-8"
    named = {"hex": "hex", "base64": "base64", "rot13": "rot13", "rot_13": "rot13", "zlib": "zlib"}
    if codec in named:
        data = decode.decoded(decode.bytes_of(base.text), named[codec])
        return Val(decode.text_of(data) if data is not None else UNKNOWN, tags=base.tags)
    return base


def _char_code(base: Val, arguments: list[Val]) -> Val | None:
    at = arguments[0].number if arguments else 0
    if base.text is None or not isinstance(at, int) or UNKNOWN in base.text:
        return None
    character = base.text[at : at + 1]
    return Val(number=ord(character)) if character else Val()


def _slice(base: Val, arguments: list[Val]) -> Val | None:
    return cut(base, [argument.number for argument in arguments[:2]])


def words(base: Val) -> Val:
    """``shlex.split(text)``."""
    text = base.as_text()
    try:
        parts = shlex.split(text.text)
    except ValueError:
        parts = text.text.split()
    return Val(items=[Val(part, tags=text.tags) for part in parts[:_MOST_ITEMS]])


_CHANGES: Final[dict[str, Callable[[str], str]]] = {
    "lower": str.lower, "upper": str.upper, "strip": str.strip, "lstrip": str.lstrip,
    "rstrip": str.rstrip, "title": str.title, "swapcase": str.swapcase, "trim": str.strip,
    "toLowerCase": str.lower, "toUpperCase": str.upper, "casefold": str.casefold,
    "trimEnd": str.rstrip, "trimStart": str.lstrip,
    **dict.fromkeys(("encode", "to_string", "to_owned", "into", "as_str", "expanduser",
                     "expandtabs", "valueOf", "clone", "resolve", "absolute", "as_posix"), str),
}  # fmt: skip

METHODS: Final[dict[str, Method]] = {
    **{name: _changed(change) for name, change in _CHANGES.items()},
    "join": _join,
    "split": _split,
    "reverse": _reverse,
    "replace": _replace,
    "replaceAll": _replace,
    "concat": _concat,
    "append": _append,
    "push": _append,
    "extend": _extend,
    "repeat": _repeat,
    "toString": _to_string,
    "decode": _decode,
    "charCodeAt": _char_code,
    "codePointAt": _char_code,
    "slice": _slice,
    "substring": _slice,
}  # fmt: skip
