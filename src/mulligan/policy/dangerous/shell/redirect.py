"""Redirections (Bash manual 3.6): what a command reads, and where its output goes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.values import EMPTY, Text, anything

if TYPE_CHECKING:
    from tree_sitter import Node

    from mulligan.policy.dangerous.findings import Place
    from mulligan.policy.dangerous.shell.walk import Shell

SOCKET: Final = frozenset({"network", "socket"})
_OPERATOR = re.compile(r"\s*(\d*|\{\w+\})(<>|>>|>\||>&|<&|&>>|&>|<|>)\s*")
_NETWORK_PATH = re.compile(r"/dev/(?:tcp|udp)/")
_TABS = re.compile(r"^\t+", re.MULTILINE)


class Redirects:
    """The redirections of one command.

    Attributes:
        socket: whether one of them leads to a network connection.
        following: nodes that the grammar puts behind a here-document's operator but that read
            the command's output.
        arguments: words it puts there.
    """

    def __init__(self) -> None:
        self.socket = False
        self.following: list[Node] = []
        self.arguments: list[Text] = []
        self._stdin: Text | None = None
        self._reads: list[tuple[str, Place]] = []
        self._writes: list[tuple[str, Place, bool, bool]] = []

    def add(self, shell: Shell, node: Node) -> None:
        """Takes in a redirection's node."""
        if node.type == "herestring_redirect":
            raw = shell.raw(node).lstrip("0123456789")[3:].strip()
            text = shell.words.text(raw)
            self._stdin = Text(text.text + "\n", text.tags)
        elif node.type == "heredoc_redirect":
            self._document(shell, node)
        else:
            self._file(shell, node)

    def _document(self, shell: Shell, node: Node) -> None:
        raw = shell.raw(node)
        body = start = None
        for child in node.named_children:
            kind = child.type
            if kind == "heredoc_body":
                body = child
            elif kind == "heredoc_start":
                start = shell.raw(child)
            elif kind == "file_redirect":
                self._file(shell, child)
            elif kind in ("pipeline", "command", "redirected_statement", "list", "subshell"):
                self.following.append(child)
            elif kind in ("word", "string", "raw_string", "concatenation"):
                self.arguments.extend(shell.words.fields(shell.raw(child)))
        text = shell.raw(body) if body is not None else ""
        if "<<-" in raw[:8]:
            text = _TABS.sub("", text)
        quoted = start is None or any(mark in start for mark in "'\"\\")
        self._stdin = Text(text) if quoted else shell.words.inside_quotes(text)

    def _file(self, shell: Shell, node: Node) -> None:
        match = _OPERATOR.match(shell.raw(node))
        if match is None:
            return
        destinations = node.children_by_field_name("destination")
        words = [f for child in destinations for f in shell.words.fields(shell.raw(child))]
        if not words:
            return
        self.arguments.extend(words[1:] if match[2] not in (">&", "&>") else [])
        self.to(shell, match[1], match[2], words[0], shell.place(node))

    def to(self, shell: Shell, descriptor: str, operator: str, target: Text, place: Place) -> None:
        """One redirection, its target expanded."""
        duplicated = target.text.rstrip("-") if operator in (">&", "<&") else ""
        if duplicated.isdigit() or (operator in (">&", "<&") and target.text == "-"):
            tags = shell.state.descriptors.get(duplicated, EMPTY).tags
            if "socket" in tags:
                self.socket = True
                if operator == "<&":
                    self._stdin = anything(tags)
            return
        path = shell.canonical(target)
        if _NETWORK_PATH.match(path):
            self._connect(shell, descriptor)
        if operator.startswith("<"):
            self._reads.append((path, place))
            self._stdin = self._content(shell, path, target)
        if operator not in ("<", "<&"):
            errors_only = descriptor.isdigit() and descriptor != "1"
            self._writes.append((path, place, operator.endswith(">>"), errors_only))

    def _connect(self, shell: Shell, descriptor: str) -> None:
        self.socket = True
        if descriptor:
            shell.state.descriptors[descriptor.strip("{}")] = anything(SOCKET)

    def _content(self, shell: Shell, path: str, target: Text) -> Text:
        known = shell.judgement.files.get(path)
        if known is not None:
            return known
        tags = target.tags | shell.judgement.classes(path)
        return anything(tags | SOCKET if _NETWORK_PATH.match(path) else tags)

    def apply(self, shell: Shell, stdin: Text | None) -> Text | None:
        """The command's input; reading it is judged."""
        for path, place in self._reads:
            shell.judgement.effect("read", place, path)
        self._reads = []
        return stdin if self._stdin is None else self._stdin

    def wrote(self, shell: Shell, output: Text) -> Text:
        """Judges what was written where; gives what is left of the output."""
        if not self._writes:
            return output
        left = output
        for path, place, append, errors_only in self._writes:
            write(shell, path, EMPTY if errors_only else output, place, append=append)
            if not errors_only:
                left = EMPTY
        self._writes = []
        return left


def write(shell: Shell, path: str, content: Text, place: Place, *, append: bool) -> None:
    """Judges that something is written to a file, and keeps what would be in it."""
    judgement = shell.judgement
    if path in ("/dev/null", "/"):  # the root is a directory: <a>..<b> writes nothing
        return
    flags = frozenset({"append" if append else "replace"})
    judgement.effect("write", place, path, tags=content.tags, flags=flags)
    if _NETWORK_PATH.match(path):
        judgement.effect("send", place, path, tags=content.tags)
        return
    if path.startswith("/dev/"):
        return
    before = judgement.files.get(path) if append else None
    if before is not None:
        content = Text(before.text + content.text, before.tags | content.tags)
    judgement.files[path] = content
    if "startup" in judgement.classes(path):
        judgement.runs(Text(content.text, content.tags), "bash", place)
