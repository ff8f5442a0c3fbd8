"""What single functions of Python's library do, where that takes more than a line."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.program import bombs, fold, ir
from mulligan.policy.dangerous.program.calling import apply
from mulligan.policy.dangerous.program.library import common
from mulligan.policy.dangerous.program.value import Val, unknown
from mulligan.policy.dangerous.values import HOME, LONGEST, UNKNOWN

if TYPE_CHECKING:
    from mulligan.policy.dangerous.program.library.base import Called, Handler

_WRITING: Final = frozenset({"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"})


def subprocess(called: Called) -> Val:
    return common.shell(called, called.argument(0, "args"))


def import_(called: Called) -> Val | None:
    name = called.argument(0, "name")
    if name is None or name.text is None or UNKNOWN in name.text:
        return None
    library = called.follower.library
    return library.module(name.text)


def getattr_(called: Called) -> Val | None:
    if len(called.arguments) < 2:
        return None
    base, name = called.arguments[:2]
    if name.text is None or UNKNOWN in name.text:
        return Val(ref=f"{base.ref or '?'}.?", tags=base.tags)
    return called.follower.attribute(base, name.text)


def globals_(called: Called) -> Val:
    if called.arguments:
        return called.arguments[0]
    return Val(ref="globals()")


def chr_(called: Called) -> Val | None:
    value = called.argument(0)
    number = value.number if value is not None else None
    if isinstance(number, int | float) and 0 <= number < 0x110000 and not 0xD800 <= number < 0xE010:
        return Val(chr(int(number)))
    return None


def ord_(called: Called) -> Val | None:
    value = called.argument(0)
    if value is not None and value.text is not None and len(value.text) == 1:
        return Val(number=ord(value.text))
    return None


def int_(called: Called) -> Val | None:
    value, base = called.argument(0), called.argument(1, "base")
    if value is None or value.text is None or len(value.text) > 64:
        return Val(number=value.number) if value is not None and value.number is not None else None
    try:
        return Val(
            number=int(value.text, int(base.number) if base and base.number is not None else 10)
        )
    except ValueError:
        return None


def text(called: Called) -> Val | None:
    """``str``, ``bytes`` and ``list`` of a value."""
    value = called.argument(0)
    if value is None:
        return Val("")
    if called.function.ref in ("bytes", "bytearray") and value.number is not None:
        huge = value.number >= 1 << 20
        return Val(tags=frozenset({"huge"}) if huge else frozenset())
    if value.items is not None and called.function.ref in ("bytes", "bytearray"):
        numbers = [item.number for item in value.items]
        if all(isinstance(number, int | float) and 0 <= number < 256 for number in numbers):
            return Val("".join(chr(int(number or 0)) for number in numbers))
    return value


def list_(called: Called) -> Val | None:
    value = called.argument(0)
    if value is None:
        return Val(items=[])
    if value.text is not None and UNKNOWN not in value.text:
        return Val(items=[Val(character) for character in value.text[:4096]])
    return value


def map_(called: Called) -> Val | None:
    function, values = called.argument(0), called.argument(1)
    if function is None or values is None or values.items is None:
        return None
    made = []
    for item in values.items[:4096]:
        if function.function is not None:
            made.append(apply(called.follower, function, item))
        elif function.ref == "chr" and isinstance(item.number, int):
            made.append(Val(chr(item.number % 0x110000)))
        else:
            one = type(called)(called.follower, called.node, "", function, None, [item], {})
            made.append(called.follower.library.call(one))
    return Val(items=made)


def reversed_(called: Called) -> Val | None:
    value = called.argument(0)
    if value is not None and value.items is not None:
        return Val(items=value.items[::-1])
    if value is not None and value.text is not None:
        return Val(value.text[::-1])
    return None


def compile_(called: Called) -> Val | None:
    """The text again: it is judged where it is run."""
    value = called.argument(0, "source")
    return Val(value.text, tags=value.tags) if value is not None else None


def open_(called: Called) -> Val:
    mode = called.argument(1, "mode")
    value = called.argument(0, "file")
    if called.name == "open" and called.receiver is not None and called.receiver.path is not None:
        return common.opened(
            called, called.receiver, (called.argument(0, "mode") or Val("r")).text or ""
        )
    return common.opened(called, value, (mode.text if mode is not None else "r") or "")


def method_open(called: Called) -> Val | None:
    """``open`` of a path, not of anything else that has such a method."""
    if called.receiver is None or called.receiver.ref != "pathlib.Path()":
        return None
    return open_(called)


def temporary(_called: Called) -> Val:
    """A file with a name nobody chose."""
    path = "/tmp/tmp.made"  # noqa: S108  (a name that is judged, no file)
    return Val(ref="file()", path=path, fields={"name": Val(path)})


def os_open(called: Called) -> Val:
    """``os.open``: its flags are looked for by name, put together as they may be."""
    names = {
        part.name if isinstance(part, ir.Attr | ir.Name) else ""
        for part in bombs.below(list(called.node.arguments[1:2]))
    }
    return common.opened(called, called.argument(0), "w" if _WRITING & names else "r")


def path(called: Called) -> Val:
    text = joined_path(called.arguments)
    tags = called.tags()
    return Val(text, ref="pathlib.Path()", path=text, tags=tags)


def joined_path(values: list[Val]) -> str:
    return posixpath.join("", *(value.as_text().text for value in values))[:LONGEST]


def path_join(called: Called) -> Val:
    return Val(joined_path(called.arguments), tags=called.tags())


def expanduser(called: Called) -> Val | None:
    value = called.argument(0)
    if value is None or value.text is None:
        return None
    text = HOME + value.text[1:] if value.text[:1] == "~" else value.text
    return Val(text, tags=value.tags)


def method_expanduser(called: Called) -> Val | None:
    receiver = called.receiver
    if receiver is None or receiver.path is None:
        return None
    text = HOME + receiver.path[1:] if receiver.path[:1] == "~" else receiver.path
    return Val(text, ref=receiver.ref, path=text, tags=receiver.tags)


def home_path(_called: Called) -> Val:
    return Val(HOME, ref="pathlib.Path()", path=HOME)


def os_getenv(called: Called) -> Val | None:
    name = called.argument(0)
    if name is not None and name.text == "HOME":
        return Val(HOME)
    return called.argument(1) or Val(ref="os.environ[]")


def read_file(called: Called) -> Val | None:
    receiver = called.receiver
    if receiver is None or receiver.path is None:
        return None
    if receiver.ref == "file()":
        text = common.content(called, receiver.path)
        return Val(text.text if text.known else None, tags=text.tags | receiver.tags)
    return common.read(called, receiver)


def write_file(called: Called) -> Val | None:
    receiver = called.receiver
    if receiver is None:
        return None
    if "shell-process" in receiver.tags and "socket" in called.tags():
        called.effect("shell-on-socket")
    if receiver.path is None:
        return common.send(called) if "socket" in receiver.tags else None
    append = called.name == "write"
    return common.write(called, common.path_of(receiver), called.argument(0, "data"), append=append)


def path_delete(*flags: str) -> Handler:
    def handler(called: Called) -> Val | None:
        if called.receiver is None or called.receiver.ref != "pathlib.Path()":
            return None
        return common.delete(called, called.receiver, *flags)

    return handler


def path_list(called: Called) -> Val | None:
    if called.receiver is None or called.receiver.ref != "pathlib.Path()":
        return None
    return Val(ref="walk", path=called.receiver.path)


def join_path(called: Called) -> Val | None:
    receiver = called.receiver
    if receiver is None or receiver.ref != "pathlib.Path()":
        return None
    text = joined_path([Val(receiver.path), *called.arguments])
    return Val(text, ref=receiver.ref, path=text)


def format_(called: Called) -> Val | None:
    if called.receiver is None or called.receiver.text is None:
        return None
    return fold.template(called.receiver, called.arguments, called.keywords)


def move(called: Called) -> Val:
    target = common.path_of(called.argument(1, "dst"))
    flags = ("recursive",) if target == "/dev/null" else ("moved",)
    common.delete(called, called.argument(0, "src"), *flags)
    return common.write(called, target, None)


def copy(called: Called) -> Val:
    source = common.read(called, called.argument(0, "src"))
    return common.write(called, common.path_of(called.argument(1, "dst")), source)


def link(called: Called) -> Val:
    called.effect("link", common.path_of(called.argument(0)))
    return unknown()


def retrieve(called: Called) -> Val:
    """A file that comes over the network."""
    common.fetch(called)
    target = called.argument(1, "filename")
    if target is not None:
        return common.write(called, common.path_of(target), Val(tags=common.NETWORK))
    return Val(tags=common.NETWORK)


def codecs(called: Called) -> Val | None:
    codec = called.argument(1, "encoding")
    name = (codec.text or "" if codec is not None else "").lower().replace("_", "").replace("-", "")
    named = {"rot13": "rot13", "base64": "base64", "hex": "hex", "zlib": "zlib", "hexcodec": "hex",
             "base64codec": "base64", "zlibcodec": "zlib", "bz2": "zlib"}  # fmt: skip
    if name in named:
        return common.decoder(named[name])(called)
    return common.same(called)


def dup2(called: Called) -> Val:
    """A connection in place of a standard stream: what a shell needs to be reached from outside."""
    if "socket" in called.tags():
        called.effect("shell-on-socket")
    return unknown()


def method_shell(called: Called) -> Val | None:
    """``thing.system(text)``, whatever the thing is."""
    value = called.argument(0)
    if value is None or (value.text is None and value.items is None and not value.tags):
        return None
    return common.shell(called, value)


def method_caller(called: Called) -> Val | None:
    """``methodcaller("system", text)`` is taken as the call it will be."""
    if len(called.arguments) > 1 and called.arguments[0].text in ("system", "popen", "run"):
        return common.shell(called, called.arguments[1])
    return None


def partial(called: Called) -> Val | None:
    """``partial(f, x)`` is taken as the call it will be."""
    if not called.arguments:
        return None
    function, *rest = called.arguments
    if function.ref is None:
        return function
    name = function.ref.rpartition(".")[2]
    one = type(called)(called.follower, called.node, name, function, None, rest, called.keywords)
    return called.follower.library.call(one)


def thread(called: Called) -> Val:
    """``Thread(target=f, args=(...))`` calls ``f``."""
    target, given = called.keywords.get("target"), called.keywords.get("args")
    items = (given.items or []) if given is not None else []
    if target is not None and target.function is not None:
        called.follower.call_function(target.function, items, {})
    elif target is not None and target.ref is not None:
        name = target.ref.rpartition(".")[2]
        one = type(called)(called.follower, called.node, name, target, None, items, {})
        called.follower.library.call(one)
    return Val(ref=f"{called.function.ref}()")


def walk(called: Called) -> Val:
    value = called.argument(0)
    text = value.as_text().text if value is not None else "."
    return Val(ref="walk()", path=text)


def environment(called: Called) -> Val | None:
    return Val(ref="os.environ[]") if called.function.ref == "os.environ.get" else None


def words(called: Called) -> Val | None:
    value = called.argument(0)
    return fold.words(value) if value is not None else None
