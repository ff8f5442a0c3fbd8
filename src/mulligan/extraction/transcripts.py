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
_MOST_COMMAND = 2000
_SECONDS = 0.005


@dataclass(frozen=True)
class Transcript:
    """The commands of a session, each line ending with ``\\n``; output is left out."""

    language: str
    code: str


def read_transcript(code: str, language: str, said: bool) -> Transcript | None:
    """The commands of ``code`` if it records a session; none if it is no such record.

    Args:
        code: a block's text.
        language: canonical name; "" where the block names none.
        said: whether the info string says that it is a transcript.
    """
    first = next((line for line in code.split("\n") if line.strip()), "")
    if language in ("python", "") and _PYTHON.match(first):
        return Transcript("python", _python(code))
    if language not in ("bash", ""):
        return None
    shell = _SHELL.match(first)
    # A block may begin with output; and a comment is no prompt of root's.
    if said and shell is None:
        shell = next((found for line in code.split("\n")[:50] if (found := _dollar(line))), None)
    if shell is None or (shell["sign"] == "#" and not said):
        return None
    return Transcript("bash", _shell(code, root=shell["sign"] == "#"))


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


def _shell(code: str, root: bool) -> str:
    typed: list[str] = []
    command = ""  # the one being continued
    asked = 0
    here = ""
    for line in code.rstrip("\n").split("\n"):
        if here:
            rest = line.removeprefix("> ") if line != ">" else ""
            typed.append(rest)
            here = "" if rest.strip() == here else here
            continue
        found = _SHELL.match(line)
        if found and (found["sign"] != "#" or root):
            command = found["command"]
            typed.append(command)
        elif command.endswith("\\"):
            command = line.removeprefix("> ")
            typed.append(command)
        elif line.startswith("> ") and asked < _MOST_ASKED and _unfinished(command):
            asked += 1
            typed.append(line[2:])
            command += "\n" + line[2:]
        else:
            command = ""
            continue
        opened = _HERE.search(command.rsplit("\n", 1)[-1])
        # Only if the rest of the block ends it: `1 << n` in arithmetic opens nothing.
        if opened and re.search(rf"^(?:> )?\s*{opened[1]}[ \t]*$", code, re.MULTILINE):
            here = opened[1]
    return "".join(f"{line}\n" for line in typed)


def _unfinished(command: str) -> bool:
    """Whether a shell would ask for more: what there is does not parse."""
    if not command or len(command) > _MOST_COMMAND:
        return False
    if command.rstrip().endswith(("|", "&&", "||", "{", "(")):
        return True
    tree = parse(command, "bash", _SECONDS)
    return tree is not None and tree.root_node.has_error
