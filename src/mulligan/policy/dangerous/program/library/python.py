"""Python's builtins and standard library, and a few packages everybody uses."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.program import fold
from mulligan.policy.dangerous.program.library import common
from mulligan.policy.dangerous.program.value import Val, unknown
from mulligan.policy.dangerous.values import HOME, LONGEST, UNKNOWN

if TYPE_CHECKING:
    from mulligan.policy.dangerous.program.library.base import Called, Handler

_BUILTINS: Final = (
    "exec eval compile open __import__ getattr setattr globals locals vars chr ord str bytes bytearray "
    "int list tuple map reversed sorted print input execfile file dir type len range format dict set "
    "repr isinstance hasattr iter next zip enumerate filter min max sum any all delattr breakpoint"
)
NAMES: Final[dict[str, str]] = {name: name for name in _BUILTINS.split()} | {
    "__builtins__": "builtins",
    "get_ipython": "get_ipython",
    "unicode": "str",
}
MODULES: Final[dict[str, str]] = {
    "posix": "os",
    "nt": "os",
    "posixpath": "os.path",
    "urllib2": "urllib.request",
    "urllib.urlopen": "urllib.request.urlopen",
    "urllib.urlretrieve": "urllib.request.urlretrieve",
    "urllib3": "requests",
    "httpx": "requests",
    "commands": "subprocess",
    "__builtin__": "builtins",
    "cPickle": "pickle",
    "_pickle": "pickle",
    "dill": "pickle",
    "cloudpickle": "pickle",
    "imp": "importlib",
    "io.open": "open",
    "codecs.open": "open",
    "os.fdopen": "open",
    "_posixsubprocess": "subprocess",
    "asyncio.subprocess": "asyncio",
    "wget.download": "urllib.request.urlretrieve",
    **{f"builtins.{name}": name for name in _BUILTINS.split()},
}


def _subprocess(called: Called) -> Val:
    return common.shell(called, called.argument(0, "args"))


def _import(called: Called) -> Val | None:
    name = called.argument(0, "name")
    if name is None or name.text is None or UNKNOWN in name.text:
        return None
    library = called.follower.library
    return library.module(name.text)


def _getattr(called: Called) -> Val | None:
    if len(called.arguments) < 2:  # noqa: PLR2004  (of what, and which)
        return None
    base, name = called.arguments[:2]
    if name.text is None or UNKNOWN in name.text:
        return Val(ref=f"{base.ref or '?'}.?", tags=base.tags)
    return called.follower.attribute(base, name.text)


def _globals(called: Called) -> Val:
    if called.arguments:
        return called.arguments[0]
    return Val(ref="globals()")


def _chr(called: Called) -> Val | None:
    value = called.argument(0)
    number = value.number if value is not None else None
    if isinstance(number, int | float) and 0 <= number < 0x110000 and not 0xD800 <= number < 0xE010:
        return Val(chr(int(number)))
    return None


def _ord(called: Called) -> Val | None:
    value = called.argument(0)
    if value is not None and value.text is not None and len(value.text) == 1:
        return Val(number=ord(value.text))
    return None


def _int(called: Called) -> Val | None:
    value, base = called.argument(0), called.argument(1, "base")
    if value is None or value.text is None or len(value.text) > 64:  # noqa: PLR2004
        return Val(number=value.number) if value is not None and value.number is not None else None
    try:
        return Val(number=int(value.text, int(base.number) if base and base.number is not None else 10))
    except ValueError:
        return None


def _text(called: Called) -> Val | None:
    """``str``, ``bytes`` and ``list`` of a value."""
    value = called.argument(0)
    if value is None:
        return Val("")
    if called.function.ref in ("bytes", "bytearray") and value.number is not None:
        huge = value.number >= 1 << 20
        return Val(tags=frozenset({"huge"}) if huge else frozenset())
    if value.items is not None and called.function.ref in ("bytes", "bytearray"):
        numbers = [item.number for item in value.items]
        if all(isinstance(number, int | float) and 0 <= number < 256 for number in numbers):  # noqa: PLR2004
            return Val("".join(chr(int(number or 0)) for number in numbers))
    return value


def _list(called: Called) -> Val | None:
    value = called.argument(0)
    if value is None:
        return Val(items=[])
    if value.text is not None and UNKNOWN not in value.text:
        return Val(items=[Val(character) for character in value.text[:4096]])
    return value


def _map(called: Called) -> Val | None:
    function, values = called.argument(0), called.argument(1)
    if function is None or values is None or values.items is None:
        return None
    made = []
    for item in values.items[:4096]:
        if function.function is not None:
            made.append(called.follower.call_function(function.function, [item], {}))
        elif function.ref == "chr" and isinstance(item.number, int):
            made.append(Val(chr(item.number % 0x110000)))
        else:
            one = type(called)(called.follower, called.node, "", function, None, [item], {})
            made.append(called.follower.library.call(one))
    return Val(items=made)


def _reversed(called: Called) -> Val | None:
    value = called.argument(0)
    if value is not None and value.items is not None:
        return Val(items=value.items[::-1])
    if value is not None and value.text is not None:
        return Val(value.text[::-1])
    return None


def _compile(called: Called) -> Val | None:
    """The text again: it is judged where it is run."""
    value = called.argument(0, "source")
    return Val(value.text, tags=value.tags) if value is not None else None


def _open(called: Called) -> Val:
    mode = called.argument(1, "mode")
    value = called.argument(0, "file")
    if called.name == "open" and called.receiver is not None and called.receiver.path is not None:
        return common.opened(called, called.receiver, (called.argument(0, "mode") or Val("r")).text or "")
    return common.opened(called, value, (mode.text if mode is not None else "r") or "")


def _os_open(called: Called) -> Val:
    flags = called.argument(1)
    writes = flags is not None and (flags.ref is None or "RDONLY" not in flags.ref)
    return common.opened(called, called.argument(0), "w" if writes else "r")


def _path(called: Called) -> Val:
    text = _joined_path(called.arguments)
    tags = called.tags()
    return Val(text, ref="pathlib.Path()", path=text, tags=tags)


def _joined_path(values: list[Val]) -> str:
    return posixpath.join("", *(value.as_text().text for value in values))[:LONGEST]


def _path_join(called: Called) -> Val:
    return Val(_joined_path(called.arguments), tags=called.tags())


def _expanduser(called: Called) -> Val | None:
    value = called.argument(0)
    if value is None or value.text is None:
        return None
    text = HOME + value.text[1:] if value.text[:1] == "~" else value.text
    return Val(text, tags=value.tags)


def _method_expanduser(called: Called) -> Val | None:
    receiver = called.receiver
    if receiver is None or receiver.path is None:
        return None
    text = HOME + receiver.path[1:] if receiver.path[:1] == "~" else receiver.path
    return Val(text, ref=receiver.ref, path=text, tags=receiver.tags)


def _home_path(_called: Called) -> Val:
    return Val(HOME, ref="pathlib.Path()", path=HOME)


def _os_getenv(called: Called) -> Val | None:
    name = called.argument(0)
    if name is not None and name.text == "HOME":
        return Val(HOME)
    return called.argument(1) or Val(ref="os.environ[]")


def _read_file(called: Called) -> Val | None:
    receiver = called.receiver
    if receiver is None or receiver.path is None:
        return None
    if receiver.ref == "file()":
        text = common.content(called, receiver.path)
        return Val(text.text if text.known else None, tags=text.tags | receiver.tags)
    return common.read(called, receiver)


def _write_file(called: Called) -> Val | None:
    receiver = called.receiver
    if receiver is None or receiver.path is None:
        return common.send(called) if receiver is not None and "socket" in receiver.tags else None
    append = called.name == "write"
    return common.write(called, common.path_of(receiver), called.argument(0, "data"), append=append)


def _path_delete(*flags: str) -> Handler:
    def handler(called: Called) -> Val | None:
        if called.receiver is None or called.receiver.ref != "pathlib.Path()":
            return None
        return common.delete(called, called.receiver, *flags)

    return handler


def _path_list(called: Called) -> Val | None:
    if called.receiver is None or called.receiver.ref != "pathlib.Path()":
        return None
    return Val(ref="walk", path=called.receiver.path)


def _join_path(called: Called) -> Val | None:
    receiver = called.receiver
    if receiver is None or receiver.ref != "pathlib.Path()":
        return None
    text = _joined_path([Val(receiver.path), *called.arguments])
    return Val(text, ref=receiver.ref, path=text)


def _format(called: Called) -> Val | None:
    if called.receiver is None or called.receiver.text is None:
        return None
    return fold.template(called.receiver, called.arguments, called.keywords)


def _move(called: Called) -> Val:
    target = common.path_of(called.argument(1, "dst"))
    flags = ("recursive",) if target == "/dev/null" else ("moved",)
    common.delete(called, called.argument(0, "src"), *flags)
    return common.write(called, target, None)


def _copy(called: Called) -> Val:
    source = common.read(called, called.argument(0, "src"))
    return common.write(called, common.path_of(called.argument(1, "dst")), source)


def _link(called: Called) -> Val:
    called.effect("link", common.path_of(called.argument(0)))
    return unknown()


def _retrieve(called: Called) -> Val:
    """A file that comes over the network."""
    common.fetch(called)
    target = called.argument(1, "filename")
    if target is not None:
        return common.write(called, common.path_of(target), Val(tags=common.NETWORK))
    return Val(tags=common.NETWORK)


def _codecs(called: Called) -> Val | None:
    codec = called.argument(1, "encoding")
    name = (codec.text or "" if codec is not None else "").lower().replace("_", "").replace("-", "")
    named = {"rot13": "rot13", "base64": "base64", "hex": "hex", "zlib": "zlib", "hexcodec": "hex",
             "base64codec": "base64", "zlibcodec": "zlib", "bz2": "zlib"}  # fmt: skip
    if name in named:
        return common.decoder(named[name])(called)
    return common.same(called)


def _dup2(called: Called) -> Val:
    """A connection in place of a standard stream: what a shell needs to be reached from outside."""
    if "socket" in called.tags():
        called.effect("shell-on-socket")
    return unknown()


def _method_shell(called: Called) -> Val | None:
    """``thing.system(text)``, whatever the thing is."""
    value = called.argument(0)
    if value is None or (value.text is None and value.items is None and not value.tags):
        return None
    return common.shell(called, value)


def _partial(called: Called) -> Val | None:
    """``partial(f, x)`` is taken as the call it will be."""
    if not called.arguments:
        return None
    function, *rest = called.arguments
    if function.ref is None:
        return function
    name = function.ref.rpartition(".")[2]
    one = type(called)(called.follower, called.node, name, function, None, rest, called.keywords)
    return called.follower.library.call(one)


def _thread(called: Called) -> Val:
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


def _walk(called: Called) -> Val:
    value = called.argument(0)
    text = value.as_text().text if value is not None else "."
    return Val(ref="walk()", path=text)


def _environment(called: Called) -> Val | None:
    return Val(ref="os.environ[]") if called.function.ref == "os.environ.get" else None


def _words(called: Called) -> Val | None:
    value = called.argument(0)
    return fold.words(value) if value is not None else None


FUNCTIONS: Final[dict[str, Handler]] = {
    **dict.fromkeys(
        ("os.system", "os.popen", "os.popen2", "os.popen3", "os.popen4", "subprocess.getoutput",
         "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "pexpect.run",
         "pexpect.spawn", "pexpect.spawnu", "platform.popen", "pty.spawn", "popen2.popen2",
         "popen2.popen3", "ctypes.CDLL().system", "ctypes.cdll.LoadLibrary().system", "cd.system",
         "get_ipython().system", "get_ipython().getoutput", "get_ipython().run_cell_magic",
         "os.posix_spawnp_", "invoke.run", "fabric.run", "plumbum.local", "sh.Command"),
        common.shell_at(0, "command"),
    ),
    **dict.fromkeys(
        ("subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output",
         "subprocess.Popen", "psutil.Popen"),
        _subprocess,
    ),
    **dict.fromkeys(("os.execl", "os.execlp", "os.execle", "os.execlpe"),
                    common.program_and_words(0, named_again=True)),
    **dict.fromkeys(("os.execv", "os.execvp", "os.execve", "os.execvpe", "os.posix_spawn",
                     "os.posix_spawnp"), common.program_and_words(0, named_again=True)),
    **dict.fromkeys(("os.spawnl", "os.spawnlp", "os.spawnle", "os.spawnv", "os.spawnvp",
                     "os.spawnve", "os.spawnvpe"), common.program_and_words(1, named_again=True)),
    "asyncio.create_subprocess_exec": common.words_from(0),
    "exec": common.code_at(0, "python"),
    "eval": common.code_at(0, "python"),
    "execfile": common.read_at(0),
    "code.interact_": common.code_at(0, "python"),
    "compile": _compile,
    "timeit.timeit": common.code_at(0, "python"),
    "runpy.run_path": common.read_at(0),
    "__import__": _import,
    "importlib.import_module": _import,
    "importlib.__import__": _import,
    "getattr": _getattr,
    "operator.attrgetter_": _getattr,
    "globals": _globals,
    "locals": _globals,
    "vars": _globals,
    "chr": _chr,
    "ord": _ord,
    "int": _int,
    "str": _text,
    "bytes": _text,
    "bytearray": _text,
    "list": _list,
    "tuple": _list,
    "map": _map,
    "reversed": _reversed,
    "base64.b64decode": common.decoder("base64"),
    "base64.standard_b64decode": common.decoder("base64"),
    "base64.urlsafe_b64decode": common.decoder("base64"),
    "base64.decodebytes": common.decoder("base64"),
    "base64.decodestring": common.decoder("base64"),
    "base64.b32decode": common.decoder("base32"),
    "base64.b85decode": common.decoder("base85"),
    "base64.a85decode": common.decoder("ascii85"),
    "base64.b16decode": common.decoder("hex"),
    "binascii.unhexlify": common.decoder("hex"),
    "binascii.a2b_hex": common.decoder("hex"),
    "binascii.a2b_base64": common.decoder("base64"),
    "bytes.fromhex": common.decoder("hex"),
    "bytearray.fromhex": common.decoder("hex"),
    "zlib.decompress": common.decoder("zlib"),
    "gzip.decompress": common.decoder("zlib"),
    "bz2.decompress": common.decoder("zlib"),
    "lzma.decompress": common.decoder("zlib"),
    "urllib.parse.unquote": common.decoder("url"),
    "codecs.decode": _codecs,
    "codecs.encode": _codecs,
    "marshal.loads": common.opaque("decoded"),
    "shlex.split": _words,
    "shlex.join": _text,
    "open": _open,
    "file": _open,
    "os.open": _os_open,
    "linecache.getlines": common.read_at(0),
    "pathlib.Path": _path,
    "pathlib.PosixPath": _path,
    "pathlib.PurePath": _path,
    "pathlib.Path.home": _home_path,
    "pathlib.Path().home": _home_path,
    "os.path.join": _path_join,
    "os.path.expanduser": _expanduser,
    "os.path.expandvars": _text,
    "os.path.abspath": common.same,
    "os.path.realpath": common.same,
    "os.path.normpath": common.same,
    "os.fsencode": common.same,
    "os.fspath": common.same,
    "os.getenv": _os_getenv,
    "os.environ.get": _os_getenv,
    "os.walk": _walk,
    "os.listdir": common.walked("walk-names"),
    "os.scandir": common.walked("walk"),
    "glob.glob": common.walked("walk"),
    "glob.iglob": common.walked("walk"),
    "shutil.rmtree": common.delete_at(0, "recursive"),
    "os.remove": common.delete_at(0),
    "os.unlink": common.delete_at(0),
    "os.rmdir": common.delete_at(0),
    "os.removedirs": common.delete_at(0),
    "send2trash.send2trash": common.delete_at(0, "recursive"),
    "os.truncate": common.write_at(0, 9),
    "shutil.move": _move,
    "os.rename": _move,
    "os.replace": _move,
    "shutil.copy": _copy,
    "shutil.copy2": _copy,
    "shutil.copyfile": _copy,
    "shutil.copytree": _copy,
    "shutil.make_archive": common.read_at(2),
    "os.symlink": _link,
    "os.link": _link,
    "os.dup2": _dup2,
    "functools.partial": _partial,
    "threading.Thread": _thread,
    "multiprocessing.Process": _thread,
    "socket.socket": common.connection,
    "socket.create_connection": common.connection,
    "ssl.wrap_socket": common.connection,
    "telnetlib.Telnet": common.connection,
    "socket.socket().recv": common.received,
    **dict.fromkeys(
        [f"{module}.{verb}" for module in ("requests", "requests.Session()", "requests.Client()")
         for verb in ("get", "post", "put", "patch", "delete", "request", "head", "options")]
        + ["urllib.request.urlopen", "urllib.request.Request", "http.client.HTTPConnection().request",
           "http.client.HTTPSConnection().request", "aiohttp.ClientSession().post",
           "aiohttp.ClientSession().get", "urllib.request.build_opener().open", "pycurl.Curl",
           "requests.PoolManager().request", "boto3.client().put_object", "boto3.client().upload_file",
           "smtplib.SMTP().sendmail", "smtplib.SMTP_SSL().sendmail", "smtplib.SMTP().send_message",
           "ftplib.FTP().storbinary", "ftplib.FTP().storlines", "xmlrpc.client.ServerProxy",
           "websocket.create_connection", "dns.resolver.resolve", "socket.gethostbyname",
           "socket.getaddrinfo"],
        common.fetch,
    ),
    "urllib.request.urlretrieve": _retrieve,
}  # fmt: skip

METHODS: Final[dict[str, Handler]] = {
    "read": _read_file,
    "readlines": _read_file,
    "readline": _read_file,
    "read_text": _read_file,
    "read_bytes": _read_file,
    "write": _write_file,
    "writelines": _write_file,
    "write_text": _write_file,
    "write_bytes": _write_file,
    "unlink": _path_delete(),
    "rmdir": _path_delete(),
    "iterdir": _path_list,
    "rglob": _path_list,
    "glob": _path_list,
    "joinpath": _join_path,
    "expanduser": _method_expanduser,
    "open": lambda called: _open(called) if called.receiver and called.receiver.ref == "pathlib.Path()" else None,
    "format": _format,
    "system": _method_shell,
    "popen": _method_shell,
    "exec_command": _method_shell,
    "check_output": _method_shell,
    "getoutput": _method_shell,
    "execute_command": _method_shell,
    "recv": common.received,
    "recvfrom": common.received,
    "send": common.send,
    "sendall": common.send,
    "sendto": common.send,
    "sendmail": common.send,
    "storbinary": common.send,
    "post": common.send,
    "put": common.send,
    "makefile": common.connection,
    "fileno": common.receiver,
    "wrap_socket": common.connection,
}  # fmt: skip
