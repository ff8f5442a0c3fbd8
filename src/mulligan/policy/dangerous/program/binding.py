"""Assignment: names, attributes and entries get values, patterns are taken apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.program import ir
from mulligan.policy.dangerous.program.value import Val, unknown

if TYPE_CHECKING:
    from mulligan.policy.dangerous.program.evaluate import Follower
    from mulligan.policy.dangerous.program.scope import Scope

_ELEMENTS: Final = 4096


def bind(follower: Follower, target: ir.Node, value: Val, scope: Scope) -> None:
    """``target = value``, taken apart where it has several names."""
    if isinstance(target, ir.Name):
        scope.set(target.name, value)
    elif isinstance(target, ir.Assign):
        bind(follower, target.target, value, scope)
    elif isinstance(target, ir.Attr):
        _bind_attribute(follower, target, value, scope)
    elif isinstance(target, ir.Item):
        _bind_item(follower, target, value, scope)
    elif isinstance(target, ir.Seq):
        for at, part in enumerate(target.items):
            inner = value.items[at] if value.items and at < len(value.items) else None
            bind(follower, part, inner or unknown(value.tags), scope)
    elif isinstance(target, ir.Map):
        for key, part in target.pairs:
            name = str(key.value) if isinstance(key, ir.Const) else ""
            bind(follower, part, follower.attribute(value, name), scope)
    elif isinstance(target, ir.Spread):
        bind(follower, target.value, unknown(value.tags), scope)


def _bind_item(follower: Follower, target: ir.Item, value: Val, scope: Scope) -> None:
    key = follower.value(target.key, scope).text
    base = follower.value(target.base, scope)
    if base.ref is not None:
        return
    if base.fields is None:
        base.fields = {}
    if key is not None and len(base.fields) < _ELEMENTS:
        base.fields[key] = value


def _bind_attribute(follower: Follower, target: ir.Attr, value: Val, scope: Scope) -> None:
    base = follower.value(target.base, scope)
    if base.ref is not None:
        return
    if base.fields is None:
        base.fields = {}
    if len(base.fields) < _ELEMENTS:
        base.fields[target.name] = value
