"""The Python kernel: runs cells in one interpreter, and is frozen and revived by fork.

This file is no module of the agent: it is laid, compiled, into a kernel's own directory and run as
its main program, with the program's rights. Standard input is at first a control socket; on it
come three memory files (a cell's code, its input, its settings) that the agent writes before it
says ``cell``. docs/decisions/0007-kernels.md has the protocol and what is kept of a kernel.
"""

from __future__ import annotations

import builtins
import linecache
import os
import sys
import warnings
from _json import encode_basestring
from _signal import SIGINT, default_int_handler, getsignal
from _signal import signal as set_handler
from _socket import AF_UNIX, CMSG_SPACE, SCM_RIGHTS, SOCK_SEQPACKET, socket

TYPE_CHECKING = False  # importing typing for it would cost every kernel milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mulligan.guest.kernels import files, forks, packages, values
else:  # where this runs, they are beside it and in no package
    import mulligan_files as files
    import mulligan_forks as forks
    import mulligan_packages as packages
    import mulligan_values as values

    for _name in ("mulligan_files", "mulligan_forks", "mulligan_packages", "mulligan_values"):
        del sys.modules[_name]

PACKET = 60_000
LOWEST = 60  # our own descriptors are out of the way of the program's
ONLY_AST = 0x400  # PyCF_ONLY_AST
TOP_LEVEL_AWAIT = 0x2000  # PyCF_ALLOW_TOP_LEVEL_AWAIT
FUTURES = 0x1FE0000  # what "from __future__ import" sets in code, and later cells go on with
IS_COROUTINE = 0x80  # CO_COROUTINE


class Kernel:
    """The interpreter's one kernel, and everything of it that lives between cells."""

    def __init__(self) -> None:
        import fcntl

        self.given = set(forks.descriptors())  # libffi's own file (3.8), say
        self.control = _socket(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, LOWEST))
        _, received = _receive(self.control)
        self.code, stdin, self.settings = (_out_of_the_way(each) for each in received)
        os.dup2(stdin, 0)
        os.close(stdin)
        self.main = sys.modules["__main__"] = type(sys)("__main__")
        self.pid = os.getpid()
        self.cwd = os.getcwd()
        self.flags = 0
        self.on_interrupt: Any = default_int_handler
        self.runner: Any = None
        self.fresh_stdin = True
        self.notes: list[str] = []
        self.released: list[files.File] = []

    def serve(self) -> None:
        """Does what the agent says until it is gone."""
        set_handler(SIGINT, _ignore)
        _send(self.control, {"op": "ready", "notes": []})
        while True:
            words, received = _receive(self.control)
            if words[0] == "cell":
                self._cell(int(words[1]), words[2] == "1", words[3] == "1")
            elif words[0] == "checkpoint":
                self._checkpoint(_socket(_out_of_the_way(received[0])))
            elif words[0] == "release":
                self._release()
            elif words[0] == "moved":
                self._take_up()
            elif words[0] == "branch":
                self._branch()

    # Cells

    def _cell(self, number: int, stdin: bool, settings: bool) -> None:
        outcome = values.Outcome()
        if stdin or self.fresh_stdin:  # what an earlier cell left unread is not this one's
            sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
            self.fresh_stdin = stdin
        try:
            set_handler(SIGINT, self.on_interrupt)
            if not settings or self._set(outcome):
                self._run(f"<cell {number}>", outcome)
            self._flush()
            self._disarm()
        except KeyboardInterrupt:  # it came while ours ran: a value was shown, a figure drawn
            self._disarm()
            outcome.status = values.INTERRUPTED
        if os.getpid() != self.pid:  # the cell forked, and its child got here
            self._flush()
            os._exit(outcome.status)
        self.cwd = _cwd() or self.cwd
        notes = (self.notes + outcome.notes)[: values.MOST_NOTES]
        self.notes = []
        _send(
            self.control,
            {
                "op": "done",
                "status": outcome.status,
                "result": outcome.result,
                "results": outcome.results,
                "notes": notes,
            },
        )

    def _set(self, outcome: values.Outcome) -> bool:
        """Takes a cell's working directory and variables; false where it cannot run with them."""
        cwd, *variables = _read(self.settings).decode(errors="surrogateescape").split("\0")
        for each in variables:
            name, equals, value = each.partition("=")
            if equals:
                os.environ[name] = value
        packages.follow()
        try:
            if cwd:
                os.chdir(cwd)
        except OSError as error:
            print(f"working_dir {cwd!r}: {error.strerror}", file=sys.stderr)  # noqa: T201
            outcome.status = 1
            return False
        return True

    def _run(self, name: str, outcome: values.Outcome) -> None:
        source = _read(self.code).decode(errors="replace")
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
        try:
            value = self._evaluate(name, source)
            if value is not None:
                builtins.__dict__["_"] = value
                outcome.result = values.bounded(repr(value))
                values.rich(value, outcome)
        except BaseException as error:
            outcome.status = values.report(error)
        if "matplotlib.pyplot" in sys.modules:
            values.figures(outcome)

    def _evaluate(self, name: str, source: str) -> Any:
        """Runs a cell; the value of its last statement if that is an expression."""
        tree: Any = compile(source, name, "exec", ONLY_AST | TOP_LEVEL_AWAIT | self.flags, True)
        last = tree.body.pop() if tree.body and type(tree.body[-1]).__name__ == "Expr" else None
        if tree.body:
            self._execute(self._compile(tree, name, "exec"))
        if last is None:
            return None
        from _ast import Expression

        return self._execute(self._compile(Expression(last.value), name, "eval"))

    def _compile(self, tree: Any, name: str, mode: str) -> Any:
        code = compile(tree, name, mode, TOP_LEVEL_AWAIT | self.flags, True)
        self.flags |= code.co_flags & FUTURES
        return code

    def _execute(self, code: Any) -> Any:
        value = eval(code, self.main.__dict__)
        if not code.co_flags & IS_COROUTINE:
            return value
        if self.runner is None:
            import asyncio

            self.runner = asyncio.Runner()
        return self.runner.run(value)

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            try:
                stream.flush()  # type: ignore[union-attr]
            except Exception:
                continue

    def _disarm(self) -> None:
        """From here on an interrupt is too late; the handler the cell set is kept for the next."""
        while True:
            try:
                handler = getsignal(SIGINT)
                if handler is not _ignore:
                    self.on_interrupt = handler
                set_handler(SIGINT, _ignore)
                return
            except KeyboardInterrupt:
                continue

    # Checkpoints

    def _checkpoint(self, frozen: socket) -> None:
        """Forks an image of this kernel that waits on ``frozen``; comes back in both.

        In the image only when it was revived, and in a child of it: the image itself never does
        anything but wait. It is forked twice, so that it is no child of the program's.
        """
        own = self._own() | {frozen.fileno()}
        opened = files.on_the_disk(own)
        notes = forks.left_out(own | {each.number for each in opened}, self.given)
        random = sys.modules.get("random")
        state = random.getstate() if random is not None else None
        self._flush()
        try:
            image = forks.fork_twice()
        except OSError as error:
            _send(self.control, {"op": "failed", "message": f"fork: {error.strerror}"})
            frozen.close()
            return
        if not image:
            frozen.close()
            return
        os.setsid()
        self.control.close()
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        files.release(opened)
        os.chdir("/")  # no tree is held by waiting
        self.released = opened
        self._wait(frozen, notes)
        if random is not None:
            random.setstate(state)  # a fork seeds it anew

    def _wait(self, frozen: socket, notes: list[str]) -> None:
        """In the image: says so, and waits to be revived; comes back as what is alive then.

        It is the image itself that comes alive, after one fork. A fork of that fork takes its
        place and waits in the same way.
        """
        _send(frozen, {"op": "frozen", "notes": notes})
        while True:
            _, received = _receive(frozen)
            signals = forks.Quiet()
            spoken, speaks = os.pipe()
            with warnings.catch_warnings():  # of threads: they are reported
                warnings.simplefilter("ignore")
                middle = os.fork()
            if middle:
                break
            last = os.fork()
            if last:
                os.close(speaks)
                os.read(spoken, 1)
                os._exit(0)  # what is alive goes on when there is an image again
            os.setsid()
            signals.over()
            for descriptor in (*received, spoken):
                os.close(descriptor)
            os.close(speaks)  # not after the next line: it may be the last for long
            _send(frozen, {"op": "frozen", "notes": notes})
        os.close(spoken)
        os.close(speaks)
        self._revived(frozen, received)
        signals.reap(middle)

    def _revived(self, frozen: socket, received: list[int]) -> None:
        """Takes up a new control socket and new streams."""
        frozen.close()
        control, stdout, stderr = received
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stdout)
        os.close(stderr)
        self.control = _socket(_out_of_the_way(control))
        self.pid = os.getpid()
        self._take_up()
        notes, self.notes = self.notes, []
        _send(self.control, {"op": "ready", "notes": notes})

    def _branch(self) -> None:
        """Draws other random numbers from here on than another one with the same memory.

        Generators that are a program's own objects go on where they were.
        """
        for name in ("random", "numpy.random", "ssl"):
            module = sys.modules.get(name)
            try:
                if module is not None and name == "ssl":
                    module.RAND_add(os.urandom(32), 32.0)
                elif module is not None:
                    module.seed()
            except Exception as error:
                self.notes.append(f"{name} draws the numbers of the VM this is a fork of: {error}")

    # The root

    def _own(self) -> set[int]:
        return {self.control.fileno(), self.code, self.settings}

    def _release(self) -> None:
        """Lets go of the root, which the VM is about to leave, as far as that can be done."""
        if len(os.listdir("/proc/self/task")) == 1:  # other threads would miss what is let go
            self.released = files.on_the_disk(self._own())
            files.release(self.released)
            os.chdir("/")
        _send(self.control, {"op": "released"})

    def _take_up(self) -> None:
        """Goes on in the root there is now, where it was before."""
        self._enter(self.cwd)
        self.notes += files.take_up(self.released)[: values.MOST_NOTES]
        self.released = []

    def _enter(self, cwd: str) -> None:
        """Goes to a directory by its path; what it was before may be another one now."""
        try:
            os.chdir(cwd)
        except OSError as error:
            self.notes.append(f"the working directory {cwd} is not there: {error.strerror}")
            os.chdir("/")
            self.cwd = "/"


# The control socket


def _socket(descriptor: int) -> socket:
    return socket(AF_UNIX, SOCK_SEQPACKET, 0, descriptor)


def _receive(control: socket) -> tuple[list[str], list[int]]:
    """The next words and descriptors; ends this process when nobody is there any more."""
    try:
        data, ancillary, _, _ = control.recvmsg(4096, CMSG_SPACE(3 * 4))
    except ConnectionError:
        os._exit(0)
    if not data:
        os._exit(0)
    descriptors: list[int] = []
    for _, kind, content in ancillary:
        if kind == SCM_RIGHTS:
            descriptors += memoryview(content).cast("i").tolist()
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return data.decode().split(), descriptors


def _send(control: socket, message: dict[str, Any]) -> None:
    """Sends a message, in as many packets as it takes: all but the last begin with a plus."""
    data = _json(message).encode("utf-8", "replace")
    try:
        while len(data) > PACKET:
            control.send(b"+" + data[:PACKET])
            data = data[PACKET:]
        control.send(b"." + data)
    except OSError:
        os._exit(0)


def _json(value: Any) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json(k)}:{_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    return "null" if value is None else str(int(value))


def _out_of_the_way(descriptor: int) -> int:
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, LOWEST)
    os.close(descriptor)
    return moved


def _read(memory: int) -> bytes:
    return os.pread(memory, os.fstat(memory).st_size, 0)


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _ignore(*_: object) -> None:
    """For SIGINT between cells: a function, since children of threads would inherit SIG_IGN."""


if __name__ == "__main__":
    sys.argv[:] = [""]
    sys.path[:] = ["", *(path for path in sys.path[1:] if path != os.getcwd())]
    os.environ.setdefault("MPLBACKEND", "Agg")
    warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
    Kernel().serve()
