"""Settings from the environment, where names of secrets stay as they were written.

Names of environment variables are taken in any case, and lowered (pydantic-settings). A secret's
name is that of a variable its programs are to find: ``MULLIGAN_SECRETS__API_KEY`` is ``API_KEY``.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

SECRETS = "secrets"
VM_TYPES = "vm_types"
PREFIX = "MULLIGAN_"
# What is read from the environment beside settings, and what hook commands find there.
NO_SETTINGS = ("config", "hook_call", "server", "token", "token_file", "test_microvm")


class Environment(EnvSettingsSource):
    """The environment as a source of settings; where to change it is ``explode_env_vars``.

    Its public method is called for each setting that is a section or a table, with all variables.
    """

    def explode_env_vars(
        self, field_name: str, field: FieldInfo, env_vars: Mapping[str, str | None]
    ) -> dict[str, Any]:
        """Values of a table, by the parts of the variables' names."""
        if field_name == SECRETS:
            return self._secrets()
        if field_name == VM_TYPES:
            env_vars = {_of_type(name): value for name, value in os.environ.items()}
        return super().explode_env_vars(field_name, field, env_vars)

    def _secrets(self) -> dict[str, Any]:
        """Everything after the prefix is the name, also where a delimiter is in it."""
        prefix = f"{self.env_prefix}{SECRETS}{self.env_nested_delimiter}".lower()
        return {
            name[len(prefix) :]: value
            for name, value in os.environ.items()
            if name.lower().startswith(prefix)
        }


def _of_type(name: str) -> str:
    """The name of a variable lowered, but for that of a type's secret in it."""
    match name.split("__"):
        case [table, vm_type, word, secret, *rest] if word.lower() == SECRETS:
            lowered = [part.lower() for part in (table, vm_type, word)]
            return "__".join([*lowered, secret, *(part.lower() for part in rest)])
    return name.lower()


def unknown(known: Iterable[str]) -> dict[str, str | None]:
    """Variables that look like settings and are none, and which each may have been meant to be.

    Args:
        known: names of settings; of those in sections only the section's is looked at here, the
            rest is refused when settings are read.
    """
    names = [each.upper() for each in (*known, *NO_SETTINGS)]
    found: dict[str, str | None] = {}
    for variable in os.environ:
        name = variable.upper().split("__")[0].removeprefix(PREFIX)
        if variable.upper().startswith(PREFIX) and name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            found[variable] = f"{PREFIX}{close[0]}" if close else None
    return found
