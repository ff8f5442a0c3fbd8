"""Follows a program through its statements, values and calls, as far as they are known."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from mulligan.policy.dangerous.findings import Place
from mulligan.policy.dangerous.program import bombs, fold, ir, library
from mulligan.policy.dangerous.program.binding import bind
from mulligan.policy.dangerous.program.calling import construct
from mulligan.policy.dangerous.program.scope import Scope
from mulligan.policy.dangerous.program.value import Val, merged, of_constant, tags_of, unknown
from mulligan.policy.dangerous.values import NO_TAGS, UNKNOWN

if TYPE_CHECKING:
    from mulligan.policy.dangerous.findings import Source
    from mulligan.policy.dangerous.judgement import Judgement

_LOOP_VALUES: Final = 8
_LOOP_TURNS: Final = 64  # of loops inside each other
_CALLS_DEEP: Final = 4
_CALLS_EACH: Final = 6
_ELEMENTS: Final = 4096
_FORK: Final = re.compile(rb"\bfork")
_SERVERS: Final = ("http.server.", "socketserver.", "xmlrpc.server.", "asyncio.Protocol")
_INTERNALS: Final = frozenset({"__bases__", "__base__", "__mro__", "__globals__", "__code__"})


def evaluate(judgement: Judgement, source: Source, body: list[ir.Node], language: str) -> None:
    """Judges a program.

    Raises:
        TooHardError: it cannot be judged within bounds.
    """
    follower = Follower(judgement, source, language)
    follower.statements(body, Scope())
    follower.finish()


class Follower:
    """One program on its way through."""

    def __init__(self, judgement: Judgement, source: Source, language: str) -> None:
        self.judgement = judgement
        self.source = source
        self.language = language
        self.library = library.of(language)
        self._functions: list[tuple[ir.Function, Scope]] = []
        self._called: dict[int, int] = {}
        self._stack: list[ir.Function] = []
        self.forks = _FORK.search(source.data) is not None
        self._returned: list[Val] = []
        self._pending: list[tuple[tuple[ir.Function, Scope], Val]] = []
        self._turns = 1

    def place(self, at: ir.At) -> Place:
        """A place of the program."""
        return Place(self.source, *at)

    # Statements

    def statements(self, body: list[ir.Node], scope: Scope) -> None:
        """Follows statements in order."""
        self.judgement.budget.step(len(body))
        for statement in body:
            KINDS[type(statement)](self, statement, scope)
            while self._pending:
                (function, around), given = self._pending.pop(0)
                if around.get("this") is None:  # it is whose event this is
                    around = Scope(around)
                    around.set("this", given)
                self.call_function((function, around), [given] * 3, {})

    def finish(self) -> None:
        """Follows the functions nobody called, with arguments that are not known."""
        at = 0
        while at < len(self._functions):
            function, scope = self._functions[at]
            at += 1
            if not self._called.get(id(function)):
                self._called[id(function)] = _CALLS_EACH
                self._enter(function, scope, [], {})

    def _enter(
        self, function: ir.Function, scope: Scope, arguments: list[Val], keywords: dict[str, Val]
    ) -> Val:
        inner = Scope(scope)
        at = 0
        for parameter in function.parameters:
            if isinstance(parameter, ir.Spread):
                bind(self, parameter.value, Val(items=arguments[at:]), inner)
                continue
            name = parameter.target if isinstance(parameter, ir.Assign) else parameter
            if at < len(arguments):
                bind(self, name, arguments[at], inner)
            elif isinstance(name, ir.Name) and name.name in keywords:
                inner.set(name.name, keywords[name.name])
            elif isinstance(parameter, ir.Assign):
                bind(self, name, self.value(parameter.value, inner), inner)
            elif isinstance(name, ir.Name) and name.name == "self":
                inner.set("self", scope.get("self") or unknown())
            else:
                bind(self, name, unknown(), inner)
            at += 1
        before, self._returned = self._returned, []
        self._stack.append(function)
        try:
            self.statements(function.body, inner)
            return self._returned[0] if len(self._returned) == 1 else merged(self._returned)
        finally:
            self._stack.pop()
            self._returned = before

    def call_function(
        self, bound: tuple[ir.Function, Scope], arguments: list[Val], keywords: dict[str, Val]
    ) -> Val:
        """Follows a call of one of the program's functions, each a few times."""
        function, scope = bound
        count = self._called.get(id(function), 0)
        if count >= _CALLS_EACH or len(self._stack) >= _CALLS_DEEP or function in self._stack:
            return unknown(tags_of([*arguments, *keywords.values()]))
        self._called[id(function)] = count + 1
        self.judgement.budget.enter()
        try:
            return self._enter(function, scope, arguments, keywords)
        finally:
            self.judgement.budget.leave()

    # Expressions

    def value(self, node: ir.Node, scope: Scope) -> Val:
        """The value of an expression; what it calls is judged on the way."""
        return KINDS[type(node)](self, node, scope)

    def attribute(self, base: Val, name: str) -> Val:
        """``base.name``."""
        if base.fields is not None and name in base.fields:
            return base.fields[name]
        if base.ref is not None:
            return self.library.attribute(base, name)
        if name == "length" and base.text is not None and UNKNOWN not in base.text:
            return Val(number=len(base.text))
        if name in _INTERNALS:
            return Val(tags=base.tags | {"internals"})
        return Val(tags=base.tags)

    def _const(self, node: ir.Const, _scope: Scope) -> Val:
        if node.known is None:
            node.known = of_constant(node.value)
        return node.known

    def _name(self, node: ir.Name, scope: Scope) -> Val:
        return scope.get(node.name) or self.library.name(node.name)

    def _attr(self, node: ir.Attr, scope: Scope) -> Val:
        return self.attribute(self.value(node.base, scope), node.name)

    def _item(self, node: ir.Item, scope: Scope) -> Val:
        base = self.value(node.base, scope)
        key = self.value(node.key, scope)
        if base.ref is not None and key.number is not None:
            return Val(ref=f"{base.ref}[]", tags=base.tags)
        if base.items is not None and isinstance(key.number, int):
            return (
                base.items[key.number]
                if -len(base.items) <= key.number < len(base.items)
                else Val()
            )
        if base.text is not None and isinstance(key.number, int) and UNKNOWN not in base.text:
            return Val(base.text[key.number : key.number + 1 or None], tags=base.tags)
        if key.text is not None:
            return self.library.entry(self, base, key.text)
        return Val(tags=base.tags)

    def _cut(self, node: ir.Cut, scope: Scope) -> Val:
        base = self.value(node.base, scope)
        bounds = [None if b is None else self.value(b, scope).number for b in node.bounds]
        return fold.cut(base, bounds)

    def _join(self, node: ir.Join, scope: Scope) -> Val:
        made = fold.joined([self.value(part, scope) for part in node.parts])
        if made.text is not None:
            self.judgement.budget.step(len(made.text) >> 6)
        return made

    def _binary(self, node: ir.Binary, scope: Scope) -> Val:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        made = fold.binary(node.operator, left, right)
        if made.text is not None:
            self.judgement.budget.step(len(made.text) >> 4)
        return made

    def _seq(self, node: ir.Seq, scope: Scope) -> Val:
        return Val(items=self._values(node.items, scope)[:_ELEMENTS])

    def _values(self, nodes: list[ir.Node], scope: Scope) -> list[Val]:
        items: list[Val] = []
        for item in nodes:
            if isinstance(item, ir.Spread):
                inner = self.value(item.value, scope)
                items.extend(inner.items if inner.items is not None else [unknown(inner.tags)])
            else:
                items.append(KINDS[type(item)](self, item, scope))
        return items

    def _map(self, node: ir.Map, scope: Scope) -> Val:
        fields: dict[str, Val] = {}
        tags = NO_TAGS
        for key, part in node.pairs:
            value = self.value(part, scope)
            name = self.value(key, scope).text if key is not None else None
            if name is not None:
                fields[name] = value
            else:
                tags |= value.all_tags()
        return Val(fields=fields, tags=tags)

    def _spread(self, node: ir.Spread, scope: Scope) -> Val:
        return self.value(node.value, scope)

    def _other(self, node: ir.Other, scope: Scope) -> Val:
        tags = NO_TAGS
        for part in node.parts:
            tags |= self.value(part, scope).tags
        return unknown(tags)

    def _either(self, node: ir.Either, scope: Scope) -> Val:
        return merged([self.value(part, scope) for part in node.parts])

    def _last(self, node: ir.Last, scope: Scope) -> Val:
        return self._values(node.parts, scope)[-1]

    def _function(self, node: ir.Function, scope: Scope) -> Val:
        self._functions.append((node, scope))
        bombs.function(self, node)
        return Val(function=(node, scope))

    def _class(self, node: ir.Class, scope: Scope) -> Val:
        inner = Scope(scope)
        tags = NO_TAGS
        for base in node.bases:
            ref = self.value(base, scope).ref or ""
            if ref.startswith(_SERVERS):
                tags |= {"network", "socket"}
        # One object stands for the class and for all that are made of it.
        made = Val(fields=inner.own(), tags=tags)
        for name in ("this", "self"):
            inner.set(name, made)
        self.statements(node.body, inner)
        if node.name:
            scope.set(node.name, made)
        return made

    def _assign(self, node: ir.Assign, scope: Scope) -> Val:
        value = self.value(node.value, scope)
        if node.adds:
            value = fold.joined([self.value(node.target, scope), value])
        outward = node.adds or (self.language == "javascript" and not node.declares)
        if outward and isinstance(node.target, ir.Name):
            scope.set_where_bound(node.target.name, value)
        else:
            bind(self, node.target, value, scope)
        return value

    def _import(self, node: ir.Import, scope: Scope) -> Val:
        value = self.library.module(node.path)
        scope.set(node.name, value)
        return value

    def _each(self, node: ir.Each, scope: Scope) -> Val:
        values = self.value(node.values, scope)
        bombs.each(self, node)
        inner = Scope(scope)
        if values.items is None and values.text is not None and UNKNOWN not in values.text:
            values = Val(items=[Val(character) for character in values.text[:_ELEMENTS]])
        if values.items is None:
            bind(self, node.target, self.library.element(values), inner)
            made = self.value(node.element, inner)
            return Val(tags=values.tags | made.tags)
        items = []
        for item in values.items:
            bind(self, node.target, item, inner)
            items.append(self.value(node.element, inner))
        return Val(items=items, tags=values.tags)

    def _for(self, node: ir.For, scope: Scope) -> Val:
        values = self.value(node.values, scope)
        items = values.items if values.items is not None else [self.library.element(values)]
        turns = max(1, min(_LOOP_VALUES, len(items), _LOOP_TURNS // self._turns))
        self._turns *= turns
        for item in items[:turns]:
            bind(self, node.target, item, scope)
            self.statements(node.body, scope)
        self._turns //= turns
        return unknown()

    def _loop(self, node: ir.Loop, scope: Scope) -> Val:
        for part in node.parts:
            self.value(part, scope)
        bombs.loop(self, node)
        self.statements(node.body, scope)
        return unknown()

    def _return(self, node: ir.Return, scope: Scope) -> Val:
        value = self.value(node.value, scope)
        self._returned.append(value)
        return value

    def _block(self, node: ir.Block, scope: Scope) -> Val:
        self.statements(node.body, scope)
        return unknown()

    def _call(self, node: ir.Call, scope: Scope) -> Val:
        receiver: Val | None = None
        name = ""
        function_node = node.function
        if isinstance(function_node, ir.Attr):
            receiver = self.value(function_node.base, scope)
            name = function_node.name
            function = self.attribute(receiver, name)
        elif isinstance(function_node, ir.Item):
            receiver = self.value(function_node.base, scope)
            name = self.value(function_node.key, scope).text or ""
            function = self.value(function_node, scope)
        else:
            function = self.value(function_node, scope)
        arguments = self._values(node.arguments, scope)
        keywords = {key: self.value(part, scope) for key, part in node.keywords}
        if function.function is None and function.ref is None and function.fields is not None:
            return construct(self, function, arguments, keywords)
        if function.function is not None:
            given = arguments
            first = function.function[0].parameters[:1]
            if first and isinstance(first[0], ir.Name) and first[0].name == "self":
                given = [receiver or Val(fields={}), *arguments]
            return self.call_function(function.function, given, keywords)
        call = library.Called(self, node, name, function, receiver, arguments, keywords)
        result = self.library.call(call)
        self._callbacks(arguments, keywords, result, receiver)
        return result

    def _callbacks(
        self, arguments: list[Val], keywords: dict[str, Val], result: Val, receiver: Val | None
    ) -> None:
        """Functions handed to a library's function get what it gives."""
        for value in (*arguments, *keywords.values()):
            if value.function is not None:
                tags = result.tags | (receiver.tags if receiver is not None else NO_TAGS)
                given = unknown(tags - {"environment"})
                if result.ref is not None and "socket" in result.tags:
                    given = Val(ref="socket()", tags=tags)
                elif result.ref is not None:
                    given = Val(ref=result.ref, tags=tags, fields=result.fields, text=result.text)
                self._pending.append((value.function, given))


KINDS: Final[dict[type[ir.Node], Callable[[Follower, Any, Scope], Val]]] = {
    ir.Const: Follower._const,
    ir.Name: Follower._name,
    ir.Attr: Follower._attr,
    ir.Item: Follower._item,
    ir.Cut: Follower._cut,
    ir.Call: Follower._call,
    ir.Join: Follower._join,
    ir.Binary: Follower._binary,
    ir.Seq: Follower._seq,
    ir.Map: Follower._map,
    ir.Spread: Follower._spread,
    ir.Each: Follower._each,
    ir.Other: Follower._other,
    ir.Either: Follower._either,
    ir.Last: Follower._last,
    ir.Function: Follower._function,
    ir.Class: Follower._class,
    ir.Assign: Follower._assign,
    ir.Import: Follower._import,
    ir.For: Follower._for,
    ir.Loop: Follower._loop,
    ir.Return: Follower._return,
    ir.Block: Follower._block,
}
