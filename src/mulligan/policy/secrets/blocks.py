"""Secrets of many lines: PEM and OpenSSH private keys, PGP private keys, PuTTY keys.

A block is followed line by line, so it is found however long it is and wherever a text was cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from mulligan.policy.secrets.wrapped import WrapState

MOST_LINES = 1200
_LINE = rb"-----BEGIN [0-9A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_BEGIN = re.compile(
    rb"(?P<begin>" + _LINE + rb"[ \t\r\"',]*$)|(?P<body>" + _LINE + rb"[ \t]?[0-9A-Za-z+/]{40})"
    rb"|^Private-(?:Lines: (?P<lines>\d{1,3})|(?:MAC|Hash): (?P<mac>[0-9a-f]{40,64}))[ \t\r]*$"
    rb"|(?P<public>-----BEGIN [0-9A-Z ]{1,40}-----[ \t\r]*$)",
    re.MULTILINE,
)
BEGIN_LINE = re.compile(_LINE + rb"[ \t\r\"',]*\n")
_END = re.compile(rb"-----END [0-9A-Z ]{0,40}(?:PRIVATE KEY)?(?: BLOCK)?-----")
_BODY = re.compile(  # base64, or a header, behind what quotes or numbers lines
    rb"[ \t>|*#+\"'\d:.-]{0,24}(?:[0-9A-Za-z+/=]{20,}[\"',\\n]{0,6}"
    rb"|=?[0-9A-Za-z+/]{1,19}={0,2}[\"',\\n]{0,6}"
    rb"|(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset|MessageID):.*)?[ \t\r]*$"
)
KEYWORDS = (b"-----BEGIN ", b"Private-")
PUBLIC = "public"  # the kind of spans that only look random


@dataclass
class BlockState:
    """What of a block is still to come, carried from one piece of text to the next."""

    kind: str = ""
    lines: int = 0  # at most so many belong to it
    wrapped: WrapState = field(default_factory=WrapState)

    def copy(self) -> BlockState:
        """Another one with what this one has."""
        return BlockState(self.kind, self.lines, replace(self.wrapped))

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


def find(text: bytes, state: BlockState, *, last: bool) -> list[Span]:
    """The blocks in some whole lines; ``state`` is brought up to date.

    A first line of a key at the end counts only where ``last`` says that nothing follows.
    """
    spans: list[Span] = []
    at = 0
    if state.open:
        kind = state.kind
        at = _follow(text, 0, state)
        if at:
            spans.append(Span(0, at, PUBLIC if kind == PUBLIC else "private-key", goes_on=True))
    if not any(word in text for word in KEYWORDS):
        return spans
    while (begin := _BEGIN.search(text, at)) is not None:
        span = _block(text, begin, state, last=last)
        at = max(begin.end(), span.end)
        if span.start < span.end:
            spans.append(span)
    return spans


def _block(text: bytes, begin: re.Match[bytes], state: BlockState, *, last: bool) -> Span:
    """The block that begins there; an empty span where none does."""
    start, body = begin.start(), _next_line(text, begin.end())
    nothing = Span(start, start, PUBLIC)
    if begin.lastgroup == "mac":
        return Span(*begin.span("mac"), "private-key")
    if begin.lastgroup == "public":
        if b"PRIVATE" in begin[0]:
            return nothing
        state.kind, state.lines = PUBLIC, MOST_LINES
        return Span(start, _follow(text, body, state), PUBLIC)
    if begin.lastgroup == "lines":
        state.kind, state.lines = "putty", int(begin["lines"])
        return Span(body, _follow(text, body, state), "private-key")
    if begin.lastgroup == "begin" and not (_begins_body(text, body) if body < len(text) else last):
        return nothing
    state.kind, state.lines = "pem", MOST_LINES
    body = body if begin.lastgroup == "begin" else begin.end()
    return Span(start, _follow(text, body, state), "private-key")


def _begins_body(text: bytes, at: int) -> bool:
    """Whether what follows a first line is a key."""
    end = text.find(b"\n", at)
    return _BODY.match(text[at : len(text) if end < 0 else end]) is not None


def _next_line(text: bytes, at: int) -> int:
    end = text.find(b"\n", at)
    return len(text) if end < 0 else end + 1


def _follow(text: bytes, at: int, state: BlockState) -> int:
    """Where the open block ends, which closes the state, or the text does."""
    first = at
    while at < len(text) and state.lines > 0:
        end = text.find(b"\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end]
        if state.kind in {"pem", PUBLIC}:
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
