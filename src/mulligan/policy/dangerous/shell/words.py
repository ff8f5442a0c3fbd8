"""Expands the words of a command as Bash would (Bash manual 3.5), as far as values are known."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.shell import quoting
from mulligan.policy.dangerous.shell.parameters import expansion, values_of
from mulligan.policy.dangerous.values import (
    EMPTY,
    HOME,
    NO_TAGS,
    Text,
    anything,
    joined,
)

if TYPE_CHECKING:
    from mulligan.policy.dangerous.budget import Budget
    from mulligan.policy.dangerous.shell.state import State

Substitute = Callable[[str], Text]
MOST_FIELDS: Final = 256

_SPECIAL = re.compile(r"[\\'\"$`{~<>=]")
_STOP = re.compile(r"[\\'\"$`<>]")
_BLANKS = re.compile(r"[ \t\n]+")
_EVERY = re.compile(r'"\$\{(\w+)\[@\]\}"|"\$(?:@|\{@\})"')
_STOP_QUOTED = re.compile(r"[\\$`]")
_NAME = re.compile(r"[A-Za-z_]\w*|[0-9@*#?$!_-]", re.ASCII)
_TILDE = re.compile(r"~(?=/|$|:)|~[A-Za-z][\w-]*(?=/|$)")


class Expander:
    """Turns raw words into the fields a command would get.

    ``substitute`` judges the script of ``$(...)`` and gives its output; ``substitute_process``
    does so for ``<(...)`` and ``>(...)`` and is told which.
    """

    __slots__ = ("_budget", "_parts", "_state", "_substitute", "_substitute_process")

    def __init__(
        self,
        state: State,
        budget: Budget,
        substitute: Substitute,
        substitute_process: Callable[[str, str], Text],
    ) -> None:
        self._state = state
        self._budget = budget
        self._substitute = substitute
        self._substitute_process = substitute_process

    def fields(self, raw: str) -> list[Text]:
        """The fields of a word that is not in an assignment."""
        if not _SPECIAL.search(raw):
            return [Text(raw)]
        every = _EVERY.fullmatch(raw)
        if every:
            values = values_of(every[1] or "@", "[@]" if every[1] else None, self._state)
            if values is not None:
                return values[:MOST_FIELDS]
        words = quoting.braces(raw) if "{" in raw and ("," in raw or ".." in raw) else [raw]
        found: list[Text] = []
        for word in words:
            found.extend(self._split(word))
        return found[:MOST_FIELDS]

    def text(self, raw: str) -> Text:
        """A word as one text: of assignments, redirections and here-strings."""
        if not _SPECIAL.search(raw):
            return Text(raw)
        return joined([text for text, _ in self._pieces(raw)] or [EMPTY])

    def inside_quotes(self, raw: str) -> Text:
        """The text of a here-document or of what stands between double quotes."""
        if "$" not in raw and "`" not in raw and "\\" not in raw:
            return Text(raw)
        return joined([text for text, _ in self._quoted(raw)] or [EMPTY])

    def _split(self, word: str) -> list[Text]:
        """Fields of a word: what unquoted expansions give is split at blanks."""
        fields: list[Text] = []
        current: list[Text] = []
        separators = self._separators()
        for text, splits in self._pieces(word):
            if not splits or not text.text or not separators.search(text.text):
                current.append(text)
                continue
            parts = separators.split(text.text)
            for number, part in enumerate(parts):
                if number and current:
                    fields.append(joined(current))
                    current = []
                if part:
                    current.append(Text(part, text.tags))
        if current:
            fields.append(joined(current))
        return [field for field in fields if field.text or "'" in word or '"' in word]

    def _separators(self) -> re.Pattern[str]:
        """What ``IFS`` says words end at."""
        value = self._state.variables["IFS"][:1] if "IFS" in self._state.variables else []
        characters = value[0].text if value else ""
        if characters in ("", " \t\n") or not value[0].known:
            return _BLANKS
        return re.compile(f"[{re.escape(characters[:16])}]+")

    def _pieces(self, word: str) -> list[tuple[Text, bool]]:
        """(text, whether it is split) of each part of a word."""
        pieces: list[tuple[Text, bool]] = []
        at = 0
        tilde = _TILDE.match(word)
        if tilde:
            pieces.append((Text(HOME), False))
            at = tilde.end()
        while at < len(word):
            self._budget.step()
            stop = _STOP.search(word, at)
            start = stop.start() if stop else len(word)
            if start > at:
                pieces.append((Text(self._assigned_home(word[at:start])), False))
            if not stop:
                break
            at = self._special(word, start, pieces)
        return pieces

    @staticmethod
    def _assigned_home(literal: str) -> str:
        """``--file=~/x`` and ``a=~`` are expanded too, as assignments and by many programs."""
        return literal.replace("=~/", f"={HOME}/") if "=~/" in literal else literal

    def _special(self, word: str, at: int, pieces: list[tuple[Text, bool]]) -> int:
        character = word[at]
        if character == "\\":
            if word[at + 1 : at + 2] != "\n":
                pieces.append((Text(word[at + 1 : at + 2]), False))
            return at + 2
        if character == "'":
            end = word.find("'", at + 1)
            end = len(word) if end < 0 else end
            pieces.append((Text(word[at + 1 : end]), False))
            return end + 1
        if character == '"':
            end = quoting.quoted_end(word, at + 1)
            pieces.extend(self._quoted(word[at + 1 : end]))
            return end + 1
        if character in "<>":
            if word[at + 1 : at + 2] != "(":
                pieces.append((Text(character), False))
                return at + 1
            end = quoting.closing(word, at + 2, "(", ")")
            substituted = self._substitute_process(word[at + 2 : end], character)
            pieces.append((substituted, False))
            return end + 1
        text, end = self._dollar(word, at)
        pieces.append((text, word[at : at + 2] != "$'"))
        return end

    def _quoted(self, inside: str) -> list[tuple[Text, bool]]:
        """Parts of what stands between double quotes."""
        pieces: list[tuple[Text, bool]] = []
        at = 0
        while at < len(inside):
            self._budget.step()
            stop = _STOP_QUOTED.search(inside, at)
            start = stop.start() if stop else len(inside)
            if start > at:
                pieces.append((Text(inside[at:start]), False))
            if not stop:
                break
            if inside[start] == "\\":
                escaped = inside[start + 1 : start + 2]
                kept = "" if escaped in '$`"\\\n' else "\\"
                pieces.append((Text(kept + escaped.strip("\n")), False))
                at = start + 2
            else:
                text, at = self._dollar(inside, start)
                pieces.append((text, False))
        return pieces

    def _dollar(self, word: str, at: int) -> tuple[Text, int]:
        """What ``$...`` or `` `...` `` at a place stands for, and where it ends."""
        if word[at] == "`":
            end = at + 1
            while end < len(word) and word[end] != "`":
                end += 2 if word[end] == "\\" else 1
            script = re.sub(r"\\([\\`$])", r"\1", word[at + 1 : end])
            return self._substitute(script), end + 1
        after = word[at + 1 : at + 2]
        if after == "'":
            end = at + 2
            while end < len(word) and word[end] != "'":
                end += 2 if word[end] == "\\" else 1
            return Text(quoting.ansi_c(word[at + 2 : end])), end + 1
        if after == '"':
            return EMPTY, at + 1
        if after == "(":
            end = quoting.closing(word, at + 2, "(", ")")
            inside = word[at + 2 : end]
            if inside.startswith("("):
                return self._arithmetic(inside), end + 1
            return self._substitute(inside), end + 1
        if after == "{":
            end = quoting.closing(word, at + 2, "{", "}")
            return expansion(word[at + 2 : end], self._state, self.text), end + 1
        return self._parameter(word, at)

    def _parameter(self, word: str, at: int) -> tuple[Text, int]:
        """What ``$name`` stands for, and where it ends."""
        name = _NAME.match(word, at + 1)
        if name is None:
            return Text("$"), at + 1
        if self._is_padding(word, at, name):
            return EMPTY, name.end()
        return expansion(name[0], self._state, self.text), name.end()

    def _is_padding(self, word: str, at: int, name: re.Match[str]) -> bool:
        """``wh$@oami``: a parameter nobody has given, put inside a name to hide it."""
        unset = self._state.positional is None and (name[0] in "@*" or name[0] in "123456789")
        around = word[at - 1 : at].isalnum() and word[name.end() : name.end() + 1].isalnum()
        return unset and around

    def _arithmetic(self, inside: str) -> Text:
        """Numbers are not worked out, but what stands in them runs."""
        for start in re.finditer(r"\$\((?!\()|`", inside):
            self._dollar(inside, start.start())
        number = re.fullmatch(r"\(\s*(\d{1,9})\s*\)", inside)
        return Text(number[1]) if number else anything(NO_TAGS)
