"""Brings Rust into the common form, by tree-sitter: calls, and what they are given."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import tree_sitter_rust
from tree_sitter import Language, Node

from mulligan.policy.dangerous.program import ir
from mulligan.policy.dangerous.program.javascript import number, unescaped
from mulligan.policy.dangerous.program.tree import TreeReader, below

if TYPE_CHECKING:
    from mulligan.policy.dangerous.budget import Budget
    from mulligan.policy.dangerous.findings import Source

LANGUAGE: Final = Language(tree_sitter_rust.language())
_LEAVES: Final = frozenset({"break_expression", "return_expression", "try_expression"})
_RAW = re.compile(r'b?r?(#*)"(.*)"\1', re.DOTALL)


def read(source: Source, budget: Budget) -> list[ir.Node]:
    """The items of a program.

    Raises:
        TooHardError: too large, or nested too deep.
    """
    reader = _Reader(source, LANGUAGE, budget)
    return reader.statements(reader.root.named_children)


class _Reader(TreeReader):
    def statements(self, nodes: list[Node]) -> list[ir.Node]:
        """Items, statements and expressions, in order."""
        return [self.read(node) for node in nodes if not node.type.endswith("comment")]

    def read(self, node: Node) -> ir.Node:
        """One of them."""
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
        children = node.named_children
        return self.read(children[-1]) if children else ir.NOTHING

    def _value(self, node: Node) -> ir.Node:
        return self.field(node, "value")

    def _name(self, node: Node) -> ir.Node:
        return ir.Name(self.raw(node))

    def _path(self, node: Node) -> ir.Node:
        parts = [part.strip() for part in re.sub(r"<[^<>]*>", "", self.raw(node)).split("::")]
        found: ir.Node = ir.Name(parts[0])
        for part in [part for part in parts[1:] if part][:8]:
            found = ir.Attr(found, part)
        return found

    def _string(self, node: Node) -> ir.Node:
        text = self.raw(node)
        match = _RAW.fullmatch(text)
        inside = match[2] if match else text.strip('"')
        return ir.Const(inside if text.startswith(("r", "br")) else unescaped(inside))

    def _number(self, node: Node) -> ir.Node:
        return ir.Const(number(re.sub(r"_?[iu](?:8|16|32|64|128|size)$", "", self.raw(node))))

    def _call(self, node: Node) -> ir.Node:
        arguments = node.child_by_field_name("arguments")
        given = self.statements(arguments.named_children) if arguments is not None else []
        return ir.Call(self.field(node, "function"), given, [], self.at(node))

    def _member(self, node: Node) -> ir.Node:
        name = node.child_by_field_name("field")
        return ir.Attr(self.field(node, "value"), self.raw(name) if name is not None else "")

    def _sequence(self, node: Node) -> ir.Node:
        return ir.Seq(self.statements(node.named_children))

    def _macro(self, node: Node) -> ir.Node:
        """``format!("..{}..", a)`` gives a text, ``vec!`` a list; others are followed only."""
        name = node.child_by_field_name("macro")
        tokens = node.named_children[-1]
        parts = self.statements(tokens.named_children)
        called = self.raw(name) if name is not None else ""
        if called == "vec":
            return ir.Seq(parts)
        if called in ("format", "concat") and parts and isinstance(parts[0], ir.Const):
            pieces = re.split(r"\{[^{}]*\}", str(parts[0].value))
            joined: list[ir.Node] = [ir.Const(pieces[0])]
            for at, piece in enumerate(pieces[1:], 1):
                joined += [parts[at] if at < len(parts) else ir.Other([]), ir.Const(piece)]
            return ir.Join(joined)
        return ir.Other(parts)

    def _let(self, node: Node) -> ir.Node:
        return ir.Assign(self.field(node, "pattern"), self.field(node, "value"))

    def _constant(self, node: Node) -> ir.Node:
        name = node.child_by_field_name("name")
        return ir.Assign(ir.Name(self.raw(name) if name else ""), self.field(node, "value"))

    def _function(self, node: Node) -> ir.Node:
        name_node = node.child_by_field_name("name")
        name = self.raw(name_node) if name_node is not None else ""
        parameters = node.child_by_field_name("parameters")
        bound: list[ir.Node] = []
        for child in parameters.named_children if parameters is not None else []:
            pattern = child.child_by_field_name("pattern")
            bound.append(self.read(pattern if pattern is not None else child))
        body = node.child_by_field_name("body")
        inside = self.statements([body]) if body is not None else []
        function = ir.Function(name, bound, inside, self.at(node))
        return ir.Assign(ir.Name(name), function) if name else function

    def _use(self, node: Node) -> ir.Node:
        text = re.sub(r"\s+", " ", self.raw(node))[3:].strip(" ;")
        bound: list[ir.Node] = []
        for path in _paths(text)[:200]:
            full, _, alias = path.partition(" as ")
            parts = [part.strip() for part in full.split("::") if part.strip()]
            if parts and parts[-1] == "self":
                parts.pop()
            if parts:
                bound.append(ir.Import(alias.strip() or parts[-1], ".".join(parts)))
        return ir.Block(bound)

    def _for(self, node: Node) -> ir.Node:
        body = node.child_by_field_name("body")
        inside = self.statements([body]) if body is not None else []
        return ir.For(self.field(node, "pattern"), self.field(node, "value"), inside)

    def _loop(self, node: Node) -> ir.Node:
        body = node.child_by_field_name("body")
        condition = node.child_by_field_name("condition")
        always = condition is None or self.raw(condition) == "true"
        leaves = body is None or any(child.type in _LEAVES for child in below(body))
        parts = [self.read(condition)] if condition is not None else []
        inside = self.statements([body]) if body is not None else []
        return ir.Loop(parts, inside, self.at(node), endless=always and not leaves)


def _paths(text: str) -> list[str]:
    """The paths of a ``use``, its braces taken apart; two levels, as deep as anybody writes."""
    before, brace, rest = text.partition("{")
    if not brace:
        return [text]
    inside = rest.rpartition("}")[0]
    found, depth, start = [], 0, 0
    for at, character in enumerate(inside + ","):
        depth += (character == "{") - (character == "}")
        if character == "," and depth == 0:
            part = inside[start:at].strip()
            nested = part.partition("{")
            if nested[1]:
                leaves = nested[2].rpartition("}")[0].split(",")
                found += [before + nested[0] + leaf.strip() for leaf in leaves if leaf.strip()]
            elif part:
                found.append(before + part)
            start = at + 1
    return found


Handler = Callable[[_Reader, Node], ir.Node]

_HANDLERS: Final[dict[str, Handler]] = {
    **dict.fromkeys(("block", "mod_item", "declaration_list", "impl_item", "trait_item",
                     "unsafe_block", "async_block", "if_expression", "match_block",
                     "expression_statement_", "source_file"), _Reader._block),
    **dict.fromkeys(("parenthesized_expression", "expression_statement", "try_expression",
                     "await_expression", "unary_expression", "mut_pattern"), _Reader._inner),
    **dict.fromkeys(("reference_expression", "type_cast_expression"), _Reader._value),
    **dict.fromkeys(("identifier", "self", "field_identifier"), _Reader._name),
    **dict.fromkeys(("scoped_identifier", "generic_function"), _Reader._path),
    **dict.fromkeys(("string_literal", "raw_string_literal"), _Reader._string),
    "integer_literal": _Reader._number,
    "call_expression": _Reader._call,
    "field_expression": _Reader._member,
    "array_expression": _Reader._sequence,
    "tuple_expression": _Reader._sequence,
    "macro_invocation": _Reader._macro,
    "let_declaration": _Reader._let,
    "const_item": _Reader._constant,
    "static_item": _Reader._constant,
    "function_item": _Reader._function,
    "closure_expression": _Reader._function,
    "use_declaration": _Reader._use,
    "for_expression": _Reader._for,
    "loop_expression": _Reader._loop,
    "while_expression": _Reader._loop,
}  # fmt: skip
