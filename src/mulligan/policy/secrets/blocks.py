"""Secrets of many lines: PEM and OpenSSH private keys, PGP private keys, PuTTY keys.

A block is followed line by line, so it is found however long it is and wherever a text was cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_LINES = 1200
_BEGIN = re.compile(rb"-----BEGIN [0-9A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----[ \t\r\"',]*$", re.MULTILINE)
_BEGIN_BODY = re.compile(rb"-----BEGIN [0-9A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----[ \t]?[0-9A-Za-z+/]{40,}")
_END = re.compile(rb"-----END [0-9A-Z ]{0,40}(?:PRIVATE KEY)?(?: BLOCK)?-----")
_BODY = re.compile(
    rb"[ \t>|*#+\"'\d:.-]{0,24}(?:[0-9A-Za-z+/=]{20,}[\"',\\n]{0,6}|=?[0-9A-Za-z+/]{1,19}={0,2}[\"',\\n]{0,6}"
    rb"|(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset|MessageID):.*)?[ \t\r]*$"
)
_PUTTY = re.compile(rb"^Private-(?:Lines: (\d{1,3})|(?:MAC|Hash): [0-9a-f]{40,64})\s*$", re.MULTILINE)
KEYWORDS = (b"PRIVATE KEY", b"Private-")


@dataclass
class BlockState:
    """What of a block is still to come, carried from one piece of text to the next."""

    kind: str = ""
    lines: int = 0  # at most so many belong to it

    @property
    def open(self) -> bool:
        """Whether the last line left a block open."""
        return bool(self.kind)


@dataclass(frozen=True)
class Span:
    """A place to hide; ``goes_on``: it continues the block of the piece of text before."""

    start: int
    end: int
    kind: str
    goes_on: bool = False


def find(text: bytes, state: BlockState) -> list[Span]:
    """The blocks in some whole lines; ``state`` is brought up to date."""
    spans: list[Span] = []
    at = 0
    if state.open:
        at = _follow(text, 0, state)
        if at:
            spans.append(Span(0, at, "private-key", goes_on=True))
    if KEYWORDS[0] not in text and KEYWORDS[1] not in text:
        return spans
    while True:
        begin = min(
            (m for m in (e.search(text, at) for e in (_BEGIN, _BEGIN_BODY, _PUTTY)) if m),
            key=lambda m: m.start(),
            default=None,
        )
        if begin is None:
            return spans
        if begin.re is _PUTTY:
            if begin[1] is None:
                spans.append(Span(begin.start() + begin[0].find(b":") + 2, len(begin[0].rstrip()) + begin.start(), "private-key"))
                at = begin.end()
                continue
            state.kind, state.lines = "putty", int(begin[1])
            start = _next_line(text, begin.end())
        else:
            state.kind, state.lines = "pem", MOST_LINES
            start = begin.start()
        at = _follow(text, _next_line(text, begin.end()) if begin.re is not _BEGIN_BODY else begin.end(), state)
        if at > start:
            spans.append(Span(start, at, "private-key"))
        at = max(at, begin.end())


def _next_line(text: bytes, at: int) -> int:
    end = text.find(b"\n", at)
    return len(text) if end < 0 else end + 1


def _follow(text: bytes, at: int, state: BlockState) -> int:
    """Where the open block ends in this text, or the text does; closes the state in the first case."""
    first = at
    while at < len(text) and state.lines > 0:
        end = text.find(b"\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end]
        if state.kind == "pem":
            closing = _END.search(line)
            if closing is not None:
                state.kind = ""
                return at + closing.end()
            if not _BODY.match(line):
                break
        state.lines -= 1
        at = min(end + 1, len(text))
    if at < len(text) or state.lines <= 0:
        state.kind = ""
        return at - 1 if at > first and text[at - 1 : at] == b"\n" else at
    return at
