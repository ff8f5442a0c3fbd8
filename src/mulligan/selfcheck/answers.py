"""Probes whose outcome is looked at on the host's side.

Those of ``output`` look at what comes back, those of ``remains`` at what stays behind; those of
``spies`` look for the secret with every language.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mulligan.selfcheck.places import Answer, Place
from mulligan.selfcheck.planted import Planted

Seen = tuple[bool, str]


@dataclass(frozen=True)
class Asked:
    """What a probe of this side has at hand."""

    place: Place
    planted: Planted
    languages: tuple[str, ...]
    limits: dict[str, int]

    async def run(self, code: str, language: str = "python", **more: object) -> Answer:
        """Runs a program where it is asked of."""
        answer = await self.place.run(code, language, **more)  # type: ignore[arg-type]
        if self.planted.leaked(answer.text + answer.stderr):
            raise LeakedError
        return answer


class LeakedError(Exception):
    """The planted secret came back."""


class MissingError(Exception):
    """This host lacks what a probe needs; the text says what."""


@dataclass(frozen=True)
class AnswerProbe:
    """See ``inside.probing.Probe``; ``run`` is asynchronous here."""

    id: str
    tried: str
    must: str
    outside: str
    run: Callable[[Asked], Awaitable[Seen]]


ANSWERS: dict[str, AnswerProbe] = {}
Run = Callable[[Asked], Awaitable[Seen]]


def answer_probe(name: str, tried: str, must: str, outside: str = "fails") -> Callable[[Run], Run]:
    """Registers a function as a probe."""

    def register(run: Run) -> Run:
        ANSWERS[name] = AnswerProbe(name, tried, must, outside, run)
        return run

    return register
