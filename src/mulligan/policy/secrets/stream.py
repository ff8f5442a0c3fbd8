"""Redaction of a stream: the same output however it is cut into pieces.

Two stages. The first takes out injected values (``injected.py``) and keeps back only what can
still become one. The second works on whole lines, because every other rule looks at one line (and
blocks of lines are followed line by line): a line that has not ended is kept back, up to ``LINE``
bytes; a longer line is worked on in windows of that size, which begin where the line does and so do
not depend on how it arrives.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace

from mulligan.policy.secrets.assignments import NAME_LINE
from mulligan.policy.secrets.blocks import BEGIN_LINE, BlockState, Span
from mulligan.policy.secrets.injected import Found, InjectedFinder, InjectedSecret
from mulligan.policy.secrets.patterns import PatternSet
from mulligan.policy.secrets.scanner import scan

LINE = 64 * 1024
_SAID_BELOW = (BEGIN_LINE, NAME_LINE)  # lines of which the next one says what they are
_OVERLAP = 8 * 1024  # of a window: what the next one judges again
_TYPED = 4 * 1024  # of a terminal's line: what is judged again with what comes next
_CONTEXT = 512  # bytes before a window that rules may look at
MOST_FINDINGS = 1000
_TOKEN_START = re.compile(rb"[^\s:=,;?>)\]}|\"'`]*\Z")
_UNFINISHED_TOKEN = re.compile(
    rb"(?i)(?:^|[^0-9A-Za-z])(?:AKIA|ASIA|gh[pousr]_|github_pat_|gl[a-z]{2,5}-|xox[a-z]-|xapp-|[sr]k_(?:live|test)_|sk-|AIza|GOCSPX-|ya29\."
    rb"|npm_|pypi-|dckr_pat_|hf_|SG\.|shp[a-z]{2}_|do[opr]_v1_|dapi|lin_api_|hv[sbr]\.|dp\.[a-z]{2}|AGE-SECRET|eyJ|NR[A-Z]{2}-|gsk_|ATATT3|whsec_)[^\s\"'`]*\Z"
)


@dataclass(frozen=True)
class Finding:
    """A secret that was found.

    Attributes:
        kind: the id of the pattern, or ``secret NAME`` for an injected one.
        start, end: its place in the original: characters of a text, bytes of bytes and streams.
    """

    kind: str
    start: int
    end: int


def marker(kind: str) -> bytes:
    """What stands in the place of a secret."""
    return b"[redacted:" + kind.encode() + b"]"


class StreamRedactor:
    """Redacts a stream of bytes; the outputs of all calls, joined, are the redacted whole.

    What is kept back is at most the unfinished line, up to 64 KiB, and before it what can still
    become an injected value (``held`` bytes in all). ``flush_idle`` gives most of that out.
    """

    def __init__(
        self, secrets: tuple[InjectedSecret, ...], patterns: PatternSet, mode: str
    ) -> None:
        self._finder = InjectedFinder(secrets if mode != "off" else ())
        self._patterns = patterns
        self._mode = mode
        self._lines = _Lines(patterns)
        self._into_lines = 0  # bytes given to the second stage
        self._shifts: list[tuple[int, int]] = [
            (0, 0)
        ]  # from there on, so much farther in the original
        self._last = "", -1  # kind and end of the injected value that was found last
        self.findings: list[Finding] = []
        self.count = 0
        self.blocked = False

    @property
    def held(self) -> int:
        """Bytes kept back."""
        return self._finder.held + self._lines.held

    def feed(self, data: bytes) -> bytes:
        """What can go out now."""
        if self._mode == "off":
            return data
        if not self._finder.active:
            self._into_lines += len(data)
            return self._out(self._lines.feed(data))
        return self._out(
            b"".join(self._lines.feed(self._without(*p)) for p in self._finder.feed(data))
        )

    def flush_idle(self) -> bytes:
        """Nothing came for a while: give out what an unfinished line has, but no unfinished token.

        What goes out now is judged without the rest of the line; the rest is judged with all of it.
        """
        if self._mode == "off":
            return b""
        out = self._lines.feed(self._without(self._finder.flush_idle(), None))
        return self._out(out + self._lines.idle())

    def flush_typed(self) -> bytes:
        """As ``flush_idle``, for a terminal: somebody waits to see what he types.

        An unfinished token goes out, too, unless it begins as vendors' do; and what follows a
        quotation mark that is not closed yet.
        """
        if self._mode == "off":
            return b""
        out = self._lines.feed(self._without(self._finder.flush_idle(), None))
        return self._out(out + self._lines.idle(typed=True))

    def finish(self, *, truncated: bool = False) -> bytes:
        """The rest. ``truncated``: the stream was cut, so the beginning of a secret goes, too."""
        if self._mode == "off":
            return b""
        rest = b"".join(
            self._lines.feed(self._without(*p)) for p in self._finder.finish(truncated=truncated)
        )
        return self._out(rest + self._lines.finish(truncated=truncated))

    def _without(self, data: bytes, found: Found | None) -> bytes:
        """The first stage's output: free text, or the marker of a secret."""
        if found is None:
            self._into_lines += len(data)
            return data
        kind = f"secret {found.name}"
        mark = marker(kind)
        if self._last == (kind, found.start):  # pieces of a long value
            mark = b""
            self._extend(kind, found.end)
        else:
            self._note(Finding(kind, found.start, found.end))
        self._last = kind, found.end
        self._into_lines += len(mark)
        self._shifts.append((self._into_lines, found.end - self._into_lines))
        return mark

    def _note(self, finding: Finding) -> None:
        self.count += 1
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(finding)

    def _extend(self, kind: str, end: int) -> None:
        """The last finding of a kind goes on."""
        if self.count <= MOST_FINDINGS:
            i = max(i for i, finding in enumerate(self.findings) if finding.kind == kind)
            self.findings[i] = replace(self.findings[i], end=end)

    def _original(self, place: int) -> int:
        index = bisect_right(self._shifts, (place, 1 << 62)) - 1
        return place + self._shifts[index][1]

    def _out(self, data: bytes) -> bytes:
        for span in self._lines.take_findings():
            end = self._original(span.end)
            if span.goes_on:
                self._extend(span.kind, end)
            else:
                self._note(Finding(span.kind, self._original(span.start), end))
        keep = bisect_right(self._shifts, (self._lines.done, 1 << 62)) - 1
        del self._shifts[:keep]
        if self._mode != "block" or not self.count:
            return data
        if self.blocked:
            return b""
        self.blocked = True
        return withheld(self.findings[0].kind)


def withheld(kind: str) -> bytes:
    """What stands in the place of a whole output in mode ``block``."""
    return b"[output withheld: it holds a secret (" + kind.encode() + b")]\n"


class _Lines:
    """The second stage: rules that look at lines."""

    def __init__(self, patterns: PatternSet) -> None:
        self._patterns = patterns
        self._state = BlockState()
        self._text = b""  # what is not given out, with the context before it
        self._context = 0  # so much of it has been
        self._findings: list[Span] = []
        self._line_end = False  # one is kept back that is hidden if the block before it goes on
        self.done = 0  # bytes of the stage's input that were given out

    @property
    def held(self) -> int:
        return len(self._text) - self._context

    def take_findings(self) -> list[Span]:
        taken, self._findings = self._findings, []
        return taken

    def feed(self, data: bytes) -> bytes:
        out = []
        for start in range(0, max(1, len(data)), 4 * LINE):  # so that long inputs are copied once
            self._text += data[start : start + 4 * LINE]
            while (piece := self._step()) is not None:
                out.append(piece)
        return b"".join(out)

    def finish(self, *, truncated: bool) -> bytes:
        out = self.feed(b"")
        if self.held or truncated:
            out += self._scan(len(self._text), len(self._text), last=True, truncated=truncated)
        return out + b"\n" * self._line_end

    def idle(self, *, typed: bool = False) -> bytes:
        """Whole words of the unfinished line; with ``typed`` see ``flush_typed``."""
        if not self.held or self._state.open:
            return b""
        token = _TOKEN_START.search(self._text)
        assert token is not None
        line = self._text
        cut = token.start()
        if (typed or len(line) - cut < 4) and not _UNFINISHED_TOKEN.search(line):
            cut = len(line)
        for span in scan(line, self._patterns, BlockState()):
            if span.end >= cut:
                cut = min(cut, span.start)
        for quote in () if typed else (b'"', b"'", b"`"):
            if line.count(quote) % 2:
                cut = min(cut, line.rfind(quote))
        if b"PRIVATE KEY" in line:
            cut = min(cut, line.find(b"-----"))
        if cut <= self._context:
            return b""
        return self._scan(len(line), cut, keep=_TYPED if typed else LINE)

    def _step(self) -> bytes | None:
        """One portion: as many whole lines as a window has, or a window of a long line."""
        window = self._context + LINE
        end = self._text.rfind(b"\n", self._context, window) + 1
        line = self._text.rfind(b"\n", self._context, max(self._context, end - 1)) + 1
        line = max(line, self._context)
        if end and any(e.search(self._text, line, end) for e in _SAID_BELOW):
            below = self._text.find(b"\n", end, window) + 1
            if line > self._context:
                end = line
            elif below or self.held < LINE:
                end = below
            if not end:
                return None
        if end:
            return self._scan(end, end)
        if self.held < LINE:
            return None
        return self._scan(window, window - _OVERLAP, keep=_CONTEXT)

    def _scan(
        self, end: int, cut: int, *, keep: int = 0, last: bool = False, truncated: bool = False
    ) -> bytes:
        """Judge the text up to ``end``, give it out up to ``cut`` or before what crosses that."""
        text = self._text[:end]
        state = self._state if cut == end else self._state.copy()
        spans = scan(text, self._patterns, state, last=last)
        if truncated:
            spans = _cut_token(text, spans)
        out, at, base = [], self._context, self.done - self._context
        if self._line_end and not (spans and spans[0].goes_on):
            out.append(b"\n")
        self._line_end = False
        for span in spans:
            if span.end <= at:
                continue
            if span.start >= cut:
                break
            if span.end > cut:
                if span.start > at and span.end < end:
                    cut = span.start
                    break
                cut = span.end
            start, last_byte = max(span.start, at), text[span.end - 1 : span.end]
            out.append(text[at:start])
            if not span.goes_on:
                out.append(marker(span.kind))
            self._line_end = state.open and span.end == end and last_byte == b"\n"
            seen = span.end - self._line_end
            self._findings.append(Span(start + base, seen + base, span.kind, span.goes_on))
            at = span.end
        cut = max(cut, at)
        out.append(text[at:cut])
        self.done += cut - self._context
        kept = min(cut, keep)
        self._text, self._context = self._text[cut - kept :], kept
        return b"".join(out)


def _cut_token(text: bytes, spans: list[Span]) -> list[Span]:
    """With the unfinished token that a cut text ends in, if it begins as secrets do."""
    match = _UNFINISHED_TOKEN.search(text, max(0, len(text) - LINE))
    if match is None or (spans and spans[-1].end >= len(text)):
        return spans
    start = match.start() + (
        match[0][:1] in b" \t\n\"'=:,;([{<>|&" if match.start() or match[0] else 0
    )
    kept = [span for span in spans if span.end <= start]
    return [*kept, Span(start, len(text), "cut-short")]
