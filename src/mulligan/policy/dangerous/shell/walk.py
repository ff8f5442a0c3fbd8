"""Walks the syntax tree of a shell script in the order it would run, values followed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import tree_sitter_bash
from tree_sitter import Language, Node

from mulligan.policy.dangerous.budget import TooHardError
from mulligan.policy.dangerous.events import Command
from mulligan.policy.dangerous.findings import Place, Source
from mulligan.policy.dangerous.paths import canonical
from mulligan.policy.dangerous.shell import loops
from mulligan.policy.dangerous.shell.invocation import Invocation
from mulligan.policy.dangerous.shell.invoke import invoke
from mulligan.policy.dangerous.shell.redirect import Redirects
from mulligan.policy.dangerous.shell.state import State
from mulligan.policy.dangerous.shell.words import Expander
from mulligan.policy.dangerous.trees import parsed
from mulligan.policy.dangerous.values import EMPTY, UNKNOWN, Text, anything, joined

if TYPE_CHECKING:
    from mulligan.policy.dangerous.judgement import Judgement

LANGUAGE: Final = Language(tree_sitter_bash.language())
# Variables whose text a shell or another program runs by itself.
_RUN_LATER: Final = frozenset({"PROMPT_COMMAND", "GIT_SSH_COMMAND", "LESSOPEN", "PAGER", "EDITOR"})
_MOST_PIPES: Final = 1500
_LONGEST: Final = 131_072  # bytes of a script with that many pipes
_STATEMENT_END = re.compile(rb";|(?<![|\s])[ \t]*\n")
_WHOLE: Final = 4096  # bytes of a broken script that is read a second time as a whole
_CALLS: Final = 4
_LOOP_VALUES: Final = 8
_LOOP_TURNS: Final = 64  # of loops inside each other


def walk_shell(judgement: Judgement, source: Source, state: State | None = None) -> Text:
    """Judges a script; gives what is known of its output.

    Raises:
        TooHardError: it cannot be judged within bounds.
    """
    shell = Shell(judgement, source, state or State())
    _guard(source.data)
    root = parsed(source.data, LANGUAGE, judgement.budget)
    loops.restarts(shell, root)
    output = shell.run(root, shell.state.stdin)
    shell.finish()
    if root.has_error:
        from mulligan.policy.dangerous.shell import loose  # noqa: PLC0415  (it calls back)

        loose.read_again(shell, root, whole=len(source.data) <= _WHOLE)
    return output


def _guard(data: bytes) -> None:
    """Refuses what the grammar takes quadratic memory for: one pipeline of thousands."""
    if data.count(b"|") > _MOST_PIPES:
        longest = max(piece.count(b"|") for piece in _STATEMENT_END.split(data))
        if longest > _MOST_PIPES or len(data) > _LONGEST:
            raise TooHardError("is too large to judge")


class Shell:
    """A shell at one place of a script."""

    def __init__(self, judgement: Judgement, source: Source, state: State) -> None:
        self.judgement = judgement
        self.source = source
        self.state = state
        self.words = Expander(state, judgement.budget, self._substitute, self._substitute_process)
        self._piped: Text | None = None
        self.uncalled: dict[str, Node] = {}
        self._at: Place = Place(source, 0, len(source.data))

    # What is in the tree

    def raw(self, node: Node) -> str:
        """The text of a node."""
        return self.source.data[node.start_byte : node.end_byte].decode(errors="replace")

    def place(self, node: Node) -> Place:
        """The place of a node."""
        return Place(self.source, node.start_byte, node.end_byte)

    def canonical(self, path: Text) -> str:
        """A path in one form, from where the shell stands."""
        return canonical(path.text, self.state.cwd)

    def run(self, node: Node, stdin: Text | None, redirects: Redirects | None = None) -> Text:
        """Runs a node; gives what is known of its output."""
        budget = self.judgement.budget
        budget.enter()
        try:
            handler = _HANDLERS.get(node.type)
            if handler is not None:
                return handler(self, node, stdin, redirects)
            return self._all(node, stdin, redirects)
        finally:
            budget.leave()

    def _all(self, node: Node, stdin: Text | None, redirects: Redirects | None) -> Text:
        if redirects is not None:
            stdin = redirects.apply(self, stdin)
        outputs = [self.run(child, stdin) for child in node.named_children]
        output = _output(outputs)
        return redirects.wrote(self, output) if redirects is not None else output

    def _nothing(self, _node: Node, _stdin: Text | None, _redirects: Redirects | None) -> Text:
        return EMPTY

    def _word(self, node: Node, _stdin: Text | None, _redirects: Redirects | None) -> Text:
        self._at = self.place(node)
        self.words.fields(self.raw(node))
        return EMPTY

    def _list(self, node: Node, stdin: Text | None, redirects: Redirects | None) -> Text:
        """``a && b || c`` is nested to the left, as deep as it is long."""
        members: list[tuple[Node, bool]] = []  # and whether it runs where the one before failed
        while node.type == "list":
            children = node.named_children
            instead = any(child.type == "||" for child in node.children)
            members.extend((child, instead) for child in reversed(children[1:]))
            node = children[0]
        members.append((node, False))
        members.reverse()
        outputs: list[Text] = []
        for number, (member, instead) in enumerate(members, 1):
            output = self.run(member, stdin, redirects if number == len(members) else None)
            if not (instead and outputs and _is_known(outputs[-1])):
                outputs.append(output)
        return _output(outputs)

    def _pipeline(self, node: Node, stdin: Text | None, redirects: Redirects | None) -> Text:
        members = [child for child in node.named_children if child.type != "comment"]
        for member in members[:-1]:
            stdin = self.run(member, stdin)
        return self.run(members[-1], stdin, redirects) if members else EMPTY

    def _subshell(self, node: Node, stdin: Text | None, redirects: Redirects | None) -> Text:
        inner = Shell(self.judgement, self.source, self.state.child())
        return inner._all(node, stdin, redirects)

    def _redirected(self, node: Node, stdin: Text | None, outer: Redirects | None) -> Text:
        redirects = outer or Redirects()
        body = None
        for child in node.named_children:
            if child.type in _REDIRECTS:
                redirects.add(self, child)
            elif body is None:
                body = child
        if body is None:
            invocation = Invocation([], self.place(node), redirects.apply(self, stdin))
            invocation.redirects = redirects
            return redirects.wrote(self, EMPTY)
        output = self.run(body, stdin, redirects)
        for following in redirects.following:
            output = self.run(following, output)
        return output

    def _command(self, node: Node, stdin: Text | None, redirects: Redirects | None) -> Text:
        place = self._at = self.place(node)
        self._piped = stdin
        arguments: list[Text] = []
        environment: dict[str, Text] = {}
        for child in node.named_children:
            kind = child.type
            if kind == "variable_assignment":
                name, values = self._assigned(child)
                environment[name] = joined(values, " ") if values else EMPTY
            elif kind in _REDIRECTS:
                redirects = redirects or Redirects()
                redirects.add(self, child)
            elif kind == "subshell":
                self.run(child, stdin)
            elif kind != "number" or not self.source.data.startswith((b"<", b">"), child.end_byte):
                # a number right before < is the descriptor of what follows, as in 0< <(...)
                arguments.extend(self.words.fields(self.raw(child)))
        if redirects is not None:
            stdin = redirects.apply(self, stdin)
            arguments.extend(redirects.arguments)
        invocation = Invocation(arguments, place, stdin, environment, redirects)
        output = invoke(self, invocation)
        return redirects.wrote(self, output) if redirects is not None else output

    # Variables

    def _assigned(self, node: Node) -> tuple[str, list[Text]]:
        """The name and values of an assignment."""
        name_node = node.child_by_field_name("name")
        value = node.child_by_field_name("value")
        name = self.raw(name_node).partition("[")[0] if name_node else ""
        if value is None:
            return name, [EMPTY]
        if value.type == "array":
            fields = [
                f for child in value.named_children for f in self.words.fields(self.raw(child))
            ]
            return name, fields
        values = [self.words.text(self.raw(value))]
        if self.source.data[node.start_byte : value.start_byte].endswith(b"+="):
            before = self.state.variables.get(name)
            values = [joined([*(before or []), *values])]
        return name, values

    def _assignment(self, node: Node, _stdin: Text | None, _redirects: Redirects | None) -> Text:
        self._at = self.place(node)
        name, values = self._assigned(node)
        self.state.variables[name] = values
        value = joined(values, " ") if values else EMPTY
        self.judgement.emit(Command("=", [], self._at, None, {name: value}))
        if name in _RUN_LATER:
            self.judgement.runs(value, "bash", self._at)
        return EMPTY

    def _declaration(self, node: Node, stdin: Text | None, redirects: Redirects | None) -> Text:
        place = self._at = self.place(node)
        arguments = [Text(self.raw(node).split(None, 1)[0])]
        for child in node.named_children:
            if child.type == "variable_assignment":
                name, values = self._assigned(child)
                self.state.variables[name] = values
                if name in _RUN_LATER:
                    self.judgement.runs(joined(values, " "), "bash", place)
                arguments.append(joined([Text(f"{name}="), *values]))
            elif child.type not in _REDIRECTS:
                arguments.extend(self.words.fields(self.raw(child)))
        if redirects is not None:
            stdin = redirects.apply(self, stdin)
        output = invoke(self, Invocation(arguments, place, stdin, {}, redirects))
        return redirects.wrote(self, output) if redirects is not None else output

    # Control

    def _for(self, node: Node, stdin: Text | None, redirects: Redirects | None) -> Text:
        variable = node.child_by_field_name("variable")
        body = node.child_by_field_name("body")
        self._at = self.place(node)
        values: list[Text] = []
        for child in node.children_by_field_name("value"):
            values.extend(self.words.fields(self.raw(child)))
        if redirects is not None:
            stdin = redirects.apply(self, stdin)
        output = EMPTY
        if variable is not None:
            name = self.raw(variable)
            tags = frozenset().union(*(value.tags for value in values))
            turns = max(1, min(_LOOP_VALUES, _LOOP_TURNS // self.state.turns))
            self.state.turns *= turns
            for value in values[:turns] or [anything(tags)]:
                self.state.variables[name] = [value]
                if body is not None:
                    output = self.run(body, stdin)
            self.state.turns //= turns
        return redirects.wrote(self, output) if redirects is not None else output

    def _while(self, node: Node, stdin: Text | None, redirects: Redirects | None) -> Text:
        loops.endless(self, node)
        before = self.state.stdin
        if redirects is not None:
            stdin = redirects.apply(self, stdin)
        self.state.stdin = stdin
        output = self._all(node, stdin, None)
        self.state.stdin = before
        return redirects.wrote(self, output) if redirects is not None else output

    def _function(self, node: Node, _stdin: Text | None, _redirects: Redirects | None) -> Text:
        name = node.child_by_field_name("name")
        body = node.child_by_field_name("body")
        if name is None or body is None:
            return EMPTY
        called = self.words.text(self.raw(name)).text
        self.state.functions[called] = (self.source, node)
        loops.multiplies(self, node, called)
        self.uncalled[called] = body
        return EMPTY

    def finish(self) -> None:
        """Runs the functions nobody called, with arguments that are not known, and the traps."""
        followed: set[int] = set()
        while self.uncalled:
            name, body = self.uncalled.popitem()
            if body.start_byte in followed:  # a function that another one defines each time
                continue
            followed.add(body.start_byte)
            state = self.state.child()
            state.calls.append(name)
            inner = Shell(self.judgement, self.source, state)
            inner.uncalled = self.uncalled
            inner.run(body, None)
        while self.state.traps:
            code, place = self.state.traps.pop()
            self.judgement.runs(code, "bash", place, self.state)

    def call(self, name: str, invocation: Invocation) -> Text | None:
        """Runs a function of the script; None where it was not followed."""
        source, node = self.state.functions[name]
        body = node.child_by_field_name("body")
        if body is None or name in self.state.calls or len(self.state.calls) >= _CALLS:
            return None
        self.uncalled.pop(name, None)
        before = self.state.positional
        self.state.positional = invocation.arguments[1:]
        self.state.calls.append(name)
        inner = self if source is self.source else Shell(self.judgement, source, self.state)
        try:
            return inner.run(body, invocation.stdin)
        finally:
            self.state.calls.pop()
            self.state.positional = before

    # Scripts inside words

    def _substitute(self, script: str) -> Text:
        output = self.judgement.runs(Text(script), "bash", self._at, self.state.child())
        return Text(output.text.rstrip("\n"), output.tags)

    def _substitute_process(self, script: str, direction: str) -> Text:
        state = self.state.child()
        state.stdin = self._piped if direction == ">" else None
        output = self.judgement.runs(Text(script), "bash", self._at, state)
        path = f"/dev/fd/{63 + len(self.judgement.files)}"
        self.judgement.files[path] = output
        return Text(path, output.tags)


def _is_known(output: Text) -> bool:
    """Whether something is printed, and all of it is known: its program did not fail."""
    return bool(output.text.strip()) and UNKNOWN not in output.text


def _output(outputs: list[Text]) -> Text:
    written = [output for output in outputs if output.text or output.tags]
    return joined(written) if written else EMPTY


_REDIRECTS: Final = frozenset({"file_redirect", "heredoc_redirect", "herestring_redirect"})

Handler = Callable[[Shell, Node, Text | None, Redirects | None], Text]

_HANDLERS: Final[dict[str, Handler]] = {
    "comment": Shell._nothing,
    "variable_name": Shell._nothing,
    "heredoc_start": Shell._nothing,
    "heredoc_end": Shell._nothing,
    "heredoc_content": Shell._nothing,
    "list": Shell._list,
    "pipeline": Shell._pipeline,
    "subshell": Shell._subshell,
    "redirected_statement": Shell._redirected,
    "command": Shell._command,
    "test_command": Shell._word,
    "variable_assignment": Shell._assignment,
    "declaration_command": Shell._declaration,
    "unset_command": Shell._declaration,
    "for_statement": Shell._for,
    "while_statement": Shell._while,
    "c_style_for_statement": Shell._while,
    "function_definition": Shell._function,
    **dict.fromkeys(
        ("word", "string", "raw_string", "concatenation", "simple_expansion", "expansion",
         "command_substitution", "process_substitution", "arithmetic_expansion"),
        Shell._word,
    ),
}  # fmt: skip
