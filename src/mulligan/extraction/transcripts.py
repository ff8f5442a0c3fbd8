"""Recorded sessions: which of their lines were typed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mulligan.extraction.grammars import parse

# user@host:~/dir$, [user@host dir]$, (venv) $, ~/dir $, bash-5.2$, and # for root
_SHELL = re.compile(
    r"[ \t]*(?:\([\w.-]{1,40}\) ?)?"
    r"(?:\[?[\w.-]{1,40}@[\w.-]{1,60}(?:[: ][^\s$#%\]]{0,80})?\]? ?"
    r"|[~/][^\s$#%]{0,80} ?|(?:ba)?sh-[\d.]{1,8})?"
    r"(?P<sign>[$%#]|\u276f|\u279c)[ \t](?P<command>.*)"
)
_PYTHON = re.compile(r"[ \t]*(?:>>>|In \[\d{1,6}\]:)(?: (?P<command>.*)|$)")
_PYTHON_MORE = re.compile(r"[ \t]*(?:\.\.\.|\.{3,9}:)(?: (?P<command>.*)|$)")
_HERE = re.compile(r"(?<!<)<<-?[ \t]*['\"\\]?(\w+)")
_MOST_ASKED = 100
_MOST_HERE = 500  # lines of a here-document
_MOST_COMMAND = 2000
_SECONDS = 0.02


@dataclass(frozen=True)
class Transcript:
    """The commands of a session, each line ending with ``\\n``; output is left out."""

    language: str
    code: str


class Sessions:
    """Reads the sessions of one text; questions that need a parser are limited for all of them."""

    def __init__(self) -> None:
        self._left = _MOST_ASKED

    def read(self, code: str, language: str, said: bool) -> Transcript | None:
        """The commands of ``code`` if it records a session; none if it is no such record.

        Args:
            code: a block's text.
            language: canonical name; "" where the block names none.
            said: whether the info string says that it is a transcript.
        """
        first = next((line for line in code.split("\n", 50)[:50] if line.strip()), "")
        if language in ("python", "") and _PYTHON.match(first):
            return Transcript("python", _python(code))
        if language not in ("bash", ""):
            return None
        shell = _SHELL.match(first)
        # A block may begin with output; and a comment is no prompt of root's.
        if said and shell is None:
            lines = code.split("\n", 50)[:50]
            shell = next((found for line in lines if (found := _dollar(line))), None)
        if shell is None or (shell["sign"] == "#" and not said):
            return None
        return Transcript("bash", self._shell(code, root=shell["sign"] == "#"))

    def _shell(self, code: str, root: bool) -> str:
        typed: list[str] = []
        command = here = ""  # the one being continued, and what ends its here-document
        lines = code.rstrip("\n").split("\n")
        for number, line in enumerate(lines):
            if here:
                rest = "" if line == ">" else line.removeprefix("> ")
                typed.append(rest)
                here = "" if rest.strip() == here else here
                continue
            found = _SHELL.match(line)
            if found and (found["sign"] != "#" or root):
                command = found["command"]
            elif command.endswith("\\"):
                command = line.removeprefix("> ")
            elif line.startswith("> ") and self._unfinished(command):
                command += f"\n{line[2:]}"
            else:
                command = ""
                continue
            typed.append(command.rsplit("\n", 1)[-1])
            here = self._opened(typed[-1], lines[number + 1 : number + 1 + _MOST_HERE])
        return "".join(f"{line}\n" for line in typed)

    def _opened(self, line: str, following: list[str]) -> str:
        """The word that ends a here-document a line opens, if what follows has such an end.

        ``1 << n`` opens none, and a session that was shortened may not show the end.
        """
        opened = _HERE.search(line)
        if opened is None or self._left <= 0:
            return ""
        self._left -= 1
        ends = (opened[1], f"> {opened[1]}")
        return opened[1] if any(text.strip() in ends for text in following) else ""

    def _unfinished(self, command: str) -> bool:
        """Whether a shell would ask for more: what there is does not parse."""
        if not command or len(command) > _MOST_COMMAND or self._left <= 0:
            return False
        if command.rstrip().endswith(("|", "&&", "||", "{", "(")):
            return True
        self._left -= 1
        tree = parse(command, "bash", _SECONDS)
        return tree is not None and tree.root_node.has_error


def _dollar(line: str) -> re.Match[str] | None:
    found = _SHELL.match(line)
    return found if found and found["sign"] != "#" else None


def _python(code: str) -> str:
    typed = []
    inside = False
    for line in code.split("\n"):
        found = _PYTHON.match(line) or (_PYTHON_MORE.match(line) if inside else None)
        inside = found is not None
        if found is not None:
            typed.append(found["command"] or "")
    # A blank line of a prompt ends a compound statement there; here it does no harm.
    return "".join(f"{line}\n" for line in typed)
