"""The root file system of a VM's programs: an overlay of the VM's disk over its image.

The agent lives outside it, in the tree bubblewrap made (its ``/.mulligan``, the host's ``/usr``).
A root is a mount namespace of its own, held by a descriptor: nothing but that descriptor and the
processes inside keep it alive, so an abandoned one is collected by the kernel.
"""

import os

from mulligan.guest import kernel

# Where the agent has its own things, out of the way of any tree a toolchain may live in.
BASE = "/.mulligan"
IMAGE = f"{BASE}/image"
AGENT = f"{BASE}/agent"
DISK = f"{BASE}/vm"
MOUNT_POINT = f"{BASE}/root"
EXECUTION_DIR = "/run/mulligan"
# Files of /proc that say things of the host which no program needs: names of its keys, addresses
# and names of its kernel, how it was started. They read as empty. (What only root may read, such
# as /proc/kcore, nobody in a VM may.)
MASKED = (
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/kallsyms",
    "/proc/key-users",
    "/proc/keys",
)


def assemble(lower: str, upper: str, work: str, binds: list[str]) -> int:
    """Builds a root and returns a descriptor of its mount namespace.

    Args:
        lower: the image's directory, read-only.
        upper, work: directories of the VM's disk, of one file system.
        binds: absolute paths shown read-only in the root where the agent has them.

    Raises:
        OSError: a mount was refused; the text names the step.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    hold_read, hold_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _build(lower, upper, work, binds, write_end, hold_read, hold_write)
    try:
        os.close(write_end)
        os.close(hold_read)
        message = _read_all(read_end)
        if message != b"ok":
            raise OSError(message.decode(errors="replace") or "the root's builder died")
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(read_end)
        os.close(hold_write)
        os.waitpid(pid, 0)


def _build(
    lower: str,
    upper: str,
    work: str,
    binds: list[str],
    report: int,
    hold_read: int,
    hold_write: int,
) -> None:
    """In the child: mounts everything, then waits until its namespace has been opened."""
    os.close(hold_write)
    try:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
        flags = kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("overlay", MOUNT_POINT, "overlay", flags, options)
        for path in [*binds, "/proc", "/dev"]:
            kernel.mount(path, MOUNT_POINT + path, None, kernel.MS_BIND | kernel.MS_REC)
        for path in MASKED:
            if os.path.exists(path):
                kernel.mount("/dev/null", MOUNT_POINT + path, None, kernel.MS_BIND)
        kernel.pivot_into(MOUNT_POINT)
        os.write(report, b"ok")
    except BaseException as error:
        os.write(report, str(error).encode())
    os.close(report)
    os.read(hold_read, 1)  # ends when the parent has what it needs, or is gone
    os._exit(0)


def _read_all(descriptor: int) -> bytes:
    chunks = []
    while chunk := os.read(descriptor, 4096):
        chunks.append(chunk)
    return b"".join(chunks)
