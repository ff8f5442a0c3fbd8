"""Which language a code block without an info string is in."""

from __future__ import annotations

import json
import re

from mulligan.extraction.commands import share_of_commands
from mulligan.extraction.grammars import parse
from mulligan.extraction.signs import SIGNS, signs_of
from mulligan.languages import LANGUAGES

MOST_GUESSED = 50_000  # characters of an answer's code; after them nothing is guessed
_MOST = 4000  # characters of a block looked at
_LONGEST = 300  # characters of a line looked at
_COMMANDS = 0.6  # of the lines, for a block of commands
_STRONG = 3  # what a line says that is hardly written in another language
_COMMENT = re.compile(r"(?:#(?:[ \t]|$)|//|/\*|\*[ \t/])")
_WORKS = re.compile(r"[(\[{\"']")  # something is called or written down, not just reckoned
_SECONDS = 0.02

_KIN = {  # what a language is taken for that looks like it and that its grammar does not accept
    "javascript": ("typescript", "c", "go", "kotlin"),
    "python": ("gdscript", "lean", "lua", "ruby"),
    "rust": ("typescript", "c", "go", "kotlin"),
    "bash": (),
}
_REMARK = re.compile(r"(?:^|(?<=[\s,{\[]))//.*", re.MULTILINE)
_DIFF = re.compile(r"^(?:diff --git |--- \S.*\n\+\+\+ |@@ -\d)", re.MULTILINE)
_OUTPUT = re.compile(
    r"^Traceback \(most recent|^\s*File \"[^\"\n]+\", line \d+|^\w*(?:Error|Exception)(?: \[\w+\])?: |^error(?:\[E\d+\])?:|^thread '\S+' panicked"
    r"|^\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d|^total \d+$|^[-dl](?:[r-][w-][xsS-]){3}|^=+ (?:test session|\d+ passed|FAILURES)|^collected \d+ item"
    r"|^(?:PASS|FAIL|ok|FAILED|PASSED)\b|^\s*at \S+ \(.*:\d+:\d+\)|^[+|][-=+| ]{5,}$|^npm (?:ERR|WARN)|^\$?\w+: command not found"
    r"|^\s*Compiling \S+ v\d|^\s*Finished |^test result:|^Successfully installed|^Requirement already",
    re.MULTILINE,
)  # fmt: skip


def is_data(code: str) -> str | None:
    """``json`` or ``diff`` where the code is that; none else."""
    text = code[:_MOST].strip()
    if _DIFF.search(text):
        return "diff"
    if text[:1] in ("{", "[") and len(code) <= _MOST:
        try:
            json.loads(_REMARK.sub("", text))
        except (ValueError, RecursionError):
            return None
        return "json"
    return None


def is_output(code: str) -> bool:
    """Whether much of it looks like what programs print: tracebacks, logs, listings."""
    lines = code[:_MOST].splitlines()
    if not lines:
        return False
    return sum(bool(_OUTPUT.match(line)) for line in lines) * 4 >= len(lines)


def guess(code: str) -> str:
    """The language ``code`` seems to be in: a runnable one, ``json``, ``diff``, or ``text``.

    Lines of commands are a shell's. For the other languages their signs are weighed
    (``signs.py``), those of languages that cannot be run as well; what fits best is taken if its
    grammar accepts the code, or if the signs leave no doubt.
    """
    text = code[:_MOST]
    if not text.strip():
        return "text"
    first = text.lstrip().split("\n", 1)[0]
    if first.startswith("#!"):
        for word, name in (("python", "python"), ("node", "javascript"), ("sh", "bash")):
            if word in first:
                return name
    data = is_data(code)
    if data:
        return data
    if is_output(code):
        return "text"
    lines = [line.strip()[:_LONGEST] for line in text.splitlines()]
    lines = [line for line in lines if line and not _COMMENT.match(line)]
    commands = share_of_commands(lines)
    signs = [signs_of(line) for line in lines]
    best = max(SIGNS, key=lambda name: sum(said.get(name, 0) for said in signs))
    if commands == 1 and _parses(code, "bash") is not False:
        return "bash"
    accepted = best in LANGUAGES and _accepted(code, best, signs)
    certain = sum(said.get(best, 0) for said in signs) >= 2 * len(lines)
    if commands >= _COMMANDS and not (accepted or certain):
        return "bash"
    return best if accepted else "text"


def _parses(code: str, language: str) -> bool | None:
    """Whether a grammar accepts code; none if that takes too long."""
    tree = parse(code, language, _SECONDS) if len(code) <= _MOST else None
    return None if tree is None else not tree.root_node.has_error


def _accepted(code: str, language: str, signs: list[dict[str, int]]) -> bool:
    """Whether the signs of the lines are enough to say that code is in a language.

    Lines speak against it that say more for another one.
    """
    score = sum(said.get(language, 0) for said in signs)
    against = max(
        sum(said[name] for said in signs if said.get(name, 0) > said.get(language, 0))
        for name in SIGNS
    )
    if against >= score or score < len(signs) / 3:
        return False
    parses = _parses(code, language)
    if parses:
        return score > 1 or (score == len(signs) and bool(_WORKS.search(code)))
    # Cut off, with places left out, or in a language that is much like it.
    if parses is False and any(
        said.get(name, 0) > said.get(language, 0) for said in signs for name in _KIN[language]
    ):
        return False
    return score >= len(signs) and score >= 3 * against and (parses is None or score >= _STRONG)
