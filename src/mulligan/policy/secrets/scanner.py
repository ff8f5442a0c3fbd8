"""All rules over some whole lines: which places are secrets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate

from mulligan.policy.secrets import bare, blocks, wrapped
from mulligan.policy.secrets.blocks import BlockState, Span
from mulligan.policy.secrets.patterns import Compiled, PatternSet


def scan(text: bytes, patterns: PatternSet, state: BlockState, *, last: bool = False) -> list[Span]:
    """Places in the order of the text, none touching another.

    Where two overlap, both places are hidden as one, under the kind of the more precise rule.
    ``state`` carries blocks of many lines from one call to the next; ``last``: nothing follows.
    """
    ranked: list[tuple[int, Span]] = []
    found = blocks.find(text, state, last=last)
    public = [span for span in found if span.kind == blocks.PUBLIC]
    if patterns.rules["blocks"]:
        ranked += [(0, span) for span in found if span.kind != blocks.PUBLIC]
    for compiled in patterns.in_play(text):
        ranked += [
            (1 + bool(compiled.pattern.value), span) for span in _matches(compiled, patterns, text)
        ]
    if patterns.rules["assignment"]:
        ranked += [(3, Span(*found)) for found in patterns.assignments.find(text)]
        ranked += [(3, Span(*found)) for found in patterns.assignments.pairs(text)]
    if patterns.rules["bare"]:
        public += [Span(*lines, blocks.PUBLIC) for lines in wrapped.find(text, state.wrapped)]
        ranked += [(4, Span(*place)) for place in bare.find(text, _inside(public))]
    return _merged(ranked)


def _inside(public: list[Span]) -> Callable[[int], bool]:
    """Whether a place is in a public block (certificates look random)."""
    places = sorted((span.start, span.end) for span in public)
    starts = [start for start, _ in places]
    ends = list(accumulate((end for _, end in places), max))  # blocks may be within others

    def inside(start: int) -> bool:
        i = bisect_right(starts, start) - 1
        return i >= 0 and start < ends[i]

    return inside


def _matches(compiled: Compiled, patterns: PatternSet, text: bytes) -> Iterator[Span]:
    at = 0
    pattern = compiled.pattern
    while (match := compiled.expression.search(text, at)) is not None:
        start, end = match.span(compiled.group)
        if start < end and pattern.judge(patterns.placeholders, text, start, end):
            yield Span(start, end, pattern.id)
            at = end
        else:
            at = max(start + 1, match.start() + 1)
        if at >= len(text):
            return


def _merged(ranked: list[tuple[int, Span]]) -> list[Span]:
    ranked.sort(key=lambda item: (item[1].start, item[0]))
    found: list[tuple[int, Span]] = []
    for rank, span in ranked:
        if not found or span.start >= found[-1][1].end:
            found.append((rank, span))
            continue
        last_rank, last = found[-1]
        kind = last.kind if last_rank <= rank else span.kind
        end = max(last.end, span.end)
        found[-1] = min(rank, last_rank), Span(last.start, end, kind, last.goes_on)
    return [span for _, span in found]
