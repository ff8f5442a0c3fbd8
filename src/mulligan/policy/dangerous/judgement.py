"""One judgement: what was found so far, and the way from code to code inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.budget import Budget
from mulligan.policy.dangerous.events import Effect
from mulligan.policy.dangerous.findings import Finding, Place, Source
from mulligan.policy.dangerous.values import NO_TAGS, UNKNOWN, Text, without_markers, without_nulls

if TYPE_CHECKING:
    from mulligan.policy.dangerous.matching import Event
    from mulligan.policy.dangerous.rules import RuleSet
    from mulligan.policy.dangerous.shell.state import State

MOST_FINDINGS: Final = 50
_NESTED_LEVELS: Final = 5


class Judgement:
    """The findings of a text, the work it may still take, and what it may run next.

    Attributes:
        files: what would be in files the code writes, by path.
    """

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self.budget = Budget()
        self.findings: dict[tuple[str, int, int], Finding] = {}
        self.files: dict[str, Text] = {}
        self._seen: set[tuple[str, str]] = set()
        self._running: list[tuple[str, str]] = []

    def emit(self, event: Event, language: str = "bash") -> None:
        """Holds an event against the rules."""
        self.budget.step()
        for matcher in self.rules.index(language).matching(event, self.rules.paths):
            self.found(matcher.rule, matcher.decision, matcher.reason, event.place)

    def effect(
        self,
        kind: str,
        place: Place,
        path: str = "",
        *,
        tags: frozenset[str] = NO_TAGS,
        flags: frozenset[str] = NO_TAGS,
        language: str = "bash",
    ) -> None:
        """Holds an effect against the rules of the language whose code has it."""
        self.emit(Effect(kind, place, path, tags, flags), language)

    def found(self, rule: str, decision: str, reason: str, place: Place) -> None:
        """Keeps a finding, once for a rule and place."""
        if len(self.findings) < MOST_FINDINGS:
            line, column = place.line_column()
            self.findings.setdefault(
                (rule, line, column),
                Finding(rule, decision, reason, line, column, place.excerpt()),  # type: ignore[arg-type]
            )

    def classes(self, path: str) -> frozenset[str]:
        """The classes of a path in canonical form."""
        return self.rules.paths.of(path)

    def runs(self, code: Text, language: str, place: Place, state: State | None = None) -> Text:
        """Judges code that would be run by other code; gives what is known of its output.

        Args:
            state: the shell it runs in, for ``eval`` and ``source``; else a shell of its own.
        """
        from mulligan.policy.dangerous import languages  # noqa: PLC0415  (they call back)

        if code.tags:
            flags = frozenset({"shell" if language == "bash" else "program"})
            self.effect("run", place, tags=code.tags, flags=flags)
        if not code.text.strip(UNKNOWN + " \t\n;"):
            return Text(UNKNOWN, code.tags)
        key = (language, code.text)
        if key in self._running or (state is None and key in self._seen):
            return Text(UNKNOWN, code.tags)
        self._seen.add(key)
        self.budget.nest(len(code.text))
        self.budget.enter()
        self.budget.depth += _NESTED_LEVELS
        self._running.append(key)
        try:
            source = Source(without_nulls(code.text).encode(errors="replace"), place)
            return languages.walk(self, source, language, state)
        finally:
            self._running.pop()
            self.budget.depth -= _NESTED_LEVELS
            self.budget.leave()


def outermost(code: str) -> Source:
    """The source of the judged text itself."""
    return Source(without_markers(code).encode(errors="replace"))
