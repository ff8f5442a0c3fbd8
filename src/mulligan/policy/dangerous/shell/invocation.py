"""A command as a shell would start it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mulligan.policy.dangerous.paths import spelled_out
from mulligan.policy.dangerous.values import UNKNOWN, Text

if TYPE_CHECKING:
    from mulligan.policy.dangerous.findings import Place
    from mulligan.policy.dangerous.shell.redirect import Redirects


@dataclass(slots=True)
class Invocation:
    """Words, and what is connected to them; ``stdin`` None is what the shell itself reads."""

    arguments: list[Text]
    place: Place
    stdin: Text | None = None
    environment: dict[str, Text] = field(default_factory=dict)
    redirects: Redirects | None = None

    @property
    def name(self) -> str:
        """The last segment of the program's path; "?" where it is not known."""
        if not self.arguments:
            return ""
        name = spelled_out(self.arguments[0].text).rpartition("/")[2]
        return "?" if UNKNOWN in name else name

    @property
    def on_socket(self) -> bool:
        """Whether its input or output is a network connection."""
        return self.redirects is not None and self.redirects.socket

    def inner(self, arguments: list[Text], **environment: Text) -> Invocation:
        """The command that a wrapper would start."""
        return Invocation(
            arguments, self.place, self.stdin, {**self.environment, **environment}, self.redirects
        )
