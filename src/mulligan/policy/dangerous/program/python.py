"""Brings Python into the common form, by the interpreter's own parser."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from mulligan.policy.dangerous import decode
from mulligan.policy.dangerous.budget import DEPTH, TooHardError
from mulligan.policy.dangerous.program import ir
from mulligan.policy.dangerous.program.parse import guard, parsed

if TYPE_CHECKING:
    from mulligan.policy.dangerous.budget import Budget
    from mulligan.policy.dangerous.findings import Source


def read(source: Source, budget: Budget) -> list[ir.Node]:
    """The statements of a program. What does not parse is read without the lines at fault.

    Raises:
        TooHardError: nested too deep.
    """
    text = source.data.decode(errors="replace")
    guard(source.data)
    tree = parsed(text, budget)
    return _Reader(source, budget).statements(tree.body)


class _Reader:
    def __init__(self, source: Source, budget: Budget) -> None:
        self._starts = [0, *(match.end() for match in re.finditer(b"\r\n|\n|\r", source.data))]
        self._end = len(source.data)
        self._budget = budget
        self._depth = 0

    def _at(self, node: ast.expr | ast.stmt) -> ir.At:
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno or node.lineno, node.end_col_offset or 0),
        )

    def _offset(self, line: int, column: int) -> int:
        return min(self._starts[min(line, len(self._starts)) - 1] + column, self._end)

    # Statements

    def statements(self, nodes: list[ast.stmt]) -> list[ir.Node]:
        """Statements, and what is in them."""
        self._budget.enter()
        found: list[ir.Node] = []
        for node in nodes:
            handler = _STATEMENTS.get(type(node))
            if handler is not None:
                found.extend(handler(self, node))
            else:
                found.extend(self._any_statement(node))
        self._budget.leave()
        return found

    def _any_statement(self, node: ast.stmt) -> list[ir.Node]:
        """Conditions, ``with``, ``try``, ``match``: everything in them, in order."""
        found: list[ir.Node] = []
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.expr):
                found.append(self.expression(value))
            elif isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                found.extend(self.statements(value))
            elif isinstance(value, list) and name in ("handlers", "cases"):
                for case in value:
                    found.extend(self.statements(case.body))
            elif isinstance(value, list):
                found.extend(self.expression(v) for v in value if isinstance(v, ast.expr))
        return found

    def _if(self, node: ast.If) -> list[ir.Node]:
        """``elif`` is nested as deep as there are many."""
        found: list[ir.Node] = []
        current: ast.If | None = node
        while current is not None:
            found.append(self.expression(current.test))
            found.extend(self.statements(current.body))
            following = current.orelse
            current = None
            if len(following) == 1 and isinstance(following[0], ast.If):
                current = following[0]
            else:
                found.extend(self.statements(following))
        return found

    def _with(self, node: ast.With | ast.AsyncWith) -> list[ir.Node]:
        found: list[ir.Node] = []
        for item in node.items:
            value = self.expression(item.context_expr)
            if item.optional_vars is not None:
                found.append(ir.Assign(self.expression(item.optional_vars), value))
            else:
                found.append(value)
        return found + self.statements(node.body)

    def _assign(self, node: ast.Assign) -> list[ir.Node]:
        value = self.expression(node.value)
        return [ir.Assign(self.expression(target), value) for target in node.targets]

    def _annotated(self, node: ast.AnnAssign) -> list[ir.Node]:
        if node.value is None:
            return [ir.Assign(self.expression(node.target), ir.Other([]))]
        return [ir.Assign(self.expression(node.target), self.expression(node.value))]

    def _augmented(self, node: ast.AugAssign) -> list[ir.Node]:
        value = self.expression(node.value)
        adds = isinstance(node.op, ast.Add)
        return [
            ir.Assign(self.expression(node.target), value if adds else ir.Other([value]), adds=adds)
        ]

    def _import(self, node: ast.Import) -> list[ir.Node]:
        return [
            ir.Import(alias.asname, alias.name)
            if alias.asname
            else ir.Import(alias.name.partition(".")[0], alias.name.partition(".")[0])
            for alias in node.names
        ]

    def _import_from(self, node: ast.ImportFrom) -> list[ir.Node]:
        module = "." * node.level + (node.module or "")
        return [
            ir.Import(alias.asname or alias.name, f"{module}.{alias.name}") for alias in node.names
        ]

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ir.Node]:
        decorators = [self.expression(decorator) for decorator in node.decorator_list]
        defaults = [self.expression(value) for value in node.args.defaults]
        function = ir.Function(
            node.name, self._parameters(node.args), self.statements(node.body), self._at(node)
        )
        return [*decorators, *defaults, ir.Assign(ir.Name(node.name), function)]

    def _parameters(self, arguments: ast.arguments) -> list[ir.Node]:
        plain = [ir.Name(a.arg) for a in (*arguments.posonlyargs, *arguments.args)]
        defaults = [self.expression(value) for value in arguments.defaults]
        named: list[ir.Node] = [*plain]
        for at, default in enumerate(defaults, len(plain) - len(defaults)):
            named[at] = ir.Assign(plain[at], default)
        if arguments.vararg:
            named.append(ir.Spread(ir.Name(arguments.vararg.arg)))
        named.extend(ir.Name(a.arg) for a in arguments.kwonlyargs)
        return named

    def _class(self, node: ast.ClassDef) -> list[ir.Node]:
        bases = [self.expression(base) for base in node.bases]
        return [ir.Class(node.name, self.statements(node.body), bases)]

    def _for(self, node: ast.For | ast.AsyncFor) -> list[ir.Node]:
        loop = ir.For(
            self.expression(node.target), self.expression(node.iter), self.statements(node.body)
        )
        return [loop, *self.statements(node.orelse)]

    def _while(self, node: ast.While) -> list[ir.Node]:
        always = isinstance(node.test, ast.Constant) and bool(node.test.value)
        leaves = any(
            isinstance(inner, ast.Break | ast.Return | ast.Raise | ast.Yield | ast.Await)
            for statement in node.body
            for inner in ast.walk(statement)
        ) if always else True  # fmt: skip
        test = self.expression(node.test)
        body = self.statements(node.body)
        return [
            ir.Loop([test], body, self._at(node), endless=not leaves),
            *self.statements(node.orelse),
        ]

    def _return(self, node: ast.Return) -> list[ir.Node]:
        return [ir.Return(self.expression(node.value))] if node.value is not None else []

    def _expression_statement(self, node: ast.Expr) -> list[ir.Node]:
        return [self.expression(node.value)]

    # Expressions

    def expression(self, node: ast.expr) -> ir.Node:
        """An expression, and what is in it."""
        self._depth += 1
        if self._depth > DEPTH:
            raise TooHardError("is nested too deep to judge")
        handler = _EXPRESSIONS.get(type(node))
        found = handler(self, node) if handler is not None else self._any(node)
        self._depth -= 1
        return found

    def _any(self, node: ast.AST) -> ir.Node:
        parts = []
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                parts.append(self.expression(child))
            elif isinstance(child, ast.comprehension | ast.keyword):
                parts.append(self._any(child))
        return ir.Other(parts)

    def _constant(self, node: ast.Constant) -> ir.Node:
        value = node.value
        return ir.Const(decode.text_of(value) if isinstance(value, bytes) else value)

    def _name(self, node: ast.Name) -> ir.Node:
        return ir.Name(node.id)

    def _attribute(self, node: ast.Attribute) -> ir.Node:
        return ir.Attr(self.expression(node.value), node.attr)

    def _subscript(self, node: ast.Subscript) -> ir.Node:
        base = self.expression(node.value)
        if isinstance(node.slice, ast.Slice):
            bounds = (node.slice.lower, node.slice.upper, node.slice.step)
            return ir.Cut(base, [None if b is None else self.expression(b) for b in bounds])
        return ir.Item(base, self.expression(node.slice))

    def _call(self, node: ast.Call) -> ir.Node:
        keywords = [(k.arg or "**", self.expression(k.value)) for k in node.keywords]
        arguments = [self.expression(argument) for argument in node.args]
        return ir.Call(self.expression(node.func), arguments, keywords, self._at(node))

    def _binary(self, node: ast.BinOp) -> ir.Node:
        if isinstance(node.op, ast.Add):
            parts: list[ast.expr] = []
            current: ast.expr = node
            while isinstance(current, ast.BinOp) and isinstance(current.op, ast.Add):
                parts.append(current.right)
                current = current.left
            return ir.Join([self.expression(part) for part in (current, *reversed(parts))])
        left, right = self.expression(node.left), self.expression(node.right)
        return ir.Binary(type(node.op).__name__, left, right)

    def _unary(self, node: ast.UnaryOp) -> ir.Node:
        if isinstance(node.op, ast.USub):
            return ir.Binary("Sub", ir.Const(0), self.expression(node.operand))
        return ir.Other([self.expression(node.operand)])

    def _formatted(self, node: ast.JoinedStr) -> ir.Node:
        parts = [
            self.expression(v.value if isinstance(v, ast.FormattedValue) else v)
            for v in node.values
        ]
        return ir.Join([ir.Const(""), *parts])

    def _sequence(self, node: ast.List | ast.Tuple | ast.Set) -> ir.Node:
        return ir.Seq([self.expression(item) for item in node.elts])

    def _dictionary(self, node: ast.Dict) -> ir.Node:
        return ir.Map(
            [
                (None if key is None else self.expression(key), self.expression(value))
                for key, value in zip(node.keys, node.values, strict=True)
            ]
        )

    def _starred(self, node: ast.Starred) -> ir.Node:
        return ir.Spread(self.expression(node.value))

    def _await(self, node: ast.Await) -> ir.Node:
        return self.expression(node.value)

    def _lambda(self, node: ast.Lambda) -> ir.Node:
        body: list[ir.Node] = [ir.Return(self.expression(node.body))]
        return ir.Function("", self._parameters(node.args), body, self._at(node))

    def _conditional(self, node: ast.IfExp) -> ir.Node:
        test = self.expression(node.test)
        return ir.Either(
            [ir.Other([test]), self.expression(node.body), self.expression(node.orelse)]
        )

    def _boolean(self, node: ast.BoolOp) -> ir.Node:
        return ir.Either([self.expression(value) for value in node.values])

    def _each(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> ir.Node:
        element = self.expression(node.elt)
        for generator in reversed(node.generators):
            conditions = [self.expression(test) for test in generator.ifs]
            if conditions:
                element = ir.Either([element, ir.Other(conditions)])
            target, values = self.expression(generator.target), self.expression(generator.iter)
            element = ir.Each(element, target, values)
        return element

    def _walrus(self, node: ast.NamedExpr) -> ir.Node:
        return ir.Assign(self.expression(node.target), self.expression(node.value))


Statement = Callable[[_Reader, Any], list[ir.Node]]
Expression = Callable[[_Reader, Any], ir.Node]

_STATEMENTS: Final[dict[type, Statement]] = {
    ast.Expr: _Reader._expression_statement,
    ast.Assign: _Reader._assign,
    ast.AnnAssign: _Reader._annotated,
    ast.AugAssign: _Reader._augmented,
    ast.If: _Reader._if,
    ast.With: _Reader._with,
    ast.AsyncWith: _Reader._with,
    ast.Import: _Reader._import,
    ast.ImportFrom: _Reader._import_from,
    ast.FunctionDef: _Reader._function,
    ast.AsyncFunctionDef: _Reader._function,
    ast.ClassDef: _Reader._class,
    ast.For: _Reader._for,
    ast.AsyncFor: _Reader._for,
    ast.While: _Reader._while,
    ast.Return: _Reader._return,
}
_EXPRESSIONS: Final[dict[type, Expression]] = {
    ast.Constant: _Reader._constant,
    ast.Name: _Reader._name,
    ast.Attribute: _Reader._attribute,
    ast.Subscript: _Reader._subscript,
    ast.Call: _Reader._call,
    ast.BinOp: _Reader._binary,
    ast.UnaryOp: _Reader._unary,
    ast.JoinedStr: _Reader._formatted,
    ast.List: _Reader._sequence,
    ast.Tuple: _Reader._sequence,
    ast.Set: _Reader._sequence,
    ast.Dict: _Reader._dictionary,
    ast.Starred: _Reader._starred,
    ast.Await: _Reader._await,
    ast.Lambda: _Reader._lambda,
    ast.IfExp: _Reader._conditional,
    ast.BoolOp: _Reader._boolean,
    ast.ListComp: _Reader._each,
    ast.GeneratorExp: _Reader._each,
    ast.SetComp: _Reader._each,
    ast.NamedExpr: _Reader._walrus,
}
