"""The agent's side of the zygote: giving it jobs, and hearing what became of them."""

from __future__ import annotations

import marshal
import os
import struct
from _signal import SIGCONT
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket, socketpair

from mulligan.guest import forkserver

# Read once, when an interpreter starts: a program that sets one of these needs a start of its own.
START_UP_VARIABLES = ("PYTHON", "LC_", "LANG", "MALLOC_", "LD_", "GLIBC_")


def can_serve(env: dict[str, str], base: dict[str, str]) -> bool:
    """Whether a program with this environment may start from an interpreter that had ``base``."""

    def relevant(variables: dict[str, str]) -> dict[str, str]:
        return {k: v for k, v in variables.items() if k.startswith(START_UP_VARIABLES)}

    return relevant(env) == relevant(base)


class Zygote:
    """A running zygote."""

    def __init__(self, pid: int, control: socket) -> None:
        self.pid = pid
        self.control = control
        self.serves = False  # it has come up

    def spare(self, channel: int) -> Spare:
        """Has a child forked that waits for a job.

        Raises:
            OSError: the zygote is gone or takes no more.
        """
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        try:
            _send(self.control, channel, [theirs.fileno()])
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return Spare(channel, ours)

    def request(self, channel: int, job: dict[str, object], descriptors: list[int]) -> None:
        """Asks for a program.

        Args:
            channel: the execution's number.
            job: see ``launch.enter``.
            descriptors: stdin, stdout, stderr, report and root.

        Raises:
            OSError: the zygote is gone or takes no more.
        """
        _send_job(self.control, channel, job, descriptors)

    def reply(self) -> tuple[bytes, int, int, int, int, int] | None:
        """The next thing the zygote has said, as ``forkserver.REPLY``; None where nothing is.

        Raises:
            ConnectionError: it is gone.
        """
        try:
            data = self.control.recv(forkserver.REPLY.size)
            if data[:1] == forkserver.SERVES:
                self.serves = True
                data = self.control.recv(forkserver.REPLY.size)
        except BlockingIOError:
            return None
        if len(data) != forkserver.REPLY.size:
            raise ConnectionError("the zygote is gone")
        return forkserver.REPLY.unpack(data)

    def close(self) -> None:
        """Lets go of it; a zygote without an agent ends."""
        self.control.close()


class Spare:
    """A child of the zygote that waits for a job; its number is 0 until the zygote has said it."""

    def __init__(self, channel: int, connection: socket) -> None:
        self.channel = channel
        self.pid = 0
        self._connection = connection

    def request(self, job: dict[str, object], descriptors: list[int]) -> None:
        """Gives it its job. See ``Zygote.request``.

        Raises:
            OSError: it is gone.
        """
        os.kill(self.pid, SIGCONT)  # a program may have stopped it
        _send_job(self._connection, self.channel, job, descriptors)
        self._connection.close()

    def close(self) -> None:
        """Lets go of it: it ends."""
        self._connection.close()


def _send_job(
    connection: socket, channel: int, job: dict[str, object], descriptors: list[int]
) -> None:
    memory = os.memfd_create("job", os.MFD_CLOEXEC)
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(marshal.dumps(job))
        _send(connection, channel, [memory, *descriptors])
    finally:
        os.close(memory)


def _send(connection: socket, channel: int, descriptors: list[int]) -> None:
    ancillary = struct.pack(f"={len(descriptors)}i", *descriptors)
    message = [forkserver.REQUEST.pack(channel)]
    connection.sendmsg(message, [(SOL_SOCKET, SCM_RIGHTS, ancillary)])
