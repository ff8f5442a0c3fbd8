"""JSON (RFC 8259) by CPython's own C scanner, without the ``json`` package around it.

Importing ``json`` imports ``re`` and ``enum`` with it: eight milliseconds and more than a megabyte
in every VM. From Python 3.12 on the scanner itself imports it, for a text that is no JSON.
``docs/decisions/0003-zygote.md`` has what else is left out, and why.
"""

from _json import encode_basestring, make_scanner


class _Settings:
    """What the scanner asks for; as ``json.JSONDecoder`` has it, but for the constants."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}  # noqa: RUF012  (the scanner's, emptied by it)

    @staticmethod
    def parse_constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")


_scan = make_scanner(_Settings())  # type: ignore[arg-type]


def loads(text: str) -> object:
    """The value of a text.

    Raises:
        ValueError: it is no JSON; NaN and Infinity are none.
        RecursionError: it is nested too deeply.
    """
    start = len(text) - len(text.lstrip(" \t\n\r"))
    try:
        value, end = _scan(text, start)
    except StopIteration:
        raise ValueError("no value") from None
    except SystemError:  # up to 3.11 it cannot name an error of a module nobody has imported
        raise ValueError("no JSON") from None
    if text[end:].strip(" \t\n\r"):
        raise ValueError("more than one value")
    return value


def dumps(value: object) -> str:
    """The text of a value made of dicts, lists, texts, whole numbers, booleans and None.

    Raises:
        TypeError: there is something else in it.
    """
    if isinstance(value, str):
        return encode_basestring(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        pairs = (f"{encode_basestring(key)}:{dumps(each)}" for key, each in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumps, value)) + "]"
    raise TypeError(f"{type(value).__name__} is nothing frames carry")
