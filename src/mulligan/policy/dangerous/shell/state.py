"""What is known of a shell while its script is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.paths import WORKSPACE
from mulligan.policy.dangerous.values import HOME, Text

if TYPE_CHECKING:
    from tree_sitter import Node

    from mulligan.policy.dangerous.findings import Place, Source

# Variables every shell has; their letters are used to spell names that nobody is to see.
_STANDARD: Final[dict[str, list[Text]]] = {
    "HOME": [Text(HOME)],
    "PWD": [Text(WORKSPACE)],
    "OLDPWD": [Text(WORKSPACE)],
    "IFS": [Text(" \t\n")],
    "PATH": [Text("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")],
    "SHELL": [Text("/bin/bash")],
    "BASH": [Text("/bin/bash")],
    "TMPDIR": [Text("/tmp")],  # noqa: S108  (the name, nothing is put there)
    "TERM": [Text("xterm")],
}


@dataclass(slots=True)
class State:
    """Variables (a list each, as arrays have), functions, aliases, and where the shell stands.

    Attributes:
        stdin: what ``read`` and commands without a redirection read.
        positional: ``$1`` and on; None where they cannot be known.
        calls: functions that are being called, innermost last.
        traps: what is run at its end.
        turns: how often what is being read is read because of loops around it.
    """

    variables: dict[str, list[Text]] = field(default_factory=lambda: dict(_STANDARD))
    functions: dict[str, tuple[Source, Node]] = field(default_factory=dict)
    aliases: dict[str, Text] = field(default_factory=dict)
    descriptors: dict[str, Text] = field(default_factory=dict)
    cwd: str = WORKSPACE
    stdin: Text | None = None
    positional: list[Text] | None = None
    calls: list[str] = field(default_factory=list)
    turns: int = 1
    traps: list[tuple[Text, Place]] = field(default_factory=list)

    def child(self) -> State:
        """A subshell's copy."""
        return State(
            dict(self.variables),
            dict(self.functions),
            dict(self.aliases),
            dict(self.descriptors),
            self.cwd,
            self.stdin,
            self.positional,
            list(self.calls),
            self.turns,
            self.traps,
        )
