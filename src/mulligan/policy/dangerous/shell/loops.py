"""Code that multiplies itself: fork bombs, told by their structure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tree_sitter import Node

    from mulligan.policy.dangerous.shell.walk import Shell

_ALWAYS = re.compile(r"^\s*(?:while\s+(?:true|:|1|\[\s*1\s*\]|\(\(\s*1\s*\)\))|until\s+false"
                     r"|for\s*\(\(\s*;\s*;\s*\)\))\s*(?:;|\n)")  # fmt: skip
_SLOW: Final = frozenset(
    {"sleep", "wait", "read", "break", "exit", "return", "usleep", "inotifywait"}
)
_CONDITIONS: Final = frozenset({"if_statement", "case_statement", "list", "while_statement"})
_MOST_NODES: Final = 4000


def _below(node: Node) -> Iterator[tuple[Node, bool]]:
    """(node, whether a condition is above it) of what is below a node, without recursion."""
    waiting = [(child, False) for child in reversed(node.children)]
    for _ in range(_MOST_NODES):
        if not waiting:
            return
        current, guarded = waiting.pop()
        yield current, guarded
        guarded = guarded or current.type in _CONDITIONS
        waiting.extend((child, guarded) for child in reversed(current.children))


def multiplies(shell: Shell, node: Node, name: str) -> None:
    """A function that starts itself more than once, in pipes or in the background."""
    if shell.raw(node).count(name) < 2:
        return
    calls = background = piped = 0
    for child, guarded in _below(node):
        if child.type == "command_name" and shell.raw(child).strip("'\"\\") == name and not guarded:
            calls += 1
        elif child.type == "&" and not guarded:
            background += 1
        elif child.type in ("|", "|&"):
            piped += 1
    if (calls > 1 and (background or piped)) or (calls and background):
        shell.judgement.effect("fork-bomb", shell.place(node))


def _doubles(assignment: str) -> bool:
    """Whether an assignment makes a variable out of itself more than once."""
    name, sign, value = assignment.partition("=")
    own = re.findall(r"\$\{?(\w+)", value[:4096]).count(name.rstrip("+"))
    return bool(sign) and own + name.endswith("+") > 1


def _aside(name: Node) -> bool:
    """Whether a command is put into the background."""
    following = name.parent.next_sibling if name.parent is not None else None
    return following is not None and following.type == "&"


def restarts(shell: Shell, root: Node) -> None:
    """A script that starts itself more than once, in pipes or in the background."""
    if shell.source.data.count(b"$0") < 2:
        return
    own = aside = 0
    for child, guarded in _below(root):
        if child.type == "command_name" and not guarded:
            own += shell.raw(child).strip('"') in ("$0", "${0}", "./$0")
        aside += child.type in ("&", "|")
    if own > 1 and aside:
        shell.judgement.effect("fork-bomb", shell.place(root))


def endless(shell: Shell, node: Node) -> None:
    """A loop without end that starts something in the background each time and never waits."""
    head = shell.raw(node)[:80]
    if not _ALWAYS.match(head):
        return
    background = grows = False
    for child, _ in _below(node):
        if child.type == "command_name" and shell.raw(child) in _SLOW and not _aside(child):
            return
        background = background or child.type == "&"
        grows = grows or (child.type == "variable_assignment" and _doubles(shell.raw(child)))
    if background:
        shell.judgement.effect("fork-bomb", shell.place(node))
    if grows:
        shell.judgement.effect("memory-bomb", shell.place(node))
