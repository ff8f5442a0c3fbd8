"""What code would do, in the form rules are matched against."""

from __future__ import annotations

from dataclasses import dataclass, field

from mulligan.policy.dangerous.findings import Place
from mulligan.policy.dangerous.values import NO_TAGS, Text


@dataclass(slots=True)
class Command:
    """A program that would be started, its wrappers taken off.

    Attributes:
        name: last segment of the path of the program; "?" where it cannot be known.
        arguments: what follows it.
        stdin: what it would read, if that is not the terminal.
        environment: variables set for it alone.
        cwd: where it would run, in the form of ``paths.canonical``.
    """

    name: str
    arguments: list[Text]
    place: Place
    stdin: Text | None = None
    environment: dict[str, Text] = field(default_factory=dict)
    cwd: str = "/workspace"


@dataclass(slots=True)
class Call:
    """A call of a library's function, by its full name ("os.system").

    ``receiver`` is the tags of the object whose method it is.
    """

    name: str
    arguments: list[Text]
    keywords: dict[str, Text]
    place: Place
    receiver: frozenset[str] = NO_TAGS


@dataclass(slots=True)
class Effect:
    """Something done, whatever it is done with.

    Attributes:
        kind: "read", "write", "delete", "run" (code is run), "send" (data leaves over a network)
            or a structure such as "fork-bomb".
        path: in the form of ``paths.canonical``, "" where there is none.
        tags: where what is read, written, run or sent comes from.
        flags: "recursive", "append", "shell" and such.
    """

    kind: str
    place: Place
    path: str = ""
    tags: frozenset[str] = NO_TAGS
    flags: frozenset[str] = NO_TAGS
