"""Info strings of fenced blocks: which language they name, and what else they say."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mulligan.languages import EXTENSIONS, LANGUAGES, canonical

# What people write besides the names and aliases that requests take.
_ALIASES = {
    "bash-script": "bash",
    "ecmascript": "javascript",
    "es6": "javascript",
    "gnubash": "bash",
    "ipython": "python",
    "ipython3": "python",
    "javascript-node": "javascript",
    "node.js": "javascript",
    "nodejs": "javascript",
    "py3": "python",
    "pyi": "python",
    "python-3": "python",
    "python_3": "python",
    "rust-script": "rust",
    "shell-script": "bash",
    "shellscript": "bash",
}
# Transcripts of a session: prompts, commands and what they printed.
TRANSCRIPTS = {
    "bash-session": "bash",
    "console": "bash",
    "doctest": "python",
    "ipython-session": "python",
    "pycon": "python",
    "pycon3": "python",
    "python-console": "python",
    "python-repl": "python",
    "sh-session": "bash",
    "shell-session": "bash",
    "shellsession": "bash",
    "terminal": "bash",
}
_VERSION = re.compile(r"(python|py|node|bash)[ -]?\d+(?:\.\d+){0,2}")
_WRAPPERS = frozenset(("code", "code-block", "code-cell", "sourcecode", "eval-rst"))
_WORD = re.compile(r"[^\s,{}\[\]]+")
_PATH = re.compile(
    r"(?:\d+:\d+:)?[\w./@~+-]*[\w-]\.(py|m?js|cjs|sh|bash|rs|jsx?|tsx?|json|ya?ml|toml|ini|cfg|md"
    r"|html?|css|go|java|c|cpp|h|rb|php|sql|txt|xml)",
    re.IGNORECASE,
)
_MOST_INFO = 1000


@dataclass(frozen=True)
class Label:
    """An info string, read.

    Attributes:
        info: the string itself, its first 1,000 characters.
        language: canonical name; "" where the string names none.
        transcript: whether it says that a session was recorded.
        words: its other words, lower-case: attributes, classes, titles.
        path: the file it names, if any.
    """

    info: str
    language: str
    transcript: bool = False
    words: tuple[str, ...] = ()
    path: str | None = None


def read_label(info: str) -> Label:
    """What an info string says.

    Understood are a name or alias, ``{python}``, ``{.python .cls}``, ``language-python``,
    ``rust,ignore``, ``js{1,3}``, ``python title="x"``, ``python:src/a.py`` and ``src/a.py``.
    """
    info = info[:_MOST_INFO]
    words = _WORD.findall(info)
    if words and words[0].lower() in _WRAPPERS and "{" in info:  # {code-block} python
        words.pop(0)
    if not words:
        return Label(info, "")
    first, rest = words[0], tuple(word.lower() for word in words[1:])
    name = first.lower().removeprefix("language-").removeprefix("lang-")
    name = name.lstrip(".!").rstrip("=") or name
    path = None
    head, colon, _ = name.partition(":")
    if colon and head and not head.isdigit():
        name, path = head, first.partition(":")[2] or None
    language = _name(name)
    if language is None:
        found = _PATH.fullmatch(first)
        if found is None:
            return Label(info, name, name in TRANSCRIPTS, rest, path)
        language, path = _by_extension(found[1].lower()), first
    return Label(info, language, name in TRANSCRIPTS, rest, path)


def _name(name: str) -> str | None:
    """The canonical name of a runnable language or transcript; none for anything else."""
    if name in TRANSCRIPTS:
        return TRANSCRIPTS[name]
    name = _ALIASES.get(name, canonical(name))
    if name in LANGUAGES:
        return name
    version = _VERSION.fullmatch(name)
    return canonical(version[1]) if version else None


def _by_extension(extension: str) -> str:
    return EXTENSIONS.get(extension, extension)
