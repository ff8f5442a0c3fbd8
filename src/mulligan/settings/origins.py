"""Where each setting in force comes from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic_settings import TomlConfigSettingsSource

from mulligan.settings.environment import PREFIX, Environment
from mulligan.settings.settings import Settings, config_file

HIDDEN = "**********"  # as pydantic shows a SecretStr
# The environment of hook commands, which may hold anything.
_KEPT_BACK = re.compile(r"hooks\.commands\..+\.env\..+")
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")


class Origin(NamedTuple):
    """A setting in force.

    Attributes:
        name: with dots between sections, as errors have it.
        value: as JSON has it; secrets are hidden.
        source: "default", "file", "environment" or "argument".
        place: the file, or the variable; None for others.
    """

    name: str
    value: Any
    source: str
    place: str | None


def origins(settings: Settings, given: Mapping[str, object] | None = None) -> list[Origin]:
    """All settings in force, by section, in the order they are declared in.

    Args:
        settings: as they were loaded.
        given: what was given as an argument.
    """
    path = config_file()
    in_file = TomlConfigSettingsSource(Settings, path)() if path is not None else {}
    in_environment = Environment(Settings)()
    arguments = {name: value for name, value in (given or {}).items() if value is not None}
    found = []
    for parts, value in _leaves((), settings.model_dump(mode="json")):
        name = ".".join(parts)
        shown = _shown(name, value)
        if _has(arguments, parts):
            found.append(Origin(name, shown, "argument", None))
        elif _has(in_environment, parts):
            found.append(Origin(name, shown, "environment", _variable(parts)))
        elif _has(in_file, parts):
            found.append(Origin(name, shown, "file", str(path)))
        else:
            found.append(Origin(name, shown, "default", None))
    return found


def _leaves(above: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _leaves((*above, str(name)), each)
    else:
        yield above, value


def _has(source: Any, parts: tuple[str, ...]) -> bool:
    """Whether a source says what a setting is."""
    for part in parts:
        if not isinstance(source, dict):
            return True  # a whole section is given as one value
        if part not in source:
            return False
        source = source[part]
    return True


def _variable(parts: tuple[str, ...]) -> str | None:
    """The variable that sets it, alone or with all of its section."""
    known = {name.upper(): name for name in os.environ}
    for count in range(len(parts), 0, -1):
        name = f"{PREFIX}{'__'.join(parts[:count])}".upper()
        if name in known:
            return known[name]
    return None


def _shown(name: str, value: Any) -> Any:
    if _KEPT_BACK.fullmatch(name):
        return HIDDEN
    return _PASSWORD.sub(f"{HIDDEN}@", value) if isinstance(value, str) else value
