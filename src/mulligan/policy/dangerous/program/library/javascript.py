"""JavaScript's globals, Node's modules, and a few packages everybody uses."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.program import fold
from mulligan.policy.dangerous.program.library import common
from mulligan.policy.dangerous.program.value import Val, unknown
from mulligan.policy.dangerous.values import LONGEST, UNKNOWN

if TYPE_CHECKING:
    from mulligan.policy.dangerous.program.library.base import Called, Handler

NAMES: Final[dict[str, str]] = {
    name: name
    for name in [
        "require",
        "eval",
        "Function",
        "process",
        "fetch",
        "Buffer",
        "globalThis",
        "atob",
        "btoa",
        "unescape",
        "String",
        "console",
        "decodeURIComponent",
        "decodeURI",
        "setTimeout",
        "setInterval",
        "setImmediate",
        "import",
        "Deno",
        "Bun",
        "Array",
        "XMLHttpRequest",
        "WebSocket",
        "JSON",
        "Object",
        "Reflect",
        "Promise",
        "Number",
        "parseInt",
        "parseFloat",
        "navigator",
    ]
} | {
    "global": "globalThis",
    "window": "globalThis",
    "self": "globalThis",
    "module": "module",
    "__filename": "__filename",
    "$": "zx.$",
}
MODULES: Final[dict[str, str]] = {
    "fs/promises": "fs",
    "fs-extra": "fs",
    "graceful-fs": "fs",
    "fs.promises": "fs",
    "timers/promises": "timers",
    "process.mainModule.require": "require",
    "module.require": "require",
    "globalThis.require": "require",
    "globalThis.eval": "eval",
    "globalThis.process": "process",
    "globalThis.Function": "Function",
    "globalThis.fetch": "fetch",
    "globalThis.atob": "atob",
    "globalThis.setTimeout": "setTimeout",
    "globalThis.Buffer": "Buffer",
    "module.constructor": "module",
    "process.mainModule": "module",
    "require.main": "module",
    "cross-spawn": "child_process.spawn",
    "node-fetch": "fetch",
    "undici.fetch": "fetch",
    "rimraf": "rimraf",
    "rimraf.rimraf": "rimraf",
    "rimraf.sync": "rimraf",
    "del": "del",
    "import": "require",
}


def _require(called: Called) -> Val | None:
    name = called.argument(0)
    if name is None or name.text is None or UNKNOWN in name.text:
        return Val(ref="require()", tags=called.tags())
    return called.follower.library.module(name.text)


def _spawn(called: Called) -> Val:
    """``spawn(program, words, options)``; with the option ``shell`` the words are joined."""
    arguments = called.arguments
    items = list(arguments[:1])
    if items and items[0].items is not None:
        items = list(items[0].items)
    options = None
    for value in arguments[1:]:
        if value.items is not None:
            items.extend(value.items)
        elif value.fields is not None:
            options = value.fields
    _options(called, options)
    if options is not None and "shell" in options:
        parts = [Val(" "), *items]
        text = Val(" ".join(item.as_text().text for item in items), tags=fold.joined(parts).tags)
        return common.shell(called, text)
    if items and items[0].items is None and len(items) == 1:
        return common.shell(called, items[0])
    return common.words(called, items)


def _options(called: Called, options: dict[str, Val] | None) -> None:
    """The options of a process, where Python has keywords."""
    for name in ("stdio", "cwd", "env", "input"):
        if options is not None and name in options:
            called.keywords[name] = options[name]


def _exec(called: Called) -> Val:
    for value in called.arguments[1:]:
        if value.fields is not None:
            _options(called, value.fields)
    return common.shell(called, called.argument(0))


def _function(called: Called) -> Val:
    """``Function(names..., body)``."""
    if called.arguments:
        common.code(called, called.arguments[-1], "javascript")
    return Val(ref="Function()")


def _timer(called: Called) -> Val | None:
    """A text given to ``setTimeout`` is run."""
    value = called.argument(0)
    if value is not None and value.text is not None:
        common.code(called, value, "javascript")
    return None


def _buffer(called: Called) -> Val | None:
    value, codec = called.argument(0), called.argument(1)
    name = codec.text if codec is not None else None
    if name in ("base64", "base64url"):
        return common.decoder("base64")(called)
    if name == "hex":
        return common.decoder("hex")(called)
    if value is not None and value.items is not None:
        return _codes(value.items)
    return value


def _codes(items: list[Val]) -> Val | None:
    numbers = [item.number for item in items]
    if not all(isinstance(number, int) and 0 <= number < 0xD800 for number in numbers):
        return None
    return Val("".join(chr(int(number or 0)) for number in numbers))


def _from_codes(called: Called) -> Val | None:
    return _codes(called.arguments)


def _alloc(called: Called) -> Val:
    value = called.argument(0)
    huge = value is not None and value.number is not None and value.number >= 1 << 20
    return Val(tags=frozenset({"huge"}) if huge else frozenset())


def _parse_int(called: Called) -> Val | None:
    value, base = called.argument(0), called.argument(1)
    if value is None or value.text is None or len(value.text) > 64:
        return value
    try:
        return Val(number=int(value.text, int(base.number) if base and base.number else 10))
    except ValueError:
        return None


def _path_join(called: Called) -> Val:
    text = posixpath.join("", *(value.as_text().text for value in called.arguments))
    return Val(text[:LONGEST], tags=called.tags())


def _remove(called: Called) -> Val:
    recursive = any("recursive" in (value.fields or {}) for value in called.arguments)
    always = called.function.ref in ("rimraf", "fs.remove", "fs.removeSync", "fs.emptyDirSync",
                                     "fs.emptyDir", "del", "del.sync", "shelljs.rm")  # fmt: skip
    flags = ("recursive",) if recursive or always else ()
    for value in called.arguments:
        if value.text is not None:
            common.delete(called, value, *flags)
    return unknown()


def _write(called: Called) -> Val:
    append = "append" in (called.name or called.function.ref or "")
    path = common.path_of(called.argument(0))
    return common.write(called, path, called.argument(1), append=append)


def _stream(called: Called) -> Val:
    mode = "w" if "Write" in called.name or "Write" in (called.function.ref or "") else "r"
    return common.opened(called, called.argument(0), mode)


def _write_stream(called: Called) -> Val | None:
    """``write`` of a file that is open, or of a connection."""
    receiver = called.receiver
    if receiver is None:
        return None
    if receiver.ref == "file()" and receiver.path is not None:
        return common.write(called, common.path_of(receiver), called.argument(0), append=True)
    if "socket" in receiver.tags or "network" in receiver.tags:
        common.send(called)
    return None


def _pipe(called: Called) -> Val | None:
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


def _read(called: Called) -> Val:
    made = common.read(called, called.argument(0))
    return Val(made.text, tags=made.tags, ref=None if made.text is not None else "read()")


def _bound(called: Called) -> Val | None:
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


def _map(called: Called) -> Val | None:
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
            made.append(_codes([item]) or unknown())
        elif function.ref is not None:
            name = function.ref.rpartition(".")[2]
            one = type(called)(called.follower, called.node, name, function, None, [item], {})
            made.append(called.follower.library.call(one))
        else:
            made.append(called.follower.apply(function, item))
    return Val(items=made)


def _reflected(called: Called) -> Val | None:
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


def _connection(called: Called) -> Val:
    return common.connection(called)


def _socket_method(called: Called) -> Val | None:
    """What a connection's methods give is the connection, or comes from it."""
    receiver = called.receiver
    if receiver is not None and receiver.ref == "socket()":
        return receiver
    return None


def _constructor(called: Called) -> Val | None:
    """``[].constructor.constructor('code')()``."""
    value = called.argument(0)
    if value is not None and value.text is not None:
        return common.code(called, value, "javascript")
    return None


def _method_shell(called: Called) -> Val | None:
    value = called.argument(0)
    if value is None or value.text is None:
        return None
    return common.shell(called, value) if called.name.startswith("exec") else _spawn(called)


FUNCTIONS: Final[dict[str, Handler]] = {
    "require": _require,
    "createRequire": _require,
    "process.binding": common.opaque("binding"),
    **dict.fromkeys(("child_process.exec", "child_process.execSync", "shelljs.exec",
                     "execa.execaCommand",
                     "execa.command", "zx.$", "zx.$`", "Bun.$", "node-cmd.run",
                     "child-process-promise.exec"),
                    _exec),
    **dict.fromkeys(("child_process.spawn", "child_process.spawnSync", "child_process.fork", "child_process.execFile",
                     "child_process.execFileSync", "execa", "execa.execa", "execa.sync",
                     "execa.execaSync", "node-pty.spawn", "Bun.spawn", "Bun.spawnSync",
                     "Deno.Command", "Deno.run"), _spawn),
    "Reflect.apply": _reflected,
    "eval": common.code_at(0, "javascript"),
    "Function": _function,
    "setTimeout": _timer,
    "setInterval": _timer,
    "vm.runInNewContext": common.code_at(0, "javascript"),
    "vm.runInThisContext": common.code_at(0, "javascript"),
    "vm.runInContext": common.code_at(0, "javascript"),
    "vm.Script": common.code_at(0, "javascript"),
    "vm.compileFunction": common.code_at(0, "javascript"),
    "module._compile": common.code_at(0, "javascript"),
    "Buffer.from": _buffer,
    "Buffer": _buffer,
    "Buffer.alloc": _alloc,
    "Buffer.allocUnsafe": _alloc,
    "Array": _alloc,
    "atob": common.decoder("base64"),
    "unescape": common.decoder("url"),
    "decodeURIComponent": common.decoder("url"),
    "decodeURI": common.decoder("url"),
    "String.fromCharCode": _from_codes,
    "String.fromCodePoint": _from_codes,
    "String": common.same,
    "parseInt": _parse_int,
    "Number": _parse_int,
    "zlib.gunzipSync": common.decoder("zlib"),
    "zlib.inflateSync": common.decoder("zlib"),
    "zlib.unzipSync": common.decoder("zlib"),
    "zlib.inflateRawSync": common.decoder("zlib"),
    "os.homedir": common.home,
    "os.tmpdir": common.constant("/tmp"),  # noqa: S108  (a name that is judged)
    "util.promisify": common.same,
    "Promise.resolve": common.same,
    "path.join": _path_join,
    "path.resolve": _path_join,
    "path.posix.join": _path_join,
    "path.normalize": common.same,
    **dict.fromkeys(("fs.rm", "fs.rmSync", "fs.rmdir", "fs.rmdirSync", "fs.unlink", "fs.unlinkSync",
                     "rimraf", "fs.remove", "fs.removeSync", "fs.emptyDirSync", "fs.emptyDir",
                     "del",
                     "del.sync", "Deno.remove", "Deno.removeSync", "shelljs.rm"), _remove),
    **dict.fromkeys(("fs.readFile", "fs.readFileSync", "Deno.readTextFile", "Deno.readTextFileSync",
                     "Deno.readFile", "Bun.file"), _read),
    **dict.fromkeys(("fs.writeFile", "fs.writeFileSync", "fs.appendFile", "fs.appendFileSync",
                     "Deno.writeTextFile", "Deno.writeTextFileSync", "Bun.write", "fs.outputFile",
                     "fs.truncateSync", "fs.truncate"), _write),
    **dict.fromkeys(("fs.createReadStream", "fs.createWriteStream", "fs.open",
                     "fs.openSync"), _stream),
    **dict.fromkeys(("fs.readdir", "fs.readdirSync"), common.walked("walk-names")),
    **dict.fromkeys(("fs.copyFile", "fs.copyFileSync", "fs.cp", "fs.cpSync"), common.read_at(0)),
    **dict.fromkeys(("net.connect", "net.createConnection", "net.Socket", "net.createServer",
                     "net.Server",
                     "tls.connect", "tls.createServer", "dgram.createSocket", "WebSocket", "ws",
                     "http.createServer", "https.createServer", "http.Server",
                     *(f"express().{verb}" for verb in ("get", "post", "put", "all", "use", "delete")),
                     "Deno.connect", "Bun.connect"), _connection),
    **dict.fromkeys(("fetch", "http.get", "https.get", "http.request", "https.request", "axios",
                     "axios.get", "axios.post", "axios.put", "axios.request", "got", "got.post",
                     "got.get", "request", "request.post", "request.get", "superagent.post",
                     "superagent.get", "needle", "dns.resolve", "dns.lookup", "dns.resolveTxt",
                     "navigator.sendBeacon"), common.fetch),
}  # fmt: skip

METHODS: Final[dict[str, Handler]] = {
    "pipe": _pipe,
    "write": _write_stream,
    "end": _write_stream,
    "send": common.send,
    "post": common.send,
    "bind": _bound,
    "call": _bound,
    "apply": _bound,
    "then": common.receiver,
    "finally": common.receiver,
    **dict.fromkeys(("map", "forEach", "flatMap", "some", "every", "filter", "find"), _map),
    "constructor": _constructor,
    "execSync": _method_shell,
    "spawnSync": _method_shell,
    "execFileSync": _method_shell,
    "runInThisContext": lambda _called: unknown(),
    "connect": _socket_method,
    "on": _socket_method,
    "once": _socket_method,
}
