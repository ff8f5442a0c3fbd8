"""Text of a stranger's, made safe to show."""

from __future__ import annotations

import unicodedata

LAST_BYTE = 0xFF
MOST_SHOWN = 4096  # the longest path there is


def printable(text: str) -> str:
    """Text of a stranger's for a terminal: control characters become visible, lines stay."""
    text = text.replace("\r\n", "\n")
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(map(_shown, text))


def one_line(text: str, most: int = MOST_SHOWN) -> str:
    """Text of a stranger's for a place within a line, such as a cell of a table or a name.

    Line breaks and tabs become visible, too: a name must not look like two, or like another row.

    Args:
        text: anything.
        most: characters that are shown.
    """
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    return printable(text.replace("\r", "\\x0d").replace("\n", "\\x0a").replace("\t", "\\x09"))


def _shown(char: str) -> str:
    """A character, or its number where it could do more than be seen."""
    if char.isprintable() or char in "\n\t\u200d" or unicodedata.category(char) == "Zs":
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code <= LAST_BYTE else f"\\u{code:04x}"
