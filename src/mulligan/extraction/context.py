"""What an answer says about a block: the sentences before and after it."""

from __future__ import annotations

import re

from mulligan.extraction.features import AFTER, BEFORE, FORBIDDEN, plain

_MOST_BEFORE = 600
_MOST_AFTER = 240
_PARAGRAPH = re.compile(r"\n[ \t>]*\n")
_HEADING = re.compile(
    r"^[ \t>]*(?:#{1,6}[ \t]+(.{1,200})|\*\*(.{1,200}?)\*\*:?[ \t]*)$", re.MULTILINE
)
_HEADINGS = {
    "introduced_as_wrong": r"before|bad|wrong|buggy|vulnerable|incorrect|don'?t|not ok|original",
    "introduced_as_output": r"(?:(?:expected|sample|example) )?(?:output|result)s?",
    "introduced_as_example": r"syntax|usage|example|template|api|reference",
    "for_the_reader": r"install|set ?up|prerequisite|deploy|configur|getting started",
}
_SAYS = {name: re.compile(rf"(?:{words})", re.IGNORECASE) for name, words in _HEADINGS.items()}


def said_around(before: str, after: str, heading: str) -> set[str]:
    """The features of what is said around a block.

    Args:
        before: the text between the block and the one before it.
        after: the text between the block and the next one.
        heading: the last heading above the block, "" if there is none.
    """
    before, after = plain(before[-_MOST_BEFORE:]), plain(after[:_MOST_AFTER])
    paragraphs = [part for part in _PARAGRAPH.split(before) if part.strip(" \t\n>")]
    last = paragraphs[-1].strip() if paragraphs else ""
    following = _PARAGRAPH.split(after.lstrip("\n"))[0]
    found = {name for name, pattern in BEFORE.items() if pattern.search(last)}
    found |= {name for name, pattern in AFTER.items() if pattern.search(following)}
    # A warning stands a paragraph above as well, or below.
    warned = "\n".join(paragraphs[-2:])
    if FORBIDDEN.search(warned) or FORBIDDEN.search(following):
        found.add("forbidden")
    found |= _said_by_heading(heading)
    if "introduced_as_output" in found and "asked_to_run" in found and _asks_last(last):
        found.discard("introduced_as_output")
    return found


def _asks_last(last: str) -> bool:
    """Whether the last sentence asks to run, and the one that tells of output came before."""
    sentence = re.split(r"[.!?]\s+", last)[-1]
    return BEFORE["asked_to_run"].search(sentence) is not None


def _said_by_heading(heading: str) -> set[str]:
    return {name for name, words in _SAYS.items() if words.match(heading)}


def last_heading(text: str) -> str:
    """The last heading of ``text``, or line in bold; "" if it has none."""
    found = ""
    for match in _HEADING.finditer(plain(text[-4000:])):
        found = (match[1] or match[2]).strip(" #*:")
    return found
