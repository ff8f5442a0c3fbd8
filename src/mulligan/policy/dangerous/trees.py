"""Syntax trees by tree-sitter, within a judgement's bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tree_sitter import Language, Node, Parser

from mulligan.policy.dangerous.budget import TooHardError

if TYPE_CHECKING:
    from mulligan.policy.dangerous.budget import Budget

MOST_NODES: Final = 80_000
_SMALL: Final = 2048  # bytes no grammar takes long for
_PIECE: Final = 65536


def parsed(data: bytes, language: Language, budget: Budget) -> Node:
    """The root of the tree of some code.

    Raises:
        TooHardError: out of time, or more than ``MOST_NODES`` nodes.
    """
    parser = Parser(language)  # one that was stopped keeps what it had, so each is used once
    if len(data) <= _SMALL:
        return parser.parse(data).root_node
    try:
        tree = parser.parse(
            lambda offset, _point: data[offset : offset + _PIECE],
            progress_callback=lambda _offset, _failed: budget.late(),
        )
    except ValueError:  # it was stopped
        raise TooHardError("takes too long to judge") from None
    if tree.root_node.descendant_count > MOST_NODES:
        raise TooHardError("is too large to judge")
    return tree.root_node
