"""What is known of a value while a program is followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mulligan.policy.dangerous.values import NO_TAGS, UNKNOWN, Text

if TYPE_CHECKING:
    from mulligan.policy.dangerous.program import ir
    from mulligan.policy.dangerous.program.scope import Scope


class Val:
    """A value, as far as it is known.

    Attributes:
        text: what it is as a text, None if it is none; parts can be unknown.
        number: its number, None if it is none.
        items: its elements, if it is a list.
        fields: its attributes or entries by name, if it is an object or a dictionary.
        ref: full name of the library's thing it is ("os.system", "socket.socket()").
        function: the program's function it is, with the scope it sees.
        path: path of the file it is.
        tags: where it comes from; see ``values.Text``.
    """

    __slots__ = ("fields", "function", "items", "number", "path", "ref", "tags", "text")

    def __init__(
        self,
        text: str | None = None,
        *,
        tags: frozenset[str] = NO_TAGS,
        ref: str | None = None,
        items: list[Val] | None = None,
        number: float | None = None,
        function: tuple[ir.Function, Scope] | None = None,
        fields: dict[str, Val] | None = None,
        path: str | None = None,
    ) -> None:
        self.text = text
        self.tags = tags
        self.ref = ref
        self.items = items
        self.number = number
        self.function = function
        self.fields = fields
        self.path = path

    def as_text(self) -> Text:
        """The value as it would be printed, unknown where it is not known."""
        if self.text is not None:
            return Text(self.text, self.all_tags())
        if self.number is not None:
            return Text(str(self.number), self.tags)
        if self.ref is not None and self.path is not None:
            return Text(self.path, self.tags)
        return Text(UNKNOWN, self.all_tags())

    def all_tags(self) -> frozenset[str]:
        """The tags of the value and of what is in it, three levels deep."""
        return _tags(self, 3)

    def truth(self) -> bool | None:
        """Whether it counts as true; None if that is not known."""
        if self.number is not None:
            return bool(self.number)
        return None


def _tags(value: Val, levels: int) -> frozenset[str]:
    tags = value.tags
    if levels:
        for inner in (value.items or [])[:32]:
            tags |= _tags(inner, levels - 1)
        for inner in list((value.fields or {}).values())[:32]:
            tags |= _tags(inner, levels - 1)
    return tags


def unknown(tags: frozenset[str] = NO_TAGS) -> Val:
    """A value nothing is known of but its tags."""
    return Val(tags=tags)


def of_constant(value: object) -> Val:
    """The value of a literal."""
    if isinstance(value, str):
        return Val(value)
    if isinstance(value, bool | int | float):
        return Val(number=value)
    return Val()


def merged(values: list[Val]) -> Val:
    """One of some values: the first of which something is known, with the tags of all."""
    tags = tags_of(values)
    for value in values:
        if (
            value.text is not None
            or value.ref is not None
            or value.items is not None
            or value.function
        ):
            if tags <= value.tags:
                return value
            return Val(
                value.text, tags=tags, ref=value.ref, items=value.items, number=value.number,
                function=value.function, fields=value.fields, path=value.path,
            )  # fmt: skip
    return next(
        (v for v in values if v.fields is not None or v.number is not None), None
    ) or unknown(tags)


def tags_of(values: list[Val]) -> frozenset[str]:
    """The tags of all of some values."""
    tags = NO_TAGS
    for value in values:
        tags |= value.all_tags()
    return tags
