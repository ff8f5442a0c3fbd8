"""What reasoning models write before they answer: ``<think>``…``</think>``.

Such text is a draft. Code in it is found, marked (``draft``) and never above 0.1, so that no
threshold in its right mind runs it. The rules:

- A text that begins with ``<think>`` is read in two parts, divided by the first ``</think>`` that
  begins or ends a line, so that a fence the draft leaves open cannot swallow the answer.
- ``</think>`` outside code blocks without a ``<think>`` before it ends a draft that began with the
  text: chat templates often write the first tag themselves.
- Any other ``<think>`` that begins a line outside code blocks goes on to ``</think>`` outside code
  blocks, or to the end of the text.

``<thinking>``, ``<thought>``, ``<reasoning>`` and ``<scratchpad>`` count like ``<think>``.
"""

from __future__ import annotations

import re
from bisect import bisect_right

_NAMES = r"(?:think|thinking|thought|reasoning|scratchpad)"
_LEADING = re.compile(rf"[ \t\r\n]{{0,1000}}<({_NAMES})>", re.IGNORECASE)
_TAG = re.compile(rf"^[ \t]{{0,3}}<({_NAMES})>|</({_NAMES})>", re.IGNORECASE | re.MULTILINE)
_BESIDE = " \t"


def leading_end(text: str) -> int:
    """Where the draft a text begins with ends; 0 if it begins with none or it has no end."""
    opened = _LEADING.match(text)
    if opened is None:
        return 0
    for found in re.finditer(rf"</{opened[1]}>", text, re.IGNORECASE):
        before = text[max(found.start() - 200, 0) : found.start()].rstrip(_BESIDE)
        after = text[found.end() : found.end() + 200].lstrip(_BESIDE)
        if before[-1:] in ("", "\n", "\r") or after[:1] in ("", "\n", "\r"):
            return found.end()
    return 0


def drafts(text: str, start: int, code: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The drafts of ``text`` from ``start`` on, given the code blocks in it, as ranges."""
    begins = [begin for begin, _ in code]
    found: list[tuple[int, int]] = []
    opened: int | None = None
    first = start == 0
    for tag in _TAG.finditer(text.replace("\r", "\n"), start):
        place = bisect_right(begins, tag.start()) - 1
        if place >= 0 and tag.start() < code[place][1]:
            continue
        if tag[1] is not None:
            opened = tag.start() if opened is None else opened
        elif opened is not None:
            found.append((opened, tag.end()))
            opened = None
        elif first:
            found.append((0, tag.end()))
        first = False
    if opened is not None:
        found.append((opened, len(text)))
    return found
