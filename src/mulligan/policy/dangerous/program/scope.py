"""Names and the values they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mulligan.policy.dangerous.program.value import Val


class Scope:
    """The names of a function or module, and the scope around it."""

    __slots__ = ("_names", "_outer")

    def __init__(self, outer: Scope | None = None) -> None:
        self._names: dict[str, Val] = {}
        self._outer = outer

    def get(self, name: str) -> Val | None:
        """A name's value, looked up outwards."""
        scope: Scope | None = self
        while scope is not None:
            value = scope._names.get(name)
            if value is not None:
                return value
            scope = scope._outer
        return None

    def set(self, name: str, value: Val) -> None:
        """Binds a name here."""
        self._names[name] = value

    def set_where_bound(self, name: str, value: Val) -> None:
        """Binds a name in the scope that has it, here if none has."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope._names:
                scope._names[name] = value
                return
            scope = scope._outer
        self._names[name] = value

    def own(self) -> dict[str, Val]:
        """The names bound here."""
        return self._names
