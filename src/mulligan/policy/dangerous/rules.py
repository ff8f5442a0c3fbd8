"""Rules as data: what ``rules.toml`` and the settings may say, checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints, ValidationError

from mulligan.errors import ConfigError
from mulligan.languages import LANGUAGES
from mulligan.models.base import Request
from mulligan.policy.dangerous.findings import Decision
from mulligan.policy.dangerous.matching import Index, Matcher
from mulligan.policy.dangerous.paths import Classes

NAME: Final = r"^[a-z0-9][a-z0-9-]*$"
Examples = Annotated[dict[str, list[str]], Field(default_factory=dict)]
Word = Annotated[str, StringConstraints(min_length=1)]
Words = Annotated[list[Word], Field(default_factory=list)]
Id = Annotated[str, StringConstraints(pattern=NAME)]


class MatchData(Request):
    """One way to meet a rule; everything in it has to hold. See ``docs/dangerous-patterns.md``."""

    command: Words
    call: Words
    effect: Words
    unknown_command: bool = False
    flags: Words
    not_flags: Words
    args: Words
    not_args: Words
    operands: Words
    paths: Words
    tags: Words
    stdin: Words
    receiver: Words
    environment: Words
    keywords: Words


class RuleData(Request):
    """A rule as it is written."""

    decision: Decision
    group: Id
    reason: Annotated[str, StringConstraints(min_length=1, max_length=300)]
    languages: list[str] = Field(default_factory=lambda: list(LANGUAGES))
    enabled: bool = True
    match: list[MatchData] = Field(min_length=1)
    matches: Examples
    passes: Examples


class RulesData(Request):
    """A file of rules, or what the settings add to it."""

    paths: dict[str, list[Word]] = Field(default_factory=dict)
    rules: dict[Id, RuleData] = Field(default_factory=dict)


class RuleSet:
    """Rules ready to be used.

    Attributes:
        data: the rules as written, those switched off too.
        paths: the classes of paths they speak of.
    """

    def __init__(self, data: RulesData) -> None:
        self.data = data
        self.paths = _classes(data.paths)
        self._indexes = {
            language: Index(
                [
                    _matcher(name, number, rule, match, self.paths)
                    for name, rule in data.rules.items()
                    if rule.enabled and language in rule.languages
                    for number, match in enumerate(rule.match)
                ]
            )
            for language in LANGUAGES
        }

    def index(self, language: str) -> Index:
        """The rules of a language; one that is not known gets those of Bash."""
        return self._indexes.get(language, self._indexes["bash"])

    def __len__(self) -> int:
        return sum(rule.enabled for rule in self.data.rules.values())


def load_rules(overrides: Mapping[str, Any] | None = None) -> RuleSet:
    """The packaged rules with a user's changes.

    Args:
        overrides: of the form of ``rules.toml``: ``{"rules": {id: {...}}, "paths": {...}}``.
            Fields of a rule that is packaged replace its fields (``{"enabled": False}`` switches
            it off); a rule with a new id is added. A class of paths replaces the packaged one.

    Raises:
        ConfigError: a rule is not one; the text and ``field`` name the rule and the field.
    """
    if not overrides:
        return _packaged()
    return RuleSet(_checked(_merged(overrides)))


@cache
def _packaged() -> RuleSet:
    return RuleSet(_checked(_file()))


@cache
def _file() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("rules.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _merged(overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = {name: dict(table) for name, table in _file().items()}
    for section, table in overrides.items():
        if section not in RulesData.model_fields:
            raise _wrong(section, "is no section of the rules (use rules or paths)")
        if not isinstance(table, Mapping):
            raise _wrong(section, "must be a table")
        for name, value in table.items():
            before = merged[section].get(name)
            if isinstance(before, Mapping) and isinstance(value, Mapping):
                merged[section][name] = {**before, **value}
            else:
                merged[section][name] = value
    return merged


def _checked(data: Mapping[str, Any]) -> RulesData:
    try:
        checked = RulesData.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = [str(part) for part in first["loc"] if part != "[key]"]
        raise _wrong(".".join(where), first["msg"]) from None
    for name, rule in checked.rules.items():
        for field, languages in (
            ("languages", rule.languages),
            ("matches", list(rule.matches)),
            ("passes", list(rule.passes)),
        ):
            for language in languages:
                if language not in LANGUAGES:
                    raise _wrong(f"rules.{name}.{field}", f"{language!r} is no language")
    return checked


def _classes(globs: Mapping[str, list[str]]) -> Classes:
    for name in globs:
        try:
            Classes({name: globs[name]})
        except ValueError as error:
            raise _wrong(f"paths.{name}", str(error)) from None
    return Classes(globs)


def _matcher(name: str, number: int, rule: RuleData, match: MatchData, paths: Classes) -> Matcher:
    where = f"rules.{name}.match.{number}"
    for path_class in match.paths:
        if path_class not in paths:
            raise _wrong(f"{where}.paths", f"there is no class of paths {path_class!r}")
    if not (match.command or match.call or match.effect):
        raise _wrong(where, "needs one of command, call and effect")
    try:
        return Matcher.of(name, rule.decision, rule.reason, match.model_dump())
    except ValueError as error:
        raise _wrong(where, str(error)) from None


def _wrong(field: str, message: str) -> ConfigError:
    message = message[:1].lower() + message[1:]
    return ConfigError(
        f"dangerous pattern rules: {field}: {message}",
        field=field,
        remedy="docs/dangerous-patterns.md shows how a rule is written",
    )
