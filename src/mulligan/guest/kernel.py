"""The few system calls the guest needs that the ``os`` module does not have.

They go through ``_ctypes`` itself: importing ``ctypes`` costs every VM a millisecond and a
megabyte, and would leave it in the modules of every program that is forked from the zygote.
Numbers are those of the Linux UAPI headers (linux/sched.h, linux/mount.h, linux/prctl.h).
"""

import errno
import os
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    dlopen,
    dlsym,
    get_errno,
)

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
OPEN_TREE_CLONE = 1
AT_RECURSIVE = 0x8000
O_CLOEXEC = 0o2000000
MOVE_MOUNT_F_EMPTY_PATH = 4

_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

# What the agent keeps inside the VM's own user namespace, and every program it starts loses:
# mounting roots, entering them, and looking after any process and file of the VM.
AGENT_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_SETPCAP": 8,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
}


class _Int(_SimpleCData):  # type: ignore[type-arg]  # generic in the stubs alone
    _type_ = "i"


class _Pointer(_SimpleCData):  # type: ignore[type-arg]  # generic in the stubs alone
    _type_ = "z"


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Int


_libc = dlopen(None, 0)  # type: ignore[arg-type]  # None: this program itself
_functions: dict[str, _Function] = {}


def _call(name: str, *arguments: bytes | int | None) -> int:
    """Calls a function of the C library; raises OSError where it returns -1."""
    function = _functions.get(name)
    if function is None:
        function = _functions[name] = _Function(dlsym(_libc, name))
    result: int = function(*arguments)
    if result == -1:
        number = get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: bytes | int | None) -> int:
    """syscall(2): a system call by its number.

    Raises:
        OSError: it failed.
    """
    return _call("syscall", number, *arguments)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _call("unshare", flags)


def setns(descriptor: int, kind: int) -> None:
    """setns(2)."""
    _call("setns", descriptor, kind)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """mount(2)."""
    _call(
        "mount",
        source.encode() if source is not None else None,
        os.fsencode(target),
        kind.encode() if kind is not None else None,
        flags,
        data.encode() or None,
    )


def pivot_into(directory: str) -> None:
    """Makes ``directory``, a mount point, the root and leaves nothing of the old root reachable.

    The two dots are the manual's own trick (pivot_root(2), "pivot_root('.', '.')"): the old root
    is stacked on the new one and then detached, so no directory is needed to put it in.
    """
    os.chdir(directory)
    pivot_here()


_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_OPEN_TREE = 428  # these two have one number everywhere
_MOVE_MOUNT = 429
_AT_FDCWD = -100


def open_tree(path: str) -> int:
    """A descriptor of a copy of the mounts at ``path``, attached nowhere (open_tree(2))."""
    flags = OPEN_TREE_CLONE | O_CLOEXEC | AT_RECURSIVE
    return _call("syscall", _OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)


def move_mount(tree: int, path: str) -> None:
    """Attaches what ``open_tree`` gave at ``path`` (move_mount(2))."""
    flags = MOVE_MOUNT_F_EMPTY_PATH
    _call("syscall", _MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(path), flags)


def pivot_here() -> None:
    """Makes the working directory, a mount point, the root and leaves nothing of the old one."""
    _call("syscall", _PIVOT_ROOT[os.uname().machine], b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def leave_keyrings() -> None:
    """Joins a new, empty session keyring: the server's is confined by no namespace (keyrings(7)).

    A user may have 200 keyrings, and each VM that is up takes one. Where there are so many the
    agent keeps the server's: programs are refused every call that could make anything of it.

    Raises:
        OSError: it could not for another reason, on a kernel that has keyrings.
    """
    try:
        _call("syscall", _KEYCTL[os.uname().machine], _KEYCTL_JOIN_SESSION_KEYRING, None)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EDQUOT):
            raise


_KEYCTL = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1


def set_dumpable(on: bool) -> None:
    """Whether processes of the same user may look into this one (PR_SET_DUMPABLE)."""
    _call("prctl", _PR_SET_DUMPABLE, int(on), 0, 0, 0)


def drop_privileges() -> None:
    """Gives up every capability in every set, for good, and what an exec could bring back."""
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in AGENT_CAPABILITIES.values():
        _call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = _CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
    _call("capset", header, bytes(24))


_SECCOMP_MODE_FILTER = 2
_FILTER_INSTRUCTION_BYTES = 8


def install_filter(code: bytes) -> None:
    """Puts a filter of system calls on top of those there are (seccomp(2), SECCOMP_MODE_FILTER).

    Args:
        code: classic BPF instructions. This process must have given up gaining rights.
    """
    # struct sock_fprog: their number, and where they are
    count = (len(code) // _FILTER_INSTRUCTION_BYTES).to_bytes(8, "little")
    pointer = count + bytes(memoryview(_Pointer(code)))
    _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, pointer, 0, 0)
