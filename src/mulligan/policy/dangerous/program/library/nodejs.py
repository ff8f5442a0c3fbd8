"""What single functions of JavaScript's libraries do, where that takes more than a line."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from mulligan.policy.dangerous.program import fold
from mulligan.policy.dangerous.program.calling import apply
from mulligan.policy.dangerous.program.library import common
from mulligan.policy.dangerous.program.value import Val, unknown
from mulligan.policy.dangerous.values import LONGEST, UNKNOWN

if TYPE_CHECKING:
    from mulligan.policy.dangerous.program.library.base import Called


def require(called: Called) -> Val | None:
    name = called.argument(0)
    if name is None or name.text is None or UNKNOWN in name.text:
        return Val(ref="require()", tags=called.tags())
    return called.follower.library.module(name.text)


def spawn(called: Called) -> Val:
    """``spawn(program, words, options)``; with the option ``shell`` the words are joined."""
    arguments = called.arguments
    items = list(arguments[:1])
    if items and items[0].items is not None:
        items = list(items[0].items)
    options = None
    for value in arguments:
        if value.items is not None and value is not arguments[0]:
            items.extend(value.items)
        elif value.fields is not None:
            options = value.fields
    for name in ("cmd", "args"):  # as Deno has it
        if options is not None and name in options:
            items.extend(options[name].items or [])
    items = [item for item in items if item.fields is None]
    take_options(called, options)
    if options is not None and "shell" in options:
        parts = [Val(" "), *items]
        text = Val(" ".join(item.as_text().text for item in items), tags=fold.joined(parts).tags)
        return common.shell(called, text)
    if items and items[0].items is None and len(items) == 1:
        return common.shell(called, items[0])
    return common.words(called, items)


def take_options(called: Called, options: dict[str, Val] | None) -> None:
    """The options of a process, where Python has keywords."""
    for name in ("stdio", "cwd", "env", "input"):
        if options is not None and name in options:
            called.keywords[name] = options[name]


def exec_(called: Called) -> Val:
    for value in called.arguments[1:]:
        if value.fields is not None:
            take_options(called, value.fields)
    return common.shell(called, called.argument(0))


def function(called: Called) -> Val:
    """``Function(names..., body)``."""
    if called.arguments:
        common.code(called, called.arguments[-1], "javascript")
    return Val(ref="Function()")


def timer(called: Called) -> Val | None:
    """A text given to ``setTimeout`` is run."""
    value = called.argument(0)
    if value is not None and value.text is not None:
        common.code(called, value, "javascript")
    return None


def buffer(called: Called) -> Val | None:
    value, codec = called.argument(0), called.argument(1)
    name = codec.text if codec is not None else None
    if name in ("base64", "base64url"):
        return common.decoder("base64")(called)
    if name == "hex":
        return common.decoder("hex")(called)
    if value is not None and value.items is not None:
        return codes(value.items)
    return value


def codes(items: list[Val]) -> Val | None:
    numbers = [item.number for item in items]
    if not all(isinstance(number, int) and 0 <= number < 0xD800 for number in numbers):
        return None
    return Val("".join(chr(int(number or 0)) for number in numbers))


def from_codes(called: Called) -> Val | None:
    return codes(called.arguments)


def alloc(called: Called) -> Val:
    value = called.argument(0)
    huge = value is not None and value.number is not None and value.number >= 1 << 20
    return Val(tags=frozenset({"huge"}) if huge else frozenset())


def parse_int(called: Called) -> Val | None:
    value, base = called.argument(0), called.argument(1)
    if value is None or value.text is None or len(value.text) > 64:
        return value
    try:
        return Val(number=int(value.text, int(base.number) if base and base.number else 10))
    except ValueError:
        return None


def path_join(called: Called) -> Val:
    text = posixpath.join("", *(value.as_text().text for value in called.arguments))
    return Val(text[:LONGEST], tags=called.tags())


def remove(called: Called) -> Val:
    recursive = any("recursive" in (value.fields or {}) for value in called.arguments)
    always = called.function.ref in ("rimraf", "fs.remove", "fs.removeSync", "fs.emptyDirSync",
                                     "fs.emptyDir", "del", "del.sync", "shelljs.rm")  # fmt: skip
    flags = ("recursive",) if recursive or always else ()
    for value in called.arguments:
        if value.text is not None:
            common.delete(called, value, *flags)
    return unknown()


def write(called: Called) -> Val:
    append = "append" in (called.name or called.function.ref or "")
    path = common.path_of(called.argument(0))
    return common.write(called, path, called.argument(1), append=append)


def stream(called: Called) -> Val:
    mode = "w" if "Write" in called.name or "Write" in (called.function.ref or "") else "r"
    return common.opened(called, called.argument(0), mode)


def write_stream(called: Called) -> Val | None:
    """``write`` of a file that is open, or of a connection."""
    receiver = called.receiver
    if receiver is None:
        return None
    if receiver.ref == "file()" and receiver.path is not None:
        return common.write(called, common.path_of(receiver), called.argument(0), append=True)
    if "socket" in receiver.tags or "network" in receiver.tags:
        common.send(called)
    return None


def pipe(called: Called) -> Val | None:
    """A shell whose streams go through a connection."""
    receiver, target = called.receiver, called.argument(0)
    if receiver is None or target is None:
        return None
    here, there = receiver.all_tags(), target.all_tags()
    if ("socket" in here and "shell-process" in there) or (
        "shell-process" in here and "socket" in there
    ):
        called.effect("shell-on-socket")
    if receiver.ref == "file()" and receiver.path is not None and target.ref is not None:
        tags = common.content(called, receiver.path).tags
        if tags and ("socket" in there or "network" in there):
            called.effect("send", tags=tags)
    if target.ref == "file()" and target.path is not None:
        common.write(called, common.path_of(target), receiver)
    return target


def read(called: Called) -> Val:
    made = common.read(called, called.argument(0))
    return Val(made.text, tags=made.tags, ref=None if made.text is not None else "read()")


def bound(called: Called) -> Val | None:
    """``f.bind(...)`` is ``f``; ``f.call(this, ...)`` and ``f.apply(this, [...])`` call it."""
    function = called.receiver
    if function is None:
        return None
    if called.name == "bind":
        return function
    arguments = called.arguments[1:]
    if called.name == "apply" and arguments and arguments[0].items is not None:
        arguments = arguments[0].items
    if function.function is not None:
        return called.follower.call_function(function.function, arguments, {})
    name = (function.ref or "").rpartition(".")[2]
    one = type(called)(called.follower, called.node, name, function, None, arguments, {})
    return called.follower.library.call(one)


def map_(called: Called) -> Val | None:
    """``items.map(f)`` and ``items.forEach(f)``, with what ``f`` gives for each."""
    receiver, function = called.receiver, called.argument(0)
    if receiver is None or function is None:
        return None
    items = receiver.items
    if items is None:
        if receiver.ref is None or receiver.path is None:
            return None
        items = [called.follower.library.element(receiver)]
    made = []
    for item in items[:1024]:
        if function.ref == "String.fromCharCode":
            made.append(codes([item]) or unknown())
        elif function.ref is not None:
            name = function.ref.rpartition(".")[2]
            one = type(called)(called.follower, called.node, name, function, None, [item], {})
            made.append(called.follower.library.call(one))
        else:
            made.append(apply(called.follower, function, item))
    return Val(items=made)


def reflected(called: Called) -> Val | None:
    """``Reflect.apply(f, this, arguments)``."""
    if len(called.arguments) < 3:
        return None
    function, _, given = called.arguments[:3]
    arguments = given.items or []
    if function.function is not None:
        return called.follower.call_function(function.function, arguments, {})
    name = (function.ref or "").rpartition(".")[2]
    one = type(called)(called.follower, called.node, name, function, None, arguments, {})
    return called.follower.library.call(one)


def connection(called: Called) -> Val:
    return common.connection(called)


def socket_method(called: Called) -> Val | None:
    """What a connection's methods give is the connection, or comes from it."""
    receiver = called.receiver
    if receiver is not None and receiver.ref == "socket()":
        return receiver
    return None


def constructor(called: Called) -> Val | None:
    """``[].constructor.constructor('code')()``."""
    value = called.argument(0)
    if value is not None and value.text is not None:
        return common.code(called, value, "javascript")
    return None


def method_shell(called: Called) -> Val | None:
    value = called.argument(0)
    if value is None or value.text is None:
        return None
    return common.shell(called, value) if called.name.startswith("exec") else spawn(called)
