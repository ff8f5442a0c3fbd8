"""A program that runs another in the namespaces of a VM; it is started by itself, for that alone.

nsenter(1) cannot do this for an ordinary user: bubblewrap ends in a user namespace below the one
that its other namespaces belong to, and rights over those are had in that one alone
(user_namespaces(7)).

Usage: python -I -S entering.py PID UID GID PROGRAM [ARGUMENT]...

PID is in the namespaces, UID and GID are whom to be there; -1: whom one is.
"""

import ctypes
import fcntl
import os
import sys

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000  # linux/sched.h
NS_GET_USERNS = 0xB701  # linux/nsfs.h
NOT_RUN = 126


def main(arguments: list[str]) -> int:
    """Runs the program, and returns its exit status."""
    pid, uid, gid = (int(each) for each in arguments[:3])
    try:
        _enter(pid, uid, gid)
    except OSError as error:
        sys.stderr.write(f"the VM's namespaces cannot be entered: {error}\n")
        return NOT_RUN
    child = os.fork()  # only children are in the namespace of processes
    if child == 0:
        try:
            os.execv(arguments[3], arguments[3:])  # noqa: S606
        finally:
            os._exit(NOT_RUN)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def _enter(pid: int, uid: int, gid: int) -> None:
    user, mount, processes = (
        os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in ("user", "mnt", "pid")
    )
    if uid != -1:
        os.setgroups([])  # it could not be done in there
    owner = fcntl.ioctl(mount, NS_GET_USERNS)
    _setns(owner, CLONE_NEWUSER)
    _setns(processes, CLONE_NEWPID)
    _setns(mount, CLONE_NEWNS)
    if os.fstat(user).st_ino != os.fstat(owner).st_ino:
        _setns(user, CLONE_NEWUSER)
    if uid != -1:
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def _setns(descriptor: int, kind: int) -> None:
    """setns(2), which ``os`` has from Python 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, kind) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
