"""Programs that multiply themselves or eat all memory, told by their structure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.program import fold, ir
from mulligan.policy.dangerous.program.value import Val

if TYPE_CHECKING:
    from mulligan.policy.dangerous.program.evaluate import Follower

_FORKS: Final = frozenset({"fork", "forkpty"})
_STARTS: Final = frozenset({"Popen", "Process", "spawn", "Thread", "fork", "cluster.fork", "exec",
                            "Worker", "start_new_thread", "system", "popen"})  # fmt: skip
_WAITS: Final = frozenset({"sleep", "wait", "join", "accept", "recv", "get", "input", "communicate",
                           "select", "poll", "acquire", "read", "readline", "put", "waitpid",
                           "result",
                           "setTimeout", "serve_forever", "once", "on", "run",
                           "recvfrom"})  # fmt: skip
_GROWS: Final = frozenset({"append", "push", "extend", "unshift", "concat", "push_back", "insert"})
_ITSELF: Final = frozenset({"__file__", "__filename", "sys.argv[]", "process.argv[]"})
_GUARDS = re.compile(
    rb"isMaster|isPrimary|isMainThread|process\.send|on\(['\"]message|argv\.includes|argv\[2\]"
    rb"|argv\.length|len\(sys\.argv\)|sys\.argv\[1|environ|process\.env|add_argument"
)
_BIG: Final = 1 << 16
_MOST_NODES: Final = 3000


_SLOTS: Final[dict[type[ir.Node], tuple[str, ...]]] = {
    kind: kind.__slots__ or kind.__mro__[1].__slots__  # type: ignore[attr-defined]
    for kind in (*ir.Node.__subclasses__(), *ir.Other.__subclasses__())
}


def parts(node: ir.Node) -> list[ir.Node]:
    """What is directly in a node."""
    found: list[ir.Node] = []
    for slot in _SLOTS[type(node)]:
        value = getattr(node, slot, None)
        if isinstance(value, ir.Node):
            found.append(value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, ir.Node):
                    found.append(item)
                elif isinstance(item, tuple):
                    found.extend(part for part in item if isinstance(part, ir.Node))
    return found


def below(nodes: list[ir.Node], *, into_functions: bool = False) -> Iterator[ir.Node]:
    """What is in some nodes and below, without recursion."""
    waiting = list(reversed(nodes))
    for _ in range(_MOST_NODES):
        if not waiting:
            return
        current = waiting.pop()
        yield current
        if into_functions or not isinstance(current, ir.Function):
            waiting.extend(reversed(parts(current)))


def called(node: ir.Node) -> str:
    """The last part of the name of what a call calls."""
    if not isinstance(node, ir.Call):
        return ""
    if isinstance(node.function, ir.Attr):
        return node.function.name
    return node.function.name if isinstance(node.function, ir.Name) else ""


def loop(follower: Follower, node: ir.Loop) -> None:
    """A loop that forks, or grows something without end."""
    forks = any(called(part) in _FORKS for part in below(node.parts))
    if not (forks or node.endless):
        return
    names = {called(inner) for inner in below(node.body)}
    if forks or (not _WAITS & names and (_FORKS | _STARTS) & names):
        follower.judgement.effect("fork-bomb", follower.place(node.at))
    elif not _WAITS & names and _grows(node.body):
        follower.judgement.effect("memory-bomb", follower.place(node.at))


def restarts(called_with: list[Val], follower: Follower, at: ir.At) -> None:
    """A program that starts itself and has no way to tell that it was."""
    texts = [_shown(value) for value in called_with]
    if any(text in _ITSELF for text in texts) and not _GUARDS.search(follower.source.data):
        follower.judgement.effect("starts-itself", follower.place(at))


def _shown(value: Val) -> str:
    return value.ref if value.ref is not None else value.text or ""


def each(follower: Follower, node: ir.Each) -> None:
    """A comprehension that forks."""
    element = node.element
    if follower.forks and isinstance(element, ir.Call) and called(element) in _FORKS:
        follower.judgement.effect("fork-bomb", follower.place(element.at))


def _grows(body: list[ir.Node]) -> bool:
    """Whether something gets longer by something big each time, or doubles."""
    for node in below(body):
        if called(node) in _GROWS and isinstance(node, ir.Call):
            if any(_big(argument) for argument in below(list(node.arguments))):
                return True
        elif isinstance(node, ir.Assign):
            if node.adds and any(_big(part) for part in below([node.value])):
                return True
            if isinstance(node.target, ir.Name) and _doubles(node):
                return True
    return False


def _doubles(node: ir.Assign) -> bool:
    assert isinstance(node.target, ir.Name)
    name = node.target.name
    values = node.value.parts if isinstance(node.value, ir.Join) else [node.value]
    same = [v for v in values if isinstance(v, ir.Name) and v.name == name]
    if node.adds and same:
        return True
    return len(same) > 1


def _big(node: ir.Node) -> bool:
    return (_number(node, 12) or 0) >= _BIG


def _number(node: ir.Node, levels: int) -> float | None:
    """The number of a constant expression; None if it is none."""
    if isinstance(node, ir.Const):
        return node.value if isinstance(node.value, int | float) else None
    if isinstance(node, ir.Binary) and levels:
        left, right = _number(node.left, levels - 1), _number(node.right, levels - 1)
        if right is not None and node.operator in ("Mult", "*") and left is None:
            return right if isinstance(node.left, ir.Const | ir.Seq | ir.Name) else None
        if left is not None and right is not None:
            return fold.binary(node.operator, Val(number=left), Val(number=right)).number
        if node.operator in ("Mult", "*") and left is not None:
            return left
    return None


def function(follower: Follower, node: ir.Function) -> None:
    """A function that forks, or starts the program anew, and calls itself."""
    if not node.name or not follower.forks:
        return
    names = [called(inner) for inner in below(node.body, into_functions=True)]
    if node.name in names and _FORKS.intersection(names) - {node.name}:
        follower.judgement.effect("fork-bomb", follower.place(node.at))
