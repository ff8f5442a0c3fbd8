"""What a Python cell comes to: its value, its pictures, its errors. Runs beside ``runner``."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing typing for it would cost every kernel milliseconds
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

MOST_RESULT = 64 * 1024
MOST_RICH = 1536 * 1024
MOST_FIGURES = 8
MOST_NOTES = 16
INTERRUPTED = 130


class Outcome:
    """What a cell came to."""

    def __init__(self) -> None:
        self.status = 0
        self.result: str | None = None
        self.results: list[list[str]] = []
        self.notes: list[str] = []


def bounded(text: str) -> str:
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= MOST_RESULT:
        return data.decode()
    shown = data[: MOST_RESULT - 64].decode(errors="ignore")
    return f"{shown}… ({len(text) - len(shown)} more characters)"


def report(error: BaseException) -> int:
    """Prints what ended a cell, without frames of ours; the cell's status."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 255
        print(error.code, file=sys.stderr)  # noqa: T201
        return 1
    shown: TracebackType | None = error.__traceback__
    while shown is not None and not shown.tb_frame.f_code.co_filename.startswith("<cell "):
        shown = shown.tb_next
    error.__traceback__ = shown
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, shown
    try:
        if sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(error), error, shown)
        else:
            import traceback

            traceback.print_exception(error)
    except Exception as worse:
        print(f"{type(error).__name__} (and {type(worse).__name__} on showing it)", file=sys.stderr)  # noqa: T201
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def rich(value: Any, outcome: Outcome) -> None:
    """A value's own picture of itself, where it has one; what goes wrong there is its affair."""
    if isinstance(value, type):
        return
    for name, mime_type in (("_repr_png_", "image/png"), ("_repr_html_", "text/html")):
        method = getattr(type(value), name, None)
        if method is None:
            continue
        try:
            data = method(value)
        except Exception as error:
            outcome.notes.append(f"{name}: {type(error).__name__}"[:200])
            continue
        if isinstance(data, bytes | str):
            _add(outcome, mime_type, data)


def _add(outcome: Outcome, mime_type: str, data: bytes | str) -> None:
    """Adds to the results what there is room for."""
    if isinstance(data, bytes):
        from binascii import b2a_base64

        data = b2a_base64(data, newline=False).decode()
    used = sum(len(each[1].encode("utf-8", "replace")) for each in outcome.results)
    size = len(data.encode("utf-8", "replace"))
    if used + size > MOST_RICH:
        outcome.notes.append(f"{mime_type} of {size} bytes is too large to come back")
    else:
        outcome.results.append([mime_type, data])


def figures(outcome: Outcome) -> None:
    """Brings a cell's open figures back as pictures, and closes them."""
    pyplot = sys.modules["matplotlib.pyplot"]
    try:
        from io import BytesIO

        numbers = list(pyplot.get_fignums())
        for number in numbers[:MOST_FIGURES]:
            file = BytesIO()
            pyplot.figure(number).savefig(file, format="png", bbox_inches="tight")
            _add(outcome, "image/png", file.getvalue())
        if len(numbers) > MOST_FIGURES:
            outcome.notes.append(f"{len(numbers)} figures, of which {MOST_FIGURES} come back")
        if numbers:
            pyplot.close("all")
    except Exception as error:
        outcome.notes.append(f"a figure could not be drawn: {type(error).__name__}: {error}"[:200])
