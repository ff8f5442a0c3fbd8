"""From a model's answer to its code blocks."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Any

from mulligan.extraction.blocks import Fence, fences
from mulligan.extraction.confidence import Subject, features_of, weigh
from mulligan.extraction.context import last_heading, said_around
from mulligan.extraction.drafts import drafts, leading_end
from mulligan.extraction.guess import MOST_GUESSED, guess
from mulligan.extraction.inline import Inline, inline_commands
from mulligan.extraction.transcripts import Sessions
from mulligan.languages import LANGUAGES
from mulligan.models import CodeBlock

MOST_BLOCKS = 10_000  # of an answer; those after it are not listed
MOST_LOOKED_INTO = 200  # blocks of an answer; the others have confidence 0
MOST_READ = 50_000  # characters of an answer's code that are looked into
_WHERE_TRUE = {"path", "draft", "nested", "under_html", "transcript", "structure_not_followed"}
_OF_NO_PROGRAM = {"text", "json", "diff", "bash", "output", "console", "plaintext", "yaml", "toml"}
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class _Found:
    """A block before it is judged: what it is, where, and what is known of it from outside."""

    language: str
    code: str
    start_pos: int
    end_pos: int
    code_start: int
    code_end: int
    said: frozenset[str]
    words: tuple[str, ...]
    facts: dict[str, Any]


def extract(text: str) -> list[CodeBlock]:
    """The code blocks of a model's answer, in the order of the text.

    Fenced blocks as CommonMark has them, and commands on lines of their own; docs/extraction.md has
    the rules. ``code`` is what would be run: its lines end with ``\\n`` whatever they end with in
    the text, prefixes of quotes and lists are gone, and of a recorded session the commands are
    left. ``text[start_pos:end_pos]`` is the block as it stands: from the beginning of its first
    line to the end of its last, fences included, the last line's end not.

    ``metadata`` always has ``type`` (``fenced``, ``inline``), ``info`` (the info string),
    ``language_source`` (``info``, ``guess``, ``none``, ``inline``), ``closed``, ``line`` (from 1),
    ``start_byte`` and ``end_byte`` (of the text's UTF-8), ``code_start`` and ``code_end``
    (characters between the fences), ``line_ending`` (``lf``, ``crlf``, ``cr``, ``mixed``) and
    ``features``, what the confidence was made of. ``path`` is the file the info string names;
    ``draft``, ``nested``, ``under_html``, ``transcript`` and ``structure_not_followed`` are there,
    and true, where they apply.

    Args:
        text: any text. Lone surrogates are read as U+FFFD.

    Returns:
        Blocks with ``execution_confidence`` in [0, 1]. Nothing is run, and nothing raised.
    """
    text = _SURROGATE.sub("\ufffd", text)
    draft_end = leading_end(text)
    found = _blocks(text[:draft_end], 0) if draft_end else []
    found += _blocks(text[draft_end:], draft_end)
    code = [(block.start_pos, block.end_pos) for block in found]
    hidden = [(0, draft_end), *drafts(text, draft_end, code)]
    begins = [start for start, _ in hidden]
    for number, block in enumerate(found):
        if block.start_pos < hidden[bisect_right(begins, block.start_pos) - 1][1]:
            found[number] = replace(block, said=block.said | {"draft"})
    return _judged(text, found)


def _blocks(text: str, offset: int) -> list[_Found]:
    """The blocks of a part of a text that begins at ``offset`` of it."""
    blocks = fences(text, MOST_BLOCKS)
    sessions = Sessions()
    found: list[_Found] = []
    unnamed = 0
    for fence in blocks:
        found.append(_from_fence(fence, text, offset, sessions, unnamed <= MOST_GUESSED))
        unnamed += 0 if fence.label.language else len(fence.code)
    if not any(fence.scanned for fence in blocks):
        commands = inline_commands(text, [(fence.start_pos, fence.end_pos) for fence in blocks])
        found += [_from_inline(command, text, offset) for command in commands]
        found.sort(key=lambda block: block.start_pos)
    return found


def _from_fence(fence: Fence, text: str, offset: int, sessions: Sessions, guessing: bool) -> _Found:
    label = fence.label
    code, language, source = fence.code, label.language, "info" if label.language else "guess"
    said = set()
    transcript = sessions.read(code, language, label.transcript)
    if transcript is not None:
        said.add("transcript")
        code, language = transcript.code, transcript.language
    elif not language or label.transcript:
        source = "guess"
        language = guess(code) if guessing else "text"
        if language == "text":
            source = "none"
    if language in LANGUAGES and transcript is None:
        said.add("named_language" if source == "info" else "guessed_language")
    traits = {
        "cut_off": not fence.closed,
        "unfollowed": fence.scanned,
        "names_a_file": label.path is not None,
        "quoted": text[fence.start_pos : fence.start_pos + 4].lstrip(" ").startswith(">"),
    }
    facts = {
        "type": "fenced",
        "info": label.info,
        "language_source": source,
        "closed": fence.closed,
        "line_ending": _line_ending(text[fence.start_pos : fence.end_pos + 2]),
        "path": label.path,
        "nested": fence.nested,
        "under_html": fence.html,
        "structure_not_followed": fence.scanned,
    }
    return _Found(
        language=language,
        code=code,
        start_pos=fence.start_pos + offset,
        end_pos=fence.end_pos + offset,
        code_start=fence.code_start + offset,
        code_end=fence.code_end + offset,
        said=frozenset(said | {name for name, true in traits.items() if true}),
        words=label.words,
        facts=facts,
    )


def _from_inline(command: Inline, text: str, offset: int) -> _Found:
    start, end = command.start_pos + offset, command.end_pos + offset
    facts = {
        "type": "inline",
        "info": "",
        "language_source": "inline",
        "closed": True,
        "line_ending": _line_ending(text[command.end_pos : command.end_pos + 2]),
    }
    said = frozenset({"inline"})
    return _Found("bash", command.command, start, end, start, end, said, (), facts)


def _judged(text: str, found: list[_Found]) -> list[CodeBlock]:
    """The blocks with their confidence, given what is between them."""
    runnable = sum(block.language in LANGUAGES and "draft" not in block.said for block in found)
    languages = len({block.language for block in found if block.language not in _OF_NO_PROGRAM})
    made: list[CodeBlock] = []
    heading, at, byte, line, read = "", 0, 0, 1, 0
    for number, block in enumerate(found):
        before = text[at : block.start_pos]
        byte += len(before.encode())
        line += _line_ends(before)
        size = len(text[block.start_pos : block.end_pos].encode())
        said = set(block.said)
        read += len(block.code)
        if number >= MOST_LOOKED_INTO:
            said.add("too_many")
        if not said & {"too_many", "unfollowed"}:
            heading = last_heading(before) or heading
            if block.language in LANGUAGES:
                last_one = number + 1 == len(found)
                stop = len(text) if last_one else found[number + 1].start_pos
                after = text[block.end_pos : stop]
                said |= said_around(before, after, heading, first=number == 0, last_one=last_one)
                said |= {"only_block"} if runnable == 1 else set()
                said -= set() if languages > 1 else {"one_of_languages"}
            subject = Subject(block.language, block.code, frozenset(said), block.words)
            said = features_of(subject, look_into=read <= MOST_READ)
        facts = block.facts | {
            "line": line,
            "start_byte": byte,
            "end_byte": byte + size,
            "code_start": block.code_start,
            "code_end": block.code_end,
            "features": sorted(said),
            "draft": "draft" in said,
            "transcript": "transcript" in said,
        }
        made.append(
            CodeBlock(
                language=block.language,
                code=block.code,
                execution_confidence=weigh(said),
                start_pos=block.start_pos,
                end_pos=block.end_pos,
                metadata={key: value for key, value in facts.items() if _worth_saying(key, value)},
            )
        )
        line += _line_ends(text[block.start_pos : block.end_pos])
        at, byte = block.end_pos, byte + size
    return made


def _worth_saying(key: str, value: object) -> bool:
    return key not in _WHERE_TRUE or bool(value)


def _line_ending(text: str) -> str:
    """``lf``, ``crlf``, ``cr`` or ``mixed``: how lines end; ``lf`` where none does."""
    pairs, feeds, returns = text.count("\r\n"), text.count("\n"), text.count("\r")
    kinds = {"crlf": pairs, "lf": feeds - pairs, "cr": returns - pairs}
    used = [name for name, count in kinds.items() if count]
    return "mixed" if len(used) > 1 else used[0] if used else "lf"


def _line_ends(text: str) -> int:
    return text.count("\n") + text.count("\r") - text.count("\r\n")
