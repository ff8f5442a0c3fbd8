"""What functions of all languages do: start programs, run code, use files and the network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous import decode
from mulligan.policy.dangerous.paths import canonical
from mulligan.policy.dangerous.program import bombs
from mulligan.policy.dangerous.program.value import Val, unknown
from mulligan.policy.dangerous.shell.invocation import Invocation
from mulligan.policy.dangerous.shell.invoke import invoke
from mulligan.policy.dangerous.shell.state import State
from mulligan.policy.dangerous.shell.walk import Shell
from mulligan.policy.dangerous.values import HOME, NO_TAGS, UNKNOWN, Text, anything, joined

if TYPE_CHECKING:
    from mulligan.policy.dangerous.program.library.base import Called, Handler

NETWORK: Final = frozenset({"network"})
SOCKET: Final = frozenset({"network", "socket"})
_FOLLOWED: Final = frozenset({"secret", "account-list"})
_SHELL_NAMES: Final = re.compile(r"(?:.*/)?(?:ba|z|da|k|a)?sh|cmd(?:\.exe)?")


def path_of(value: Val | None) -> str:
    """The path a value names, in one form."""
    if value is None:
        return "?"
    if value.path is not None and value.text is None:
        return canonical(HOME + value.path[1:] if value.path[:1] == "~" else value.path)
    text = value.as_text().text
    return canonical(HOME + text[1:] if text[:1] == "~" else text)


# Programs that are started


def shell(called: Called, value: Val | None) -> Val:
    """A text that a shell reads; or the words of a command."""
    if value is None:
        return unknown()
    if value.items is not None:
        return words(called, value.items)
    _on_socket(called, value.as_text())
    _stdin(called, value.as_text())
    output = called.follower.judgement.runs(value.as_text(), "bash", called.place)
    return process(called, value, output)


def words(called: Called, items: list[Val]) -> Val:
    """The words of a command, started without a shell."""
    arguments = [item.as_text() for item in items]
    if not arguments:
        return unknown()
    bombs.restarts(items, called.follower, called.node.at)
    _on_socket(called, arguments[0])
    place = called.place
    state = State()
    given = called.keywords.get("input") or called.keywords.get("stdin")
    stdin = given.as_text() if given is not None and (given.text or given.tags) else None
    working = called.keywords.get("cwd")
    if working is not None and working.text is not None:
        state.cwd = canonical(working.text)
    environment = called.keywords.get("env")
    variables = {
        name: value.as_text()
        for name, value in ((environment.fields if environment else None) or {}).items()
    }
    inner = Shell(called.follower.judgement, place.source, state)
    output = invoke(inner, Invocation(arguments, place, stdin, variables))
    return process(called, items[0], output)


def process(called: Called, command: Val, output: Text) -> Val:
    """What is known of a process that was started."""
    tags = output.tags - {"shell"}
    name = command.as_text().text.split(" ")[0]
    if _SHELL_NAMES.fullmatch(name):
        tags |= {"shell-process"}
    return Val(ref=f"{called.function.ref or '?'}()", tags=tags)


def _stdin(called: Called, command: Text) -> None:
    given = called.keywords.get("input")
    if given is not None and _SHELL_NAMES.fullmatch(command.text.strip()):
        called.follower.judgement.runs(given.as_text(), "bash", called.place)


def _on_socket(called: Called, command: Text) -> None:
    """A process whose input or output is a connection."""
    streams = [called.keywords.get(name) for name in ("stdin", "stdout", "stderr", "stdio")]
    if any(stream is not None and "socket" in stream.all_tags() for stream in streams):
        called.effect("shell-on-socket")
    if "socket" in command.tags:
        called.effect("run", tags=command.tags, flags=frozenset({"shell"}))


def command_of_name(called: Called) -> Val:
    """``sh.rm("-rf", path)``: the function is the command."""
    name = (called.function.ref or "").rpartition(".")[2]
    return words(called, [Val(name), *called.arguments])


def shell_at(at: int, keyword: str = "") -> Handler:
    """A function whose argument is a shell script."""

    def handler(called: Called) -> Val:
        return shell(called, called.argument(at, keyword))

    return handler


def words_from(at: int) -> Handler:
    """A function whose arguments are the words of a command: ``execlp(file, arg0, ...)``."""

    def handler(called: Called) -> Val:
        items: list[Val] = []
        for value in called.arguments[at:]:
            items.extend(value.items if value.items is not None else [value])
        return words(called, items)

    return handler


def program_and_words(at: int, *, named_again: bool) -> Handler:
    """``execv(path, words)``; ``named_again`` if the words begin with the name."""

    def handler(called: Called) -> Val:
        items: list[Val] = list(called.arguments[at : at + 1])
        following = called.arguments[at + 1 :]
        if following and following[0].items is not None:
            following = following[0].items
        return words(called, items + following[1 if named_again else 0 :])

    return handler


# Code that is run


def code(called: Called, value: Val | None, language: str) -> Val:
    """A text that is run as a program."""
    if value is None or value.function is not None:
        return unknown()
    called.follower.judgement.runs(value.as_text(), language, called.place)
    return unknown(value.tags)


def code_at(at: int, language: str) -> Handler:
    """A function whose argument is a program."""

    def handler(called: Called) -> Val | None:
        return code(called, called.argument(at, "source"), language)

    return handler


def decoder(codec: str, at: int = 0) -> Handler:
    """A function that decodes its argument."""

    def handler(called: Called) -> Val:
        value = called.argument(at)
        text = value.text if value is not None else None
        tags = value.all_tags() if value is not None else NO_TAGS
        if text is None or UNKNOWN in text:
            return Val(tags=tags | {"decoded"})
        data = decode.decoded(decode.bytes_of(text), codec)
        return (
            Val(decode.text_of(data), tags=tags)
            if data is not None
            else Val(tags=tags | {"decoded"})
        )

    return handler


def opaque(tag: str) -> Handler:
    """A function whose result is what nobody can see into."""

    def handler(called: Called) -> Val:
        return Val(ref=f"{called.function.ref}()", tags=called.tags() | {tag})

    return handler


# Files


def content(called: Called, path: str) -> Text:
    """What is known of what is in a file."""
    known = called.follower.judgement.files.get(path)
    if known is not None:
        return known
    return anything(called.follower.judgement.classes(path) & _FOLLOWED)


def read(called: Called, value: Val | None) -> Val:
    """Reading a file."""
    path = path_of(value)
    called.effect("read", path)
    text = content(called, path)
    tags = text.tags | (value.tags if value is not None else NO_TAGS)
    return Val(text.text if text.known else None, tags=tags)


def read_at(at: int) -> Handler:
    """A function that reads the file its argument names."""

    def handler(called: Called) -> Val:
        return read(called, called.argument(at))

    return handler


def write(called: Called, path: str, given: Val | None, *, append: bool = False) -> Val:
    """Writing to a file."""
    text = given.as_text() if given is not None else anything()
    flags = frozenset({"append" if append else "replace"})
    judgement = called.follower.judgement
    called.effect("write", path, tags=text.tags, flags=flags)
    before = judgement.files.get(path)
    judgement.files[path] = joined([before, text]) if before is not None and append else text
    if "startup" in judgement.classes(path):
        judgement.runs(text, "bash", called.place)
    return unknown()


def write_at(at: int, content_at: int) -> Handler:
    """A function that writes to the file its argument names."""

    def handler(called: Called) -> Val:
        given = called.argument(content_at)
        return write(called, path_of(called.argument(at)), given, append="append" in called.name)

    return handler


def delete_at(at: int, *flags: str) -> Handler:
    """A function that deletes the file or directory its argument names."""

    def handler(called: Called) -> Val:
        return delete(called, called.argument(at, "path"), *flags)

    return handler


def delete(called: Called, value: Val | None, *flags: str) -> Val:
    """Deleting a file or directory."""
    path = path_of(value)
    given = frozenset({*flags, "program"})
    called.effect("delete", path, flags=given, tags=value.tags if value is not None else NO_TAGS)
    return unknown()


def opened(called: Called, value: Val | None, mode: str) -> Val:
    """Opening a file; what is done with it is judged where it is done."""
    path = path_of(value)
    reads = not mode or "r" in mode or "+" in mode
    if reads:
        called.effect("read", path)
    if any(letter in mode for letter in "wax+"):
        flags = frozenset({"append" if "a" in mode else "replace"})
        called.effect("write", path, flags=flags)
    text = content(called, path)
    tags = text.tags if reads else NO_TAGS
    return Val(ref="file()", path=path, tags=tags)


def walked(ref: str) -> Handler:
    """A function that lists what is below a directory."""

    def handler(called: Called) -> Val:
        value = called.argument(0) or called.receiver
        text = value.as_text().text if value is not None else "."
        if value is not None and value.text is None and value.path is not None:
            text = value.path
        return Val(ref=ref, path=re.sub(r"/?[*?].*$", "", text) or "/" if text[:1] == "/" else text)

    return handler


def globbed(called: Called) -> Val:
    """A function that lists what a pattern matches."""
    value = called.argument(0)
    return Val(ref="glob", path=value.as_text().text if value is not None else UNKNOWN)


# The network


def fetch(called: Called) -> Val:
    """A request: what comes back is from the network, what is given goes there."""
    send(called)
    return Val(ref=f"{called.function.ref}()", tags=NETWORK)


def send(called: Called) -> Val | None:
    """Data that leaves."""
    tags = called.tags()
    for value in (*called.arguments, *called.keywords.values()):
        for inner in (value, *list((value.fields or {}).values())[:8]):
            if inner.path is not None and inner.ref == "file()":
                tags |= content(called, inner.path).tags
    if "shell-process" in tags:
        called.effect("shell-on-socket")
    if tags - NETWORK - {"socket"}:
        called.effect("send", tags=tags)
    return None


def connection(_called: Called) -> Val:
    """A connection that bytes go through."""
    return Val(ref="socket()", tags=SOCKET)


def received(_called: Called) -> Val:
    """Bytes from a connection."""
    return Val(tags=SOCKET)


def home(_called: Called) -> Val:
    """The home directory."""
    return Val(HOME)


def constant(text: str) -> Handler:
    """A function that always gives the same."""

    def handler(_called: Called) -> Val:
        return Val(text)

    return handler


def same(called: Called) -> Val | None:
    """A function that gives its first argument back, in another form."""
    return called.arguments[0] if called.arguments else None


def receiver(called: Called) -> Val | None:
    """A method that gives its object back."""
    return called.receiver
