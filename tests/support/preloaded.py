"""``mulligan``, started by forking a process that has it loaded: loading takes a second of a core.

What runs is the same from ``main`` on, in a process of its own with streams of its own. Tests that
are about how a command starts run it as `server.command` has it.

Run as a program this is the process that forks; descriptor 0 is its end of a socket on which come
arguments, environment and working directory, with what are to be standard output and error, a pipe
for the status and, where it is not to be empty, what is to be standard input.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

LOADED = (
    "alembic.command",  # what makes the tables of a new data directory
    "alembic.config",
    "alembic.script",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "markdown_it",
    "pygments.lexers",
    "rich.console",
    "tree_sitter_bash",
    "mulligan.policy.dangerous",
    "mulligan.client.direct",
    "mulligan.__main__",
    "mulligan.cli.app",
    "mulligan.cli.serve",
    "mulligan.client.embedded",
    "mulligan.engine.engine",
    "mulligan.engine.lock",
    "mulligan.server.app",
    "mulligan.server.serving",
)
MOST = 200_000  # bytes of arguments and environment


class Forker:
    """The process that has everything loaded."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen([sys.executable, __file__], stdin=theirs)

    def start(
        self, arguments: list[str], env: dict[str, str], streams: list[int], where: str = "."
    ) -> int:
        """Starts ``mulligan`` with these arguments; the number of its process."""
        with self._asking:
            asked = json.dumps([arguments, env, where]).encode()
            socket.send_fds(self._socket, [asked], streams)
            return int(self._socket.recv(32))


class Process:
    """A process as ``subprocess.Popen`` has it, with both outputs as text.

    Args:
        forker: starts it.
        arguments: of ``mulligan``.
        env: its environment, whole.
    """

    def __init__(self, forker: Forker, arguments: list[str], env: dict[str, str]) -> None:
        pipes = [os.pipe() for _ in range(3)]
        self.pid = forker.start(arguments, env, [inner for _, inner in pipes])
        for _, inner in pipes:
            os.close(inner)
        self.stdout: IO[str] = open(pipes[0][0], encoding="utf-8")  # noqa: SIM115  (who uses it closes it)
        self.stderr: IO[str] = open(pipes[1][0], encoding="utf-8")  # noqa: SIM115
        self._status = pipes[2][0]
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """See ``Popen``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """See ``Popen``."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("mulligan", timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(int(os.read(self._status, 32)))
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """See ``Popen``."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """See ``Popen``."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """See ``Popen``."""
        self.send_signal(signal.SIGKILL)


def fork_for(asking: socket.socket) -> None:
    """Does what a ``Forker`` asks for until that is gone."""
    statuses: dict[int, int] = {}

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                told = statuses.pop(ended[0])
                with contextlib.suppress(BrokenPipeError):  # nobody asks any more
                    os.write(told, str(ended[1]).encode())
                os.close(told)

    signal.signal(signal.SIGCHLD, reap)
    while True:
        data, streams, _, _ = socket.recv_fds(asking, MOST, 4)
        if not data:
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if not pid:
            break
        statuses[pid] = streams[2]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        for stream in (*streams[:2], *streams[3:]):
            os.close(stream)
        asking.send(str(pid).encode())
    asking.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    for status in (*statuses.values(), streams[2]):
        os.close(status)
    become(*json.loads(data), streams)


def become(arguments: list[str], env: dict[str, str], where: str, streams: list[int]) -> None:
    """Becomes ``mulligan``, with the streams a start with pipes behind them would have given it."""
    stdin = streams[3] if len(streams) > 3 else os.open(os.devnull, os.O_RDONLY)
    os.chdir(where)
    for number, descriptor in enumerate((stdin, *streams[:2])):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[:] = ["mulligan", *arguments]
    importlib.import_module("mulligan.__main__").main()


def make_an_image() -> None:
    """Has the host's programs found and the guest's code compiled; a process does that once."""
    known = importlib.import_module("mulligan.settings").Settings.model_fields
    owner = os.getuid(), os.getgid()
    if os.geteuid() == 0:
        owner = known["guest_uid"].default, known["guest_gid"].default
    with tempfile.TemporaryDirectory(prefix="mulligan-preloaded-") as directory:
        importlib.import_module("mulligan.images.host").prepare(Path(directory), owner)


if __name__ == "__main__":
    for name in LOADED:
        importlib.import_module(name)
    make_an_image()
    end = socket.socket(fileno=os.dup(0))
    os.set_inheritable(end.fileno(), False)
    with end:
        fork_for(end)
