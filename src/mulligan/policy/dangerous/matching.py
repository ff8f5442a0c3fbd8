"""Holds commands, calls and effects against rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Self

from mulligan.policy.dangerous.events import Call, Command, Effect
from mulligan.policy.dangerous.findings import Decision
from mulligan.policy.dangerous.paths import Classes, canonical
from mulligan.policy.dangerous.patterns import LONGEST, compiled, plain
from mulligan.policy.dangerous.values import NO_TAGS, UNKNOWN, Text

Event = Command | Call | Effect
MOST_ARGUMENTS: Final = 256

_PATH_IN_ARGUMENT = re.compile(r"^(?:--?[\w-]+=|[a-z]+=|@|[\w.-]+=@)(?=.)")


class Matcher:
    """One way to meet one rule, compiled."""

    __slots__ = (
        "_arguments", "_environment", "_flags", "_keywords", "_not_arguments", "_not_flags", "_operands",
        "_paths", "_receiver", "_stdin", "_tags", "calls", "commands", "decision", "effects", "reason", "rule",
        "unknown_command",
    )  # fmt: skip

    def __init__(self, rule: str, decision: Decision, reason: str) -> None:
        self.rule = rule
        self.decision = decision
        self.reason = reason

    @classmethod
    def of(cls, rule: str, decision: Decision, reason: str, data: Mapping[str, Any]) -> Self:
        """A matcher from the fields of a rule's ``match``.

        Raises:
            ValueError: a pattern is not one.
        """
        made = cls(rule, decision, reason)
        made.commands = data["command"]
        made.calls = data["call"]
        made.effects = data["effect"]
        made.unknown_command = data["unknown_command"]
        made._flags = [frozenset(flag.split("|")) for flag in data["flags"]]
        made._arguments = [compiled([glob]) for glob in data["args"]]
        made._not_arguments = compiled(data["not_args"]) if data["not_args"] else None
        made._operands = [compiled([glob]) for glob in data["operands"]]
        made._paths = frozenset(data["paths"])
        made._tags = frozenset(data["tags"])
        made._stdin = frozenset(data["stdin"])
        made._receiver = frozenset(data["receiver"])
        made._not_flags = frozenset(data["not_flags"])
        made._environment = [compiled([glob]) for glob in data["environment"]]
        made._keywords = [compiled([glob]) for glob in data["keywords"]]
        return made

    def meets_command(self, command: Command, seen: Seen) -> bool:
        """Whether a command of one of the rule's names meets the rest of it."""
        return (
            all(flag & seen.flags for flag in self._flags)
            and not self._not_flags & seen.flags
            and self._meets_arguments(seen)
            and (not self._stdin or (command.stdin is not None and bool(self._stdin & command.stdin.tags)))
            and self._meets_environment(command.environment)
        )

    def meets_call(self, call: Call, seen: Seen) -> bool:
        """Whether a call of one of the rule's names meets the rest of it."""
        if self._receiver and not self._receiver & call.receiver:
            return False
        pairs = [f"{name}={value.text[:LONGEST]}" for name, value in call.keywords.items()]
        return self._meets_arguments(seen) and all(
            any(pattern.fullmatch(pair) for pair in pairs) for pattern in self._keywords
        )

    def meets_effect(self, effect: Effect, classes: frozenset[str]) -> bool:
        """Whether an effect of one of the rule's kinds meets the rest of it."""
        return (
            (not self._paths or bool(self._paths & classes))
            and (not self._tags or bool(self._tags & effect.tags))
            and all(flag & effect.flags for flag in self._flags)
            and not self._not_flags & effect.flags
        )

    def _meets_arguments(self, seen: Seen) -> bool:
        if self._operands:
            if len(seen.operands) < len(self._operands):
                return False
            pairs = zip(self._operands, seen.operands, strict=False)
            if not all(pattern.fullmatch(operand) for pattern, operand in pairs):
                return False
        return (
            all(any(map(pattern.fullmatch, seen.words)) for pattern in self._arguments)
            and not (self._not_arguments and any(map(self._not_arguments.fullmatch, seen.words)))
            and (not self._tags or bool(self._tags & seen.tags))
            and (not self._paths or bool(self._paths & seen.classes))
        )

    def _meets_environment(self, environment: Mapping[str, Text]) -> bool:
        if not self._environment:
            return True
        pairs = [f"{name}={value.text[:LONGEST]}" for name, value in environment.items()]
        return all(any(map(pattern.fullmatch, pairs)) for pattern in self._environment)


class Seen:
    """The arguments of a command or call, as matchers ask for them."""

    __slots__ = ("_classes", "_cwd", "_paths", "flags", "operands", "tags", "words")

    def __init__(self, arguments: list[Text], paths: Classes, cwd: str) -> None:
        self.words = [argument.text[:LONGEST] for argument in arguments[:MOST_ARGUMENTS]]
        self.operands = [word for word in self.words if word[:1] != "-" or word == "-"]
        self.tags = NO_TAGS.union(*(argument.tags for argument in arguments if argument.tags))
        self.flags = flags_of(self.words)
        self._classes: frozenset[str] | None = None
        self._paths = paths
        self._cwd = cwd

    @property
    def classes(self) -> frozenset[str]:
        """The classes of paths that arguments name, also behind ``of=``, ``--file=`` and ``@``."""
        if self._classes is None:
            found = NO_TAGS
            for word in self.words:
                if word[:1] != "-" or "=" in word:
                    path = _PATH_IN_ARGUMENT.sub("", word)
                    found |= self._paths.of(canonical(path, self._cwd))
            self._classes = found
        return self._classes


def flags_of(words: list[str]) -> frozenset[str]:
    """Options that are given: letters of clusters, and long names without their dashes."""
    flags: set[str] = set()
    for word in words:
        if word == "--":
            break
        if word[:1] != "-" or len(word) == 1:
            continue
        if word[1] == "-":
            flags.add(word[2:].partition("=")[0])
        else:
            flags.update(word[1:])
            flags.add(word[1:].partition("=")[0])
        if UNKNOWN in word:
            flags.add("?")
    return frozenset(flags)


class Index:
    """Matchers by the names they ask for."""

    def __init__(self, matchers: list[Matcher]) -> None:
        self._commands = _Names([(glob, matcher) for matcher in matchers for glob in matcher.commands])
        self._calls = _Names([(glob, matcher) for matcher in matchers for glob in matcher.calls])
        self._effects = _Names([(glob, matcher) for matcher in matchers for glob in matcher.effects])
        self._unknown = [matcher for matcher in matchers if matcher.unknown_command]

    def asks_call(self, name: str) -> bool:
        """Whether any rule asks for calls of a name."""
        return bool(self._calls.asked(name))

    def matching(self, event: Event, paths: Classes) -> list[Matcher]:
        """The matchers an event meets."""
        if isinstance(event, Effect):
            asked = self._effects.asked(event.kind)
            classes = paths.of(event.path) if asked and event.path else NO_TAGS
            return [matcher for matcher in asked if matcher.meets_effect(event, classes)]
        if isinstance(event, Call):
            asked = self._calls.asked(event.name)
            seen = Seen(event.arguments + list(event.keywords.values()), paths, "/workspace") if asked else None
            return [matcher for matcher in asked if seen and matcher.meets_call(event, seen)]
        asked = self._unknown if event.name == "?" else self._commands.asked(event.name)
        if not asked:
            return []
        seen = Seen(event.arguments, paths, event.cwd)
        return [matcher for matcher in asked if matcher.meets_command(event, seen)]


class _Names:
    def __init__(self, entries: list[tuple[str, Matcher]]) -> None:
        self._plain: dict[str, list[Matcher]] = {}
        self._globs = [(compiled([glob]), matcher) for glob, matcher in entries if not plain(glob)]
        for glob, matcher in entries:
            if plain(glob):
                self._plain.setdefault(glob, []).append(matcher)
        self._known: dict[str, list[Matcher]] = {}

    def asked(self, name: str) -> list[Matcher]:
        """The matchers that ask for a name; answers are kept for short names only."""
        known = self._known.get(name)
        if known is None:
            name = name[:LONGEST]
            known = self._plain.get(name, []) + [m for glob, m in self._globs if glob.fullmatch(name)]
            if len(self._known) < 4096 and len(name) < 64:
                self._known[name] = known
        return known
