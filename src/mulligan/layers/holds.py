"""What a collection of layers has to leave alone."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Hold:
    """Something of a family that must not be collected.

    Attributes:
        family: whose.
        tops: layers; what they are stacked on is meant, too.
        trees: paths in the family's directory.
    """

    family: str
    tops: set[str] = field(default_factory=set)
    trees: set[str] = field(default_factory=set)

    def add(self, other: Hold) -> None:
        """Takes on what another one has."""
        self.tops |= other.tops
        self.trees |= other.trees
