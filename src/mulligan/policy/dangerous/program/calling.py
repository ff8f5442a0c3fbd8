"""Calls of what a program defines itself: its classes, and functions it hands to others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mulligan.policy.dangerous.program import ir
from mulligan.policy.dangerous.program.binding import bind
from mulligan.policy.dangerous.program.scope import Scope
from mulligan.policy.dangerous.program.value import Val, unknown

if TYPE_CHECKING:
    from mulligan.policy.dangerous.program.evaluate import Follower


def construct(follower: Follower, kind: Val, arguments: list[Val], keywords: dict[str, Val]) -> Val:
    """An object of one of the program's classes; JavaScript's are all the class itself."""
    fields = kind.fields or {}
    starter = fields.get("constructor")
    if starter is not None and starter.function is not None:
        follower.call_function(starter.function, arguments, keywords)
        return kind
    made = Val(fields={**fields}, tags=kind.tags)
    starter = fields.get("__init__")
    if starter is not None and starter.function is not None:
        follower.call_function(starter.function, [made, *arguments], keywords)
    else:
        names = [name for name, value in fields.items() if value.function is None]
        given = zip([n for n in names if n not in ("self", "this")], arguments, strict=False)
        made.fields = {**fields, **dict(given), **keywords}
    return made


def apply(follower: Follower, function: Val, item: Val) -> Val:
    """What a function handed to ``map`` makes of one element."""
    if function.function is None:
        return unknown(item.tags)
    node, scope = function.function
    if len(node.body) == 1 and isinstance(node.body[0], ir.Return) and node.parameters:
        follower.judgement.budget.step(4)
        inner = Scope(scope)
        bind(follower, node.parameters[0], item, inner)
        return follower.value(node.body[0].value, inner)
    return follower.call_function(function.function, [item], {})
