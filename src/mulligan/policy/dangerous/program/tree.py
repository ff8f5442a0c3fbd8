"""What readers on tree-sitter's trees have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tree_sitter import Language, Node

from mulligan.policy.dangerous.trees import parsed

if TYPE_CHECKING:
    from mulligan.policy.dangerous.budget import Budget
    from mulligan.policy.dangerous.findings import Source
    from mulligan.policy.dangerous.program import ir


class TreeReader:
    """A source, its tree, and the bounds of reading it."""

    def __init__(self, source: Source, language: Language, budget: Budget) -> None:
        """Parses the source.

        Raises:
            TooHardError: it is too large, or takes too long.
        """
        self._data = source.data
        self.budget = budget
        self.root = parsed(source.data, language, budget)

    def raw(self, node: Node) -> str:
        """The text of a node."""
        return self._data[node.start_byte : node.end_byte].decode(errors="replace")

    @staticmethod
    def at(node: Node) -> ir.At:
        """The place of a node."""
        return node.start_byte, node.end_byte


def below(node: Node, most: int = 4000) -> list[Node]:
    """The nodes below a node, itself left out, without recursion; at most ``most``."""
    found: list[Node] = []
    waiting = list(node.named_children)
    while waiting and len(found) < most:
        current = waiting.pop()
        found.append(current)
        waiting.extend(current.named_children)
    return found
