"""A second, forgiving way to read a script that is not grammatical.

What a shell would refuse as a whole it still runs line by line up to the fault, and the grammar
does not know everything Bash knows; so what could be commands is read as commands.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.findings import Place, Source
from mulligan.policy.dangerous.shell import quoting
from mulligan.policy.dangerous.shell.invocation import Invocation
from mulligan.policy.dangerous.shell.invoke import invoke
from mulligan.policy.dangerous.shell.redirect import Redirects
from mulligan.policy.dangerous.values import EMPTY, Text

if TYPE_CHECKING:
    from tree_sitter import Node

    from mulligan.policy.dangerous.shell.walk import Shell

_RESERVED: Final = frozenset({"if", "then", "else", "elif", "fi", "do", "done", "while", "until",
                              "{", "}", "!", "in", "esac", "time"})  # fmt: skip
_BREAK = re.compile(r"[ \t]+|\\\n|#[^\n]*|&&|\|\||;;|\|&|&>>|&>"
                    r"|[0-9]*(?:>&|<&|>>|<<<|<<-?|<>|>\||>|<)|[;&|\n(){}]")  # fmt: skip
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\+?=", re.ASCII)
_MOST_WORDS: Final = 4000


def read_again(shell: Shell, root: Node, *, whole: bool) -> None:
    """Judges the lines that do not parse, or all of a short script."""
    data = shell.source.data
    if whole:
        _read(shell, data.decode(errors="replace"), Place(shell.source, 0, len(data)))
        return
    done = 0
    for at, end in _faults(root):
        start = data.rfind(b"\n", 0, max(at, done)) + 1
        stop = data.find(b"\n", end)
        stop = len(data) if stop < 0 else stop
        if stop > done:
            _read(
                shell, data[start:stop].decode(errors="replace"), Place(shell.source, start, stop)
            )
            done = stop


def _faults(root: Node) -> list[tuple[int, int]]:
    faults = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.is_error or node.is_missing:
            faults.append((node.start_byte, node.end_byte))
        elif node.has_error:
            waiting.extend(node.children)
    return sorted(faults)


def words_of(text: str) -> list[str]:
    """Words and operators of a script, quotes kept."""
    found: list[str] = []
    at = start = 0
    while at < len(text) and len(found) < _MOST_WORDS:
        character = text[at]
        if character in "'\"`" or text.startswith(("$(", "${", "<(", ">(", "=("), at):
            at = _skipped(text, at)
            continue
        if character == "\\" and not text.startswith("\\\n", at):
            at += 2
            continue
        separator = _BREAK.match(text, at)
        if separator and character == "#" and at != start:
            separator = None
        if separator and character in "{}" and not _alone(text, at, start):
            separator = None
        if separator is None:
            at += 1
            continue
        if at > start:
            found.append(text[start:at])
        if separator[0].strip(" \t\\") or separator[0] == "\n":
            found.append(separator[0] if character != "#" else "\n")
        at = start = separator.end()
    if at > start:
        found.append(text[start:at])
    return found


def _alone(text: str, at: int, start: int) -> bool:
    return at == start and (at + 1 >= len(text) or text[at + 1] in " \t\n;&|)")


def _skipped(text: str, at: int) -> int:
    character = text[at]
    if character == '"':
        return quoting.quoted_end(text, at + 1) + 1
    if character == "'":
        if text[at - 1 : at] == "$":
            end = at + 1
            while end < len(text) and text[end] != "'":
                end += 2 if text[end] == "\\" else 1
            return end + 1
        end = text.find("'", at + 1)
        return len(text) if end < 0 else end + 1
    if character == "`":
        end = text.find("`", at + 1)
        return len(text) if end < 0 else end + 1
    brackets = ("{", "}") if text[at + 1] == "{" else ("(", ")")
    return quoting.closing(text, at + 2, *brackets) + 1


def _read(shell: Shell, text: str, place: Place) -> None:
    source = Source(text.encode(errors="replace"), place)
    reader = _Reader(shell, place if len(text) > 400 else Place(source, 0, len(source.data)))
    for word in words_of(text):
        reader.take(word)
    reader.end(None)


class _Reader:
    """Puts words together to commands and runs them."""

    def __init__(self, shell: Shell, place: Place) -> None:
        self._shell = shell
        self._place = place
        self._words: list[str] = []
        self._redirects: list[tuple[str, str]] = []
        self._operator: str | None = None
        self._stdin: Text | None = None

    def take(self, word: str) -> None:
        """The next word or operator."""
        if _BREAK.fullmatch(word) and not word.strip("0123456789").startswith(("<", ">", "&>")):
            self.end(word)
        elif re.fullmatch(r"\d*(?:>&|<&|>>|<<<|<<-?|<>|>\||>|<)|&>>?", word):
            self._operator = word
        elif self._operator is not None:
            self._redirects.append((self._operator, word))
            self._operator = None
        elif self._words or word not in _RESERVED:
            self._words.append(word)

    def end(self, operator: str | None) -> None:
        """The command is complete."""
        shell = self._shell
        redirects = Redirects()

        for sign, raw in self._redirects:
            match = re.fullmatch(r"(\d*)(.+)", sign)
            if match and match[2] == "<<<":
                self._stdin = shell.words.text(raw)
            elif match and not match[2].startswith("<<"):
                redirects.to(shell, match[1], match[2], shell.words.text(raw), self._place)
        environment: dict[str, Text] = {}
        while self._words and (assigned := _ASSIGNMENT.match(self._words[0])):
            value = self._words.pop(0)[assigned.end() :]
            environment[assigned[1]] = shell.words.text(value)
        arguments = [field for word in self._words for field in shell.words.fields(word)]
        stdin = redirects.apply(shell, self._stdin)
        output = EMPTY
        if arguments or environment:
            output = invoke(
                shell, Invocation(arguments, self._place, stdin, environment, redirects)
            )
        output = redirects.wrote(shell, output)
        self._words, self._redirects, self._operator = [], [], None
        self._stdin = output if operator in ("|", "|&") else None
