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
# "In Python:", "### JavaScript Example"
_LANGUAGE = re.compile(
    r"(?:[\s\S]{0,200}[.:!?*\n])?\W{0,6}(?:in |using |with )?"
    r"(?:python|javascript|js|node(?:\.js)?|rust|bash|shell)\W{0,3}(?:\([^)]{1,30}\)"
    r"|(?:code |version|example|implementation|solution|equivalent|snippet){0,2})\W{0,6}",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?:])\s+")
# Which of two blocks a sentence between them is about, where it says so.
_EARLIER = re.compile(
    r"\b(?:above|previous|preceding|earlier|former)\b(?! all)|\bfirst (?:one|block|script|snippet|"
    r"command|example|version|program)\b",
    re.IGNORECASE,
)
_LATER = re.compile(
    r"\b(?:following|below|latter|here is|here's)\b|\b(?:next|second) (?:one|block|script|snippet|"
    r"command|example|version|program)\b|:\s*$",
    re.IGNORECASE,
)
_INLINE = re.compile(r"`[^`\n]{1,200}`")
_SAYS = {name: re.compile(rf"(?:{words})", re.IGNORECASE) for name, words in _HEADINGS.items()}


def said_around(
    before: str, after: str, heading: str, *, first: bool = True, last_one: bool = True
) -> set[str]:
    """The features of what is said around a block.

    Args:
        before: the text between the block and the one before it.
        after: the text between the block and the next one.
        heading: the last heading above the block, "" if there is none.
        first: whether there is no block before it.
        last_one: whether there is none after it.
    """
    shared = not first and len(before) <= _MOST_BEFORE  # all of it is between two blocks
    ahead = not last_one and len(after) <= _MOST_AFTER
    before, after = plain(before[-_MOST_BEFORE:]), plain(after[:_MOST_AFTER])
    paragraphs = [part for part in _PARAGRAPH.split(before) if part.strip(" \t\n>")]
    last = paragraphs[-1].strip() if paragraphs else ""
    following = _PARAGRAPH.split(after.lstrip("\n"))[0]
    found = {name for name, pattern in BEFORE.items() if pattern.search(last)}
    found |= {name for name, pattern in AFTER.items() if pattern.search(following)}
    if _forbids_later(paragraphs, shared=shared) or _forbids_earlier(
        following, near=not ahead or after.strip() != following.strip()
    ):
        found.add("forbidden")
    found |= _said_by_heading(heading)
    if _LANGUAGE.fullmatch(last[-240:] if last else heading):
        found.add("one_of_languages")
    if "introduced_as_output" in found and "asked_to_run" in found and _asks_last(last):
        found.discard("introduced_as_output")
    return found


def _forbids_later(paragraphs: list[str], *, shared: bool) -> bool:
    """Whether a text forbids to run the block after it.

    A warning stands a paragraph above as well. Of two paragraphs between two blocks the first is
    nearer to the earlier block, and about that unless it says otherwise.
    """
    for place, paragraph in enumerate(paragraphs[-2:]):
        nearer = shared and len(paragraphs) == 2 and place == 0  # noqa: PLR2004
        for sentence in _SENTENCE.split(paragraph):
            if not FORBIDDEN.search(sentence):
                continue
            about = bool(_LATER.search(sentence)), shared and bool(_EARLIER.search(sentence))
            if about[0] or not (about[1] or nearer):
                return True
    return False


def _forbids_earlier(paragraph: str, *, near: bool) -> bool:
    """Whether a text forbids to run the block before it.

    Args:
        paragraph: what directly follows the block.
        near: whether it is nearer to this block than to the next, if there is one.
    """
    for sentence in _SENTENCE.split(paragraph):
        if not FORBIDDEN.search(sentence):
            continue
        if _EARLIER.search(sentence):
            return True
        later = bool(_LATER.search(sentence)) and (not near or not sentence.rstrip().endswith(":"))
        # What it forbids may be a command it names itself.
        if not later and not _INLINE.search(sentence):
            return True
    return False


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
