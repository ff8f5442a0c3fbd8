"""Brings JavaScript into the common form, by tree-sitter."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import tree_sitter_javascript
from tree_sitter import Language, Node

from mulligan.policy.dangerous.program import ir
from mulligan.policy.dangerous.program.tree import TreeReader, below

if TYPE_CHECKING:
    from mulligan.policy.dangerous.budget import Budget
    from mulligan.policy.dangerous.findings import Source

LANGUAGE: Final = Language(tree_sitter_javascript.language())

_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|([0-7]{1,3})|(\r\n|[\s\S]))"
)
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_NUMBER = re.compile(
    r"0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d{1,3})?"
)
_FUNCTIONS: Final = frozenset({
    "function_declaration", "generator_function_declaration", "function_expression",
    "arrow_function", "generator_function", "method_definition", "function",
})  # fmt: skip
_LEAVES: Final = frozenset({
    "break_statement", "return_statement", "throw_statement", "await_expression",
    "yield_expression",
})  # fmt: skip


def read(source: Source, budget: Budget) -> list[ir.Node]:
    """The statements of a program; what does not parse is read as far as it can be.

    Raises:
        TooHardError: too large, or nested too deep.
    """
    reader = _Reader(source, LANGUAGE, budget)
    return reader.statements(reader.root.named_children)


def unescaped(text: str) -> str:
    """A string's text, its escapes replaced."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(_one, text)


def _one(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code:
        number = int(code, 16)
        return chr(number) if number < 0xD800 or 0xE010 < number < 0x110000 else "?"
    if match[4]:
        return chr(int(match[4], 8))
    return "" if match[5] in ("\n", "\r\n") else _LETTERS.get(match[5], match[5])


def number(text: str) -> object:
    """A number's value; None if it is none that matters."""
    text = text.replace("_", "").rstrip("n")
    if not _NUMBER.fullmatch(text) or len(text) > 30:
        return None
    try:
        return int(text, 0)
    except ValueError:
        value = float(text)
        return int(value) if value.is_integer() and value < 1e18 else value


class _Reader(TreeReader):
    def statements(self, nodes: list[Node]) -> list[ir.Node]:
        """Statements and expressions, in order."""
        return [self.read(node) for node in nodes if node.type != "comment"]

    def read(self, node: Node) -> ir.Node:
        """One statement or expression."""
        self.budget.enter()
        handler = _HANDLERS.get(node.type)
        if handler is not None:
            found = handler(self, node)
        else:
            found = ir.Other(self.statements(node.named_children))
        self.budget.leave()
        return found

    def field(self, node: Node, name: str) -> ir.Node:
        """A field's expression, nothing where there is none."""
        child = node.child_by_field_name(name)
        return ir.NOTHING if child is None else self.read(child)

    def _block(self, node: Node) -> ir.Node:
        return ir.Block(self.statements(node.named_children))

    def _inner(self, node: Node) -> ir.Node:
        children = [child for child in node.named_children if child.type != "comment"]
        return self.read(children[-1]) if children else ir.NOTHING

    def _name(self, node: Node) -> ir.Node:
        return ir.Name(self.raw(node))

    def _string(self, node: Node) -> ir.Node:
        return ir.Const(unescaped(self.raw(node)[1:-1]))

    def _template(self, node: Node) -> ir.Node:
        parts: list[ir.Node] = [ir.Const("")]
        at = node.start_byte + 1
        for child in node.named_children:
            if child.type == "template_substitution":
                parts.append(self._between(at, child.start_byte))
                parts.append(self._inner(child))
                at = child.end_byte
        parts.append(self._between(at, node.end_byte - 1))
        return ir.Join(parts)

    def _between(self, start: int, end: int) -> ir.Node:
        return ir.Const(unescaped(self._data[start:end].decode(errors="replace")))

    def _number(self, node: Node) -> ir.Node:
        return ir.Const(number(self.raw(node)))

    def _true(self, _node: Node) -> ir.Node:
        return ir.Const(value=True)

    def _false(self, _node: Node) -> ir.Node:
        return ir.Const(value=False)

    def _member(self, node: Node) -> ir.Node:
        name = node.child_by_field_name("property")
        return ir.Attr(self.field(node, "object"), self.raw(name) if name else "")

    def _subscript(self, node: Node) -> ir.Node:
        return ir.Item(self.field(node, "object"), self.field(node, "index"))

    def _call(self, node: Node) -> ir.Node:
        function = self.field(node, "function")
        arguments = node.child_by_field_name("arguments")
        if arguments is None:
            given: list[ir.Node] = []
        elif arguments.type == "template_string":
            given = [self._template(arguments)]
            function = ir.Attr(function, "`")
        else:
            given = self.statements(arguments.named_children)
        return ir.Call(function, given, [], self.at(node))

    def _new(self, node: Node) -> ir.Node:
        arguments = node.child_by_field_name("arguments")
        given = self.statements(arguments.named_children) if arguments is not None else []
        return ir.Call(self.field(node, "constructor"), given, [], self.at(node))

    def _binary(self, node: Node) -> ir.Node:
        """``a + b + c`` is nested to the left, as deep as it is long."""
        operator = self._operator(node)
        if operator != "+":
            left, right = self.field(node, "left"), self.field(node, "right")
            if operator in ("||", "&&", "??"):
                return ir.Either([left, right])
            return ir.Binary(operator, left, right)
        parts = []
        current: Node | None = node
        while current is not None and current.type == "binary_expression":
            if self._operator(current) != "+":
                break
            parts.append(self.field(current, "right"))
            current = current.child_by_field_name("left")
        if current is not None:
            parts.append(self.read(current))
        return ir.Join(parts[::-1])

    def _unary(self, node: Node) -> ir.Node:
        if self._operator(node) == "-":
            return ir.Binary("-", ir.Const(0), self.field(node, "argument"))
        return ir.Other([self.field(node, "argument")])

    def _operator(self, node: Node) -> str:
        operator = node.child_by_field_name("operator")
        return self.raw(operator) if operator is not None else ""

    def _array(self, node: Node) -> ir.Node:
        return ir.Seq(self.statements(node.named_children))

    def _object(self, node: Node) -> ir.Node:
        pairs: list[tuple[ir.Node | None, ir.Node]] = []
        for child in node.named_children:
            if child.type in ("pair", "pair_pattern"):
                key = child.child_by_field_name("key")
                pairs.append((self._key(key), self.field(child, "value")))
            elif child.type.startswith("shorthand_property"):
                name = self.raw(child)
                pairs.append((ir.Const(name), ir.Name(name)))
            elif child.type != "comment":
                pairs.append((None, self.read(child)))
        return ir.Map(pairs)

    def _key(self, node: Node | None) -> ir.Node | None:
        if node is None:
            return None
        if node.type in ("string", "computed_property_name"):
            return self.read(node)
        return ir.Const(self.raw(node))

    def _sequence(self, node: Node) -> ir.Node:
        return ir.Last(self.statements(node.named_children) or [ir.NOTHING])

    def _spread(self, node: Node) -> ir.Node:
        return ir.Spread(self._inner(node))

    def _either(self, node: Node) -> ir.Node:
        test = ir.Other([self.field(node, "condition")])
        return ir.Either([test, self.field(node, "consequence"), self.field(node, "alternative")])

    def _function(self, node: Node) -> ir.Node:
        name_node = node.child_by_field_name("name")
        name = self.raw(name_node) if name_node is not None else ""
        several = node.child_by_field_name("parameters") or node.child_by_field_name("parameter")
        parameters: list[ir.Node] = []
        if several is not None:
            given = several.named_children if several.type == "formal_parameters" else [several]
            parameters = self.statements(given)
        body_node = node.child_by_field_name("body")
        if body_node is None:
            body: list[ir.Node] = []
        elif body_node.type == "statement_block":
            body = self.statements(body_node.named_children)
        else:
            body = [ir.Return(self.read(body_node))]
        function = ir.Function(name, parameters, body, self.at(node))
        if name:
            return ir.Assign(ir.Name(name), function)
        return function

    def _class(self, node: Node) -> ir.Node:
        name = node.child_by_field_name("name")
        body = node.child_by_field_name("body")
        inside = self.statements(body.named_children) if body is not None else []
        bases = [
            self.read(child) for child in node.named_children if child.type == "class_heritage"
        ]
        return ir.Class(self.raw(name) if name is not None else "", inside, bases)

    def _class_field(self, node: Node) -> ir.Node:
        name = node.child_by_field_name("property")
        return ir.Assign(ir.Name(self.raw(name) if name else ""), self.field(node, "value"))

    def _declarator(self, node: Node) -> ir.Node:
        return ir.Assign(self.field(node, "name"), self.field(node, "value"), declares=True)

    def _assignment(self, node: Node) -> ir.Node:
        return ir.Assign(self.field(node, "left"), self.field(node, "right"))

    def _augmented(self, node: Node) -> ir.Node:
        value = self.field(node, "right")
        adds = self._operator(node) == "+="
        return ir.Assign(self.field(node, "left"), value if adds else ir.Other([value]), adds=adds)

    def _default(self, node: Node) -> ir.Node:
        return ir.Assign(self.field(node, "left"), self.field(node, "right"))

    def _import(self, node: Node) -> ir.Node:
        source = node.child_by_field_name("source")
        path = unescaped(self.raw(source)[1:-1]) if source is not None else ""
        bound: list[ir.Node] = []
        for child in below(node):
            if child.type == "identifier" and child.parent and child.parent.type in (
                "import_clause", "namespace_import"
            ):  # fmt: skip
                bound.append(ir.Import(self.raw(child), path))
            elif child.type == "import_specifier":
                name = child.child_by_field_name("name")
                alias = child.child_by_field_name("alias") or name
                if name is not None and alias is not None:
                    bound.append(ir.Import(self.raw(alias), f"{path}.{self.raw(name)}"))
        return ir.Block(bound)

    def _for_in(self, node: Node) -> ir.Node:
        body = node.child_by_field_name("body")
        inside = self.statements([body]) if body is not None else []
        return ir.For(self.field(node, "left"), self.field(node, "right"), inside)

    def _loop(self, node: Node) -> ir.Node:
        body = node.child_by_field_name("body")
        condition = node.child_by_field_name("condition")
        text = self.raw(condition).strip("(); \n") if condition is not None else ""
        endless = text in ("true", "1", "!0", "") and not (
            body is None or any(child.type in _LEAVES for child in [body, *below(body)])
        )
        parts = [
            self.read(child)
            for child in node.named_children
            if child != body and child.type != "comment"
        ]
        return ir.Loop(
            parts, self.statements([body] if body else []), self.at(node), endless=endless
        )

    def _return(self, node: Node) -> ir.Node:
        return ir.Return(self._inner(node))


Handler = Callable[[_Reader, Node], ir.Node]

_HANDLERS: Final[dict[str, Handler]] = {
    **dict.fromkeys(("statement_block", "lexical_declaration", "variable_declaration", "program",
                     "class_static_block", "export_statement", "if_statement", "else_clause",
                     "try_statement", "catch_clause", "finally_clause", "labeled_statement",
                     "switch_body", "switch_case", "switch_default", "switch_statement"),
                    _Reader._block),
    **dict.fromkeys(("parenthesized_expression", "await_expression", "expression_statement",
                     "computed_property_name"), _Reader._inner),
    **dict.fromkeys(("identifier", "shorthand_property_identifier_pattern", "this", "import",
                     "property_identifier", "private_property_identifier", "super"), _Reader._name),
    "string": _Reader._string,
    "template_string": _Reader._template,
    "number": _Reader._number,
    "true": _Reader._true,
    "false": _Reader._false,
    "member_expression": _Reader._member,
    "subscript_expression": _Reader._subscript,
    "call_expression": _Reader._call,
    "new_expression": _Reader._new,
    "binary_expression": _Reader._binary,
    "unary_expression": _Reader._unary,
    "array": _Reader._array,
    "array_pattern": _Reader._array,
    "object": _Reader._object,
    "object_pattern": _Reader._object,
    "sequence_expression": _Reader._sequence,
    "spread_element": _Reader._spread,
    "rest_pattern": _Reader._spread,
    "ternary_expression": _Reader._either,
    **dict.fromkeys(_FUNCTIONS, _Reader._function),
    "class_declaration": _Reader._class,
    "class": _Reader._class,
    "field_definition": _Reader._class_field,
    "variable_declarator": _Reader._declarator,
    "assignment_expression": _Reader._assignment,
    "augmented_assignment_expression": _Reader._augmented,
    "assignment_pattern": _Reader._default,
    "object_assignment_pattern": _Reader._default,
    "import_statement": _Reader._import,
    "for_in_statement": _Reader._for_in,
    **dict.fromkeys(("while_statement", "for_statement", "do_statement"), _Reader._loop),
    "return_statement": _Reader._return,
}  # fmt: skip
