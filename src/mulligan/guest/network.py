"""The VM's side of its network: a listening socket that is served from outside, and whose it is.

The VM has no way out of its network namespace. The socket programs connect to is made here, in
that namespace, and handed over to the host, which takes the connections itself: no byte of them
passes through the agent.
"""

from __future__ import annotations

import os
import struct
import time
from _socket import (
    AF_INET,
    AF_UNIX,
    SCM_RIGHTS,
    SO_REUSEADDR,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from mulligan.guest.execution import Execution
    from mulligan.guest.kernels.manager import Kernels

ADDRESS = "127.0.0.1"
PORT = 3128
BACKLOG = 512
# A program can open sockets faster than they can be looked through, and the agent has other work.
LOOK_S = 0.02
MOST_LEFT = 256
TABLE_BYTES = 1024 * 1024
INODE = 8  # field of a line of the table, after its two addresses' (proc_pid_net(5))
GLANCE = 256


def hand_over(descriptor: int) -> None:
    """Makes the socket and sends it through an inherited one, which is closed."""
    listener = socket(AF_INET, SOCK_STREAM)
    way_out = socket(AF_UNIX, SOCK_STREAM, 0, descriptor)
    try:
        listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        listener.bind((ADDRESS, PORT))
        listener.listen(BACKLOG)
        rights = struct.pack("=i", listener.fileno())
        way_out.sendmsg([b"L"], [(SOL_SOCKET, SCM_RIGHTS, rights)])
    finally:
        listener.close()
        way_out.close()


class Owners:
    """Knows which executions a connection is of, by the mount namespaces of who holds it."""

    def __init__(self) -> None:
        self._left: dict[int, int] = {}

    def leaves(self, execution: Execution) -> None:
        """An execution has ended; what it left in the background is still its own."""
        self._left.pop(execution.namespace, None)
        if execution.background:
            self._left[execution.namespace] = execution.channel
            if len(self._left) > MOST_LEFT:
                del self._left[next(iter(self._left))]

    def of(
        self, port: object, executions: dict[int, Execution], kernels: Kernels | None
    ) -> dict[str, object]:
        """The answer to an OWNER frame.

        Args:
            port: of the program's end of the connection.
            executions: those that run.
            kernels: those of the VM, if it ever had any.
        """
        known = dict(self._left)
        known.update({each.namespace or -number: number for number, each in executions.items()})
        if kernels is not None:
            known.update(kernels.owners())
        if len(known) == 1 and kernels is None:
            return {"channels": list(known.values())}  # nobody else is here
        try:
            inode = _inode(port) if isinstance(port, int) and 0 < port < 1 << 16 else None
        except OSError:
            inode = None
        holders = _holders(inode) if inode is not None else set()
        return {"channels": sorted({known[each] for each in holders if each in known})}


def _inode(port: int) -> str | None:
    """The socket of this VM that is connected to ours from a port.

    It takes the kernel milliseconds to make the table. Its answer to a single question
    (sock_diag(7)) is a door that the VM's filter of system calls keeps shut.
    """
    wanted = f"0100007F:{port:04X} 0100007F:{PORT:04X} "
    with open("/proc/self/net/tcp") as table:
        text = table.read(TABLE_BYTES)
    start = text.find(wanted)
    if start < 0:
        return None
    fields = text[start : text.find("\n", start)].split()
    return fields[INODE] if len(fields) > INODE else None


def _holders(inode: str) -> set[int]:
    """The mount namespaces of the processes that have a socket open, newest processes first."""
    wanted, until = f"socket:[{inode}]", time.monotonic() + LOOK_S
    found = set()
    for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int, reverse=True):
        if time.monotonic() > until:
            break
        try:
            namespace = os.stat(f"/proc/{name}/ns/mnt").st_ino
            if namespace not in found and _holds(f"/proc/{name}/fd", wanted, until):
                found.add(namespace)
        except OSError:
            continue  # it has ended
    return found


def _holds(directory: str, wanted: str, until: float) -> bool:
    for number, name in enumerate(os.listdir(directory)):
        if number % GLANCE == GLANCE - 1 and time.monotonic() > until:
            return False
        try:
            if os.readlink(f"{directory}/{name}") == wanted:
                return True
        except OSError:
            continue
    return False
