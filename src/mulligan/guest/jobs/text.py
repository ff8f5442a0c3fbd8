"""Unified diffs of hostile texts: in bounded time, and of bounded length."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT = 3
MOST_EDITS = 500
_NO_NEWLINE = "\\ No newline at end of file\n"

# A part that differs: lines [0]:[1] of the old text have become lines [2]:[3] of the new one.
_Block = tuple[int, int, int, int]


class Effort:
    """Comparisons of lines that may still be made; who runs out replaces texts as a whole.

    Without a bound, a few hostile files would keep a diff busy for hours; by this one they cost
    seconds, and files that people or models wrote do not come near it.
    """

    def __init__(self, comparisons: int = 10_000_000) -> None:
        self.left = comparisons


def decode(data: bytes) -> str | None:
    """The text of a file's content; None where it is none: not UTF-8, or with NUL in it."""
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def unified(old: str | None, new: str | None, path: str, limit: int, effort: Effort) -> str:
    """The unified diff of two texts, None being no file; empty where they are the same.

    Args:
        path: for the headers, with its leading slash.
        limit: of its length, in bytes of UTF-8. A longer one is cut after a whole line, and its
            last line, which begins with a backslash, then says so.
        effort: what it may cost, shared by the diffs of many files.
    """
    header = path.replace("\\", "\\\\").replace("\n", "\\n") if "\n" in path else path
    lines = [
        "--- /dev/null\n" if old is None else f"--- a{header}\n",
        "+++ /dev/null\n" if new is None else f"+++ b{header}\n",
    ]
    room = limit - len("".join(lines).encode())
    before, after = _lines(old), _lines(new)
    for line in _hunks(before, after, _blocks(before, after, effort)):
        room -= len(line.encode())
        if room < 0:
            return "".join([*lines, f"\\ Cut: the diff is longer than {limit} bytes\n"])
        lines.append(line)
    return "".join(lines) if len(lines) > 2 else ""  # noqa: PLR2004  (the headers)


def _lines(text: str | None) -> list[str]:
    """The lines with their ends, where only a newline ends one."""
    if not text:
        return []
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _hunks(old: list[str], new: list[str], blocks: list[_Block]) -> Iterator[str]:
    for group in _grouped(blocks):
        start_old, start_new = max(0, group[0][0] - CONTEXT), max(0, group[0][2] - CONTEXT)
        end_old = min(len(old), group[-1][1] + CONTEXT)
        end_new = min(len(new), group[-1][3] + CONTEXT)
        yield f"@@ -{_range(start_old, end_old)} +{_range(start_new, end_new)} @@\n"
        position = start_old
        for first, last, new_first, new_last in group:
            yield from _marked(" ", old[position:first])
            yield from _marked("-", old[first:last])
            yield from _marked("+", new[new_first:new_last])
            position = last
        yield from _marked(" ", old[position:end_old])


def _marked(mark: str, lines: list[str]) -> Iterator[str]:
    for line in lines:
        yield mark + line if line.endswith("\n") else f"{mark}{line}\n{_NO_NEWLINE}"


def _range(start: int, end: int) -> str:
    if end - start == 1:
        return str(start + 1)
    return f"{start + (end > start)},{end - start}"


def _grouped(blocks: list[_Block]) -> Iterator[list[_Block]]:
    """The blocks, those together that share lines of context."""
    group: list[_Block] = []
    for block in blocks:
        if group and block[0] - group[-1][1] > 2 * CONTEXT:
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def _blocks(old: list[str], new: list[str], effort: Effort) -> list[_Block]:
    """What differs, in order; what is the same at both ends costs next to nothing."""
    start, most = 0, min(len(old), len(new))
    while start < most and old[start] == new[start]:
        start += 1
    tail = 0
    while tail < most - start and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    end_old, end_new = len(old) - tail, len(new) - tail
    if start in (end_old, end_new):  # only added, only removed, or the same
        return [(start, end_old, start, end_new)] if end_old != end_new else []
    edits = _edits(old[start:end_old], new[start:end_new], effort)
    if edits is None:
        return [(start, end_old, start, end_new)]
    blocks: list[_Block] = []
    for x, y, inserts in edits:
        x, y = x + start, y + start  # noqa: PLW2901
        first, last, new_first, new_last = x, x, y, y
        if blocks and (blocks[-1][1], blocks[-1][3]) == (x, y):
            first, _, new_first, _ = blocks.pop()
        blocks.append((first, last + (not inserts), new_first, new_last + inserts))
    return blocks


def _edits(old: list[str], new: list[str], effort: Effort) -> list[tuple[int, int, bool]] | None:
    """The fewest lines to remove and insert (Myers 1986); None where that takes too much.

    Returns:
        In order: (line of the old text, line of the new text, whether the latter is inserted
        before the former, which else is removed).
    """
    reach = {1: 0}  # on each diagonal x - y: how far x gets
    trace: list[dict[int, int]] = []
    for count in range(min(len(old) + len(new), MOST_EDITS) + 1):
        trace.append(reach.copy())
        for diagonal in range(-count, count + 1, 2):
            x = (
                reach[diagonal + 1]
                if _goes_down(reach, diagonal, count)
                else (reach[diagonal - 1] + 1)
            )
            begun = x
            y = x - diagonal
            while x < len(old) and y < len(new) and old[x] == new[y]:
                x += 1
                y += 1
            reach[diagonal] = x
            effort.left -= 1 + x - begun
            if x >= len(old) and y >= len(new):
                return _backtrack(trace, x, y)
        if effort.left <= 0:
            return None
    return None


def _goes_down(reach: dict[int, int], diagonal: int, count: int) -> bool:
    """Whether the path onto a diagonal comes by an insertion rather than by a removal."""
    if diagonal in (-count, count):
        return diagonal == -count
    return reach[diagonal - 1] < reach[diagonal + 1]


def _backtrack(trace: list[dict[int, int]], x: int, y: int) -> list[tuple[int, int, bool]]:
    edits = []
    for count in range(len(trace) - 1, 0, -1):
        reach, diagonal = trace[count], x - y
        inserts = _goes_down(reach, diagonal, count)
        before = diagonal + 1 if inserts else diagonal - 1
        x = reach[before]
        y = x - before
        edits.append((x, y, inserts))
    return edits[::-1]
