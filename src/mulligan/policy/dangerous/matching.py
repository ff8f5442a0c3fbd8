"""Holds commands, calls and effects against rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from mulligan.policy.dangerous.events import Call, Command, Effect
from mulligan.policy.dangerous.findings import Decision
from mulligan.policy.dangerous.paths import Classes, canonical
from mulligan.policy.dangerous.patterns import LONGEST, Globs, compiled, plain
from mulligan.policy.dangerous.values import NO_TAGS, UNKNOWN, Text

Event = Command | Call | Effect
MOST_ARGUMENTS: Final = 256

_PATH_IN_ARGUMENT = re.compile(r"^(?:--?[\w-]+=|[a-z]+=|@|[\w.-]+=@)(?=.)")


@dataclass(frozen=True, slots=True)
class Matcher:
    """One way to meet one rule, compiled; the fields are those of ``rules.MatchData``."""

    rule: str
    decision: Decision
    reason: str
    commands: list[str]
    calls: list[str]
    effects: list[str]
    unknown_command: bool
    flags: list[frozenset[str]]
    not_flags: frozenset[str]
    arguments: list[Globs]
    not_arguments: Globs | None
    operands: list[Globs]
    environment: list[Globs]
    keywords: list[Globs]
    paths: frozenset[str]
    tags: frozenset[str]
    stdin: frozenset[str]
    receiver: frozenset[str]

    @classmethod
    def of(cls, rule: str, decision: Decision, reason: str, data: Mapping[str, Any]) -> Self:
        """A matcher from the fields of a rule's ``match``.

        Raises:
            ValueError: a pattern is not one.
        """
        return cls(
            rule,
            decision,
            reason,
            commands=data["command"],
            calls=data["call"],
            effects=data["effect"],
            unknown_command=data["unknown_command"],
            flags=[frozenset(flag.split("|")) for flag in data["flags"]],
            not_flags=frozenset(data["not_flags"]),
            arguments=[compiled([glob]) for glob in data["args"]],
            not_arguments=compiled(data["not_args"]) if data["not_args"] else None,
            operands=[compiled([glob]) for glob in data["operands"]],
            environment=[compiled([glob]) for glob in data["environment"]],
            keywords=[compiled([glob]) for glob in data["keywords"]],
            paths=frozenset(data["paths"]),
            tags=frozenset(data["tags"]),
            stdin=frozenset(data["stdin"]),
            receiver=frozenset(data["receiver"]),
        )

    def meets_command(self, command: Command, seen: Seen) -> bool:
        """Whether a command of one of the rule's names meets the rest of it."""
        return (
            all(flag & seen.flags for flag in self.flags)
            and not self.not_flags & seen.flags
            and self._meets_arguments(seen)
            and (
                not self.stdin
                or (command.stdin is not None and bool(self.stdin & command.stdin.tags))
            )
            and self._meets_environment(command.environment)
        )

    def meets_call(self, call: Call, seen: Seen) -> bool:
        """Whether a call of one of the rule's names meets the rest of it."""
        if self.receiver and not self.receiver & call.receiver:
            return False
        pairs = [f"{name}={value.text[:LONGEST]}" for name, value in call.keywords.items()]
        return self._meets_arguments(seen) and all(
            any(pattern.fullmatch(pair) for pair in pairs) for pattern in self.keywords
        )

    def meets_effect(self, effect: Effect, classes: frozenset[str]) -> bool:
        """Whether an effect of one of the rule's kinds meets the rest of it."""
        return (
            (not self.paths or bool(self.paths & classes))
            and (not self.tags or bool(self.tags & effect.tags))
            and all(flag & effect.flags for flag in self.flags)
            and not self.not_flags & effect.flags
        )

    def _meets_arguments(self, seen: Seen) -> bool:
        if self.operands:
            if len(seen.operands) < len(self.operands):
                return False
            pairs = zip(self.operands, seen.operands, strict=False)
            if not all(pattern.fullmatch(operand) for pattern, operand in pairs):
                return False
        return (
            all(any(map(pattern.fullmatch, seen.words)) for pattern in self.arguments)
            and not (self.not_arguments and any(map(self.not_arguments.fullmatch, seen.words)))
            and (not self.tags or bool(self.tags & seen.tags))
            and (not self.paths or bool(self.paths & seen.classes))
        )

    def _meets_environment(self, environment: Mapping[str, Text]) -> bool:
        if not self.environment:
            return True
        pairs = [f"{name}={value.text[:LONGEST]}" for name, value in environment.items()]
        return all(any(map(pattern.fullmatch, pairs)) for pattern in self.environment)


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
        self._commands = _Names(
            [(glob, matcher) for matcher in matchers for glob in matcher.commands]
        )
        self._calls = _Names([(glob, matcher) for matcher in matchers for glob in matcher.calls])
        self._effects = _Names(
            [(glob, matcher) for matcher in matchers for glob in matcher.effects]
        )
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
            seen = (
                Seen(event.arguments + list(event.keywords.values()), paths, "/workspace")
                if asked
                else None
            )
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
            known = self._plain.get(name, []) + [
                m for glob, m in self._globs if glob.fullmatch(name)
            ]
            if len(self._known) < 4096 and len(name) < 64:
                self._known[name] = known
        return known
