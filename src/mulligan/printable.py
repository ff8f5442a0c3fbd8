"""Text of a stranger's, made safe to show."""

from __future__ import annotations

import unicodedata

LAST_BYTE = 0xFF


def printable(text: str) -> str:
    """Text of a stranger's for a terminal: control characters become visible, lines stay."""
    text = text.replace("\r\n", "\n")
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(char: str) -> str:
    """A character, or its number where it could do more than be seen."""
    if char.isprintable() or char in "\n\t\u200d" or unicodedata.category(char) == "Zs":
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code <= LAST_BYTE else f"\\u{code:04x}"
