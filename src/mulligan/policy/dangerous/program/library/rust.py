"""Rust's standard library, as far as it starts programs and uses files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.program.library import common
from mulligan.policy.dangerous.program.value import Val

if TYPE_CHECKING:
    from mulligan.policy.dangerous.program.library.base import Called, Handler

NAMES: Final[dict[str, str]] = {"std": "std", "libc": "libc", "String": "String", "Path": "Path"}
MODULES: Final[dict[str, str]] = {
    "tokio.process.Command": "process.Command",
    "async_std.process.Command": "process.Command",
    "Command": "process.Command",
    "tokio.fs": "fs",
}


def _command(called: Called) -> Val:
    return Val(ref="Command()", items=list(called.arguments[:1]))


def _argument(called: Called) -> Val | None:
    receiver, value = called.receiver, called.argument(0)
    if receiver is None or receiver.ref != "Command()" or receiver.items is None or value is None:
        return None
    receiver.items.extend(value.items if called.name == "args" and value.items else [value])
    return receiver


def _same_command(called: Called) -> Val | None:
    receiver = called.receiver
    if receiver is None or receiver.ref != "Command()":
        return None
    for value in called.arguments:
        if "socket" in value.all_tags():
            called.effect("shell-on-socket")
    return receiver


def _start(called: Called) -> Val | None:
    receiver = called.receiver
    if receiver is None or receiver.ref != "Command()":
        return None
    return common.words(called, receiver.items or [])


def _text(called: Called) -> Val | None:
    return called.argument(0)


FUNCTIONS: Final[dict[str, Handler]] = {
    "process.Command.new": _command,
    "String.from": _text,
    "Path.new": _text,
    "path.Path.new": _text,
    "path.PathBuf.from": _text,
    "libc.system": common.shell_at(0),
    "fs.remove_dir_all": common.delete_at(0, "recursive"),
    "fs.remove_file": common.delete_at(0),
    "fs.remove_dir": common.delete_at(0),
    "fs.read": common.read_at(0),
    "fs.read_to_string": common.read_at(0),
    "fs.File.open": common.read_at(0),
    "fs.write": common.write_at(0, 1),
    "fs.File.create": common.write_at(0, 9),
    "net.TcpStream.connect": common.connection,
    "net.TcpListener.bind": common.connection,
    "reqwest.blocking.get": common.fetch,
    "reqwest.get": common.fetch,
}

METHODS: Final[dict[str, Handler]] = {
    "arg": _argument,
    "args": _argument,
    "stdin": _same_command,
    "stdout": _same_command,
    "stderr": _same_command,
    "env": _same_command,
    "current_dir": _same_command,
    "spawn": _start,
    "output": _start,
    "status": _start,
    "exec": _start,
    "unwrap": common.receiver,
    "expect": common.receiver,
    "try_clone": common.receiver,
    "as_raw_fd": common.receiver,
    "send": common.send,
    "body": common.send,
}
