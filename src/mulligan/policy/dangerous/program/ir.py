"""The form that programs of all languages are brought into before they are followed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mulligan.policy.dangerous.program.value import Val

At = tuple[int, int]
"""Where something starts and ends, in bytes."""


class Node:
    """An expression or a statement; the fields of each kind are its slots, in order."""

    __slots__: tuple[str, ...] = ()


class Const(Node):
    """A literal; ``value`` is a str (also of bytes, see ``decode``), number, bool or None."""

    __slots__ = ("known", "value")

    def __init__(self, value: object) -> None:
        self.value = value
        self.known: Val | None = None


class Name(Node):
    """A variable."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Attr(Node):
    """``base.name``."""

    __slots__ = ("base", "name")

    def __init__(self, base: Node, name: str) -> None:
        self.base = base
        self.name = name


class Item(Node):
    """``base[key]``."""

    __slots__ = ("base", "key")

    def __init__(self, base: Node, key: Node) -> None:
        self.base = base
        self.key = key


class Cut(Node):
    """``base[low:high:step]``."""

    __slots__ = ("base", "bounds")

    def __init__(self, base: Node, bounds: list[Node | None]) -> None:
        self.base = base
        self.bounds = bounds


class Call(Node):
    """A call; ``new Thing()`` is one too."""

    __slots__ = ("arguments", "at", "function", "keywords")

    def __init__(
        self, function: Node, arguments: list[Node], keywords: list[tuple[str, Node]], at: At
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.keywords = keywords
        self.at = at


class Join(Node):
    """Parts put together with ``+``, or those of a formatted string."""

    __slots__ = ("parts",)

    def __init__(self, parts: list[Node]) -> None:
        self.parts = parts


class Binary(Node):
    """Another operator with two sides."""

    __slots__ = ("left", "operator", "right")

    def __init__(self, operator: str, left: Node, right: Node) -> None:
        self.operator = operator
        self.left = left
        self.right = right


class Seq(Node):
    """A list, tuple, set or array."""

    __slots__ = ("items",)

    def __init__(self, items: list[Node]) -> None:
        self.items = items


class Map(Node):
    """A dictionary or object."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[Node | None, Node]]) -> None:
        self.pairs = pairs


class Spread(Node):
    """``*value`` and ``...value``."""

    __slots__ = ("value",)

    def __init__(self, value: Node) -> None:
        self.value = value


class Each(Node):
    """``element for target in values``, and ``map`` with a function."""

    __slots__ = ("element", "target", "values")

    def __init__(self, element: Node, target: Node, values: Node) -> None:
        self.element = element
        self.target = target
        self.values = values


class Other(Node):
    """Anything else; ``parts`` are followed, the value is not known."""

    __slots__ = ("parts",)

    def __init__(self, parts: list[Node]) -> None:
        self.parts = parts


class Either(Other):
    """One of some values."""

    __slots__ = ()


class Last(Other):
    """The last of some values, the others worked out before."""

    __slots__ = ()


class Function(Node):
    """A function; ``parameters`` are what its arguments are bound to."""

    __slots__ = ("at", "body", "name", "parameters")

    def __init__(self, name: str, parameters: list[Node], body: list[Node], at: At) -> None:
        self.name = name
        self.parameters = parameters
        self.body = body
        self.at = at


class Class(Node):
    """A class, what is in it, and what it is made from."""

    __slots__ = ("bases", "body", "name")

    def __init__(self, name: str, body: list[Node], bases: list[Node]) -> None:
        self.name = name
        self.bases = bases
        self.body = body


class Assign(Node):
    """``target = value``; ``adds`` says it is ``+=``, ``declares`` that the name is a new one."""

    __slots__ = ("adds", "declares", "target", "value")

    def __init__(
        self, target: Node, value: Node, *, adds: bool = False, declares: bool = False
    ) -> None:
        self.declares = declares
        self.target = target
        self.value = value
        self.adds = adds


class Import(Node):
    """A name bound to a module or to something in one, by its full name."""

    __slots__ = ("name", "path")

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path


class For(Node):
    """A loop over values."""

    __slots__ = ("body", "target", "values")

    def __init__(self, target: Node, values: Node, body: list[Node]) -> None:
        self.target = target
        self.values = values
        self.body = body


class Loop(Node):
    """A loop on a condition; ``endless`` if the condition always holds and nothing leaves it."""

    __slots__ = ("at", "body", "endless", "parts")

    def __init__(self, parts: list[Node], body: list[Node], at: At, *, endless: bool) -> None:
        self.parts = parts
        self.body = body
        self.at = at
        self.endless = endless


class Return(Node):
    """``return value``."""

    __slots__ = ("value",)

    def __init__(self, value: Node) -> None:
        self.value = value


class Block(Node):
    """Statements one after the other, whatever holds them together."""

    __slots__ = ("body",)

    def __init__(self, body: list[Node]) -> None:
        self.body = body


NOTHING: Final = Const(None)
