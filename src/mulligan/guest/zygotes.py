"""The agent's side of the zygote: giving it jobs, and hearing what became of them."""

import marshal
import os
import struct
from _socket import SCM_RIGHTS, SOL_SOCKET, socket

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

    def request(self, channel: int, job: dict[str, object], descriptors: list[int]) -> None:
        """Asks for a program.

        Args:
            channel: the execution's number.
            job: see ``launch.enter``.
            descriptors: stdin, stdout, stderr, report and root.

        Raises:
            OSError: the zygote is gone or takes no more.
        """
        memory = os.memfd_create("job", os.MFD_CLOEXEC)
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(marshal.dumps(job))
            ancillary = struct.pack(f"={len(descriptors) + 1}i", memory, *descriptors)
            self.control.sendmsg(
                [forkserver.REQUEST.pack(channel)],
                [(SOL_SOCKET, SCM_RIGHTS, ancillary)],
            )
        finally:
            os.close(memory)

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
