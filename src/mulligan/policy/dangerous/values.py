"""Texts that are known in part, and where they come from."""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = "\ue000"
"""Stands in a text for any text that cannot be known."""
HOME: Final = "\ue001"
"""Stands for the path of the home directory."""
NO_TAGS: Final[frozenset[str]] = frozenset()
LONGEST: Final = 65536
"""Characters of a text that are followed; a longer one counts as unknown."""


class Text:
    """A text, known or in part, and tags that say where it comes from.

    Tags are those of ``[sources]`` in the rules ("network"), path classes ("secret") and
    "decoded"; they go on from a text to whatever is made of it.
    """

    __slots__ = ("tags", "text")

    def __init__(self, text: str, tags: frozenset[str] = NO_TAGS) -> None:
        self.text = text if len(text) <= LONGEST else UNKNOWN
        self.tags = tags

    def __repr__(self) -> str:
        return f"Text({self.text!r}, {set(self.tags) or ''})"

    @property
    def known(self) -> bool:
        """Whether every character is known."""
        return UNKNOWN not in self.text


EMPTY: Final = Text("")


def anything(tags: frozenset[str] = NO_TAGS) -> Text:
    """A text nothing is known of but its tags."""
    return Text(UNKNOWN, tags)


def joined(texts: list[Text], separator: str = "") -> Text:
    """Texts one after the other, with the tags of all."""
    if len(texts) == 1:
        return texts[0]
    tags = NO_TAGS
    for text in texts:
        if text.tags:
            tags |= text.tags
    return Text(separator.join(text.text for text in texts), tags)


def without_markers(text: str) -> str:
    """A text from outside, in which nothing can be taken for a marker of ours."""
    if UNKNOWN in text or HOME in text:
        text = text.replace(UNKNOWN, "\ufffd").replace(HOME, "\ufffd")
    return without_nulls(text)


def without_nulls(text: str) -> str:
    """A text as a shell reads it: Bash drops null bytes, wherever they are."""
    return text.replace("\0", "") if "\0" in text else text
