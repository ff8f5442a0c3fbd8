"""The root file system of a VM's programs: an overlay of the VM's disk over its image.

The agent lives outside it, in the tree bubblewrap made (its ``/.mulligan``, the host's ``/usr``).
A root is a mount namespace of its own, held by a descriptor: nothing but that descriptor and the
processes inside keep it alive, so an abandoned one is collected by the kernel.

A disk is a stack of layers, frozen for good, and one directory on top that takes what is written.
Keeping a state is putting a new directory on top; going back is building another stack. Either way
the VM moves to a new root, and no byte is copied.
"""

from __future__ import annotations

import os
from errno import EBUSY, EINVAL

from mulligan.guest import kernel

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

# Where the agent has its own things, out of the way of any tree a toolchain may live in.
BASE = "/.mulligan"
IMAGE = f"{BASE}/image"
AGENT = f"{BASE}/agent"
DISK = f"{BASE}/vm"
LAYERS = f"{BASE}/layers"
WALLS = f"{BASE}/walls"  # a file, in VMs whose agent puts up the filter of system calls itself
MOUNT_POINT = f"{BASE}/root"
EXECUTION_DIR = "/run/mulligan"
TRUST = "/run/mulligan.pem"  # of images beside the host's: certificates of their network
# Files and directories of /proc that say things of the host which no program needs: names of its
# keys, addresses and names of its kernel, its devices and memory, how it was started. They read as
# empty. What only root may read nobody in a VM may; it is masked so that this does not rest on it.
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/driver",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/modules",
    "/proc/mtrr",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/vmallocinfo",
)
# What gVisor adds to every /dev, and no program could do anything with.
UNWANTED_DEVICES = ("char", "fuse", "net")
# What gVisor shows of process 1 to anybody of its user, where Linux asks whether it is dumpable.
OF_AGENT = ("fd", "fdinfo", "ns")
# What is read there, and never to be written.
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys")
MOUNT_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV
STEP = "/root"  # where the next root is attached in the empty one between two
LOST = 71


class Roots:
    """Builds roots.

    Args:
        binds: absolute paths shown read-only in every root where the agent has them.
        veiled: asked for processes whose descriptors and namespaces programs shall not see; for
            a kernel that shows them to anybody of the same user.
        own: directory with what of the image's files is another one in this VM.
    """

    def __init__(
        self, binds: list[str], veiled: Callable[[], set[int]] = set, own: str | None = None
    ) -> None:
        kernel.unshare(kernel.CLONE_NEWNS)  # bubblewrap's belongs to a user above ours
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        self._home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._binds = [*binds, "/proc", "/dev"]
        self._veiled = veiled
        self._own = [] if own is None else [own]
        _mask()

    def assemble(self, layers: list[str], generation: str) -> int:
        """Builds a root and returns a descriptor of its mount namespace.

        Args:
            layers: directories, absolute or in ``LAYERS``, the newest first; below them lies the
                image.
            generation: directory in ``DISK`` with the ``upper`` that takes what is written and an
                empty ``work`` no overlay had before.

        Raises:
            OSError: a mount was refused; the text names the step.
        """
        try:
            kernel.unshare(kernel.CLONE_NEWNS)
            _overlay([*layers, *self._own], f"{DISK}/{generation}")
            for path in self._binds:
                kernel.mount(path, MOUNT_POINT + path, None, kernel.MS_BIND | kernel.MS_REC)
            kernel.pivot_into(MOUNT_POINT)
            root = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            _veil(self._veiled())
            return root
        finally:
            self._return()

    def seal(self, namespaces: list[int]) -> bool:
        """Makes a root read-only for everybody; false where a file is open for writing.

        The file system is, not the mount: programs also reach it through mounts of executions that
        are over, by descriptors they kept of them. The kernel sees to all in one step: after it
        nobody can write to the root, by whatever descriptor or mapping. A file that was removed
        and is still open counts as one open for writing.

        gVisor seals mounts, not file systems. There every namespace with a mount of the root has to
        be named; where one cannot be sealed the others are as they were.

        Args:
            namespaces: descriptors of mount namespaces in which it is the root.
        """
        flags = kernel.MS_REMOUNT | MOUNT_FLAGS
        sealed: list[int] = []
        try:
            for namespace in namespaces:
                kernel.setns(namespace, kernel.CLONE_NEWNS)
                kernel.mount(None, "/", None, flags | kernel.MS_RDONLY)
                sealed.append(namespace)
            return True
        except OSError as error:
            for namespace in sealed:
                kernel.setns(namespace, kernel.CLONE_NEWNS)
                kernel.mount(None, "/", None, flags)
            if error.errno == EBUSY:
                return False
            raise
        finally:
            self._return()

    def leave(self, namespace: int) -> int:
        """Takes the processes of a mount namespace out of their root, into an empty one.

        Working directories other than the root itself stay behind, and keep the old root alive.

        Returns:
            A descriptor of their private files, for ``enter``.

        Raises:
            OSError: a step was refused.
        """
        try:
            kernel.setns(namespace, kernel.CLONE_NEWNS)
            private = kernel.open_tree(EXECUTION_DIR)
            try:
                flags = MOUNT_FLAGS | kernel.MS_NOEXEC
                kernel.mount("tmpfs", "/proc", "tmpfs", flags, "size=4k,nr_inodes=8,mode=755")
                os.mkdir(f"/proc{STEP}")
                kernel.pivot_into("/proc")
            except OSError:
                os.close(private)
                raise
            return private
        finally:
            self._return()

    def enter(self, namespace: int, private: int, root: int) -> None:
        """Takes the processes of a mount namespace that left their root into another one.

        Args:
            namespace: descriptor of the mount namespace whose processes move.
            private: what ``leave`` returned; it is closed.
            root: descriptor of one that ``assemble`` made.

        Raises:
            OSError: a step was refused.
        """
        new_root = -1
        try:
            kernel.setns(root, kernel.CLONE_NEWNS)
            new_root = kernel.open_tree("/")
            kernel.setns(namespace, kernel.CLONE_NEWNS)
            kernel.move_mount(new_root, STEP)
            os.fchdir(new_root)
            kernel.pivot_here()
            kernel.move_mount(private, EXECUTION_DIR)
        finally:
            os.close(private)
            if new_root >= 0:
                os.close(new_root)
            self._return()

    def _return(self) -> None:
        """Back to the agent's own mounts, without which there is no agent."""
        try:
            kernel.setns(self._home, kernel.CLONE_NEWNS)
        except OSError:
            os._exit(LOST)


def _overlay(layers: list[str], top: str) -> None:
    """Lays what ``top`` takes over layers and the image, at ``MOUNT_POINT``.

    gVisor's overlay takes no relative paths and knows no "volatile", which it has no need of.
    """
    over = f"upperdir={top}/upper,workdir={top}/work,userxattr"
    if layers:
        os.chdir(LAYERS)
    # Relative paths: the options of a mount have to fit into one page.
    lower = ":".join([*layers, IMAGE])
    # Without "volatile" letting go of a root would write out the host's whole file system,
    # seconds at worst; what must survive a power cut the host sees to.
    options = f"lowerdir={lower},{over},volatile"
    try:
        kernel.mount("overlay", MOUNT_POINT, "overlay", MOUNT_FLAGS, options)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        lower = ":".join([*(os.path.join(LAYERS, layer) for layer in layers), IMAGE])
        kernel.mount("overlay", MOUNT_POINT, "overlay", MOUNT_FLAGS, f"lowerdir={lower},{over}")


def _mask() -> None:
    """Masks this mount namespace's /proc and /dev, which roots get as they are here."""
    _tidy_devices()
    for path in MASKED:
        if os.path.isdir(path):
            _cover(path)
        elif os.path.exists(path):
            kernel.mount("/dev/null", path, None, kernel.MS_BIND)
    for path in READ_ONLY:
        if os.path.exists(path):
            kernel.mount(path, path, None, kernel.MS_BIND)
            flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY
            kernel.mount(None, path, None, flags | MOUNT_FLAGS | kernel.MS_NOEXEC)


def _cover(path: str, mode: str = "555") -> None:
    """Has nothing be in a directory, for those who may look by its mode."""
    flags = MOUNT_FLAGS | kernel.MS_NOEXEC | kernel.MS_RDONLY
    kernel.mount("tmpfs", path, "tmpfs", flags, f"size=4k,nr_inodes=1,mode={mode}")


def _veil(pids: set[int]) -> None:
    for pid in pids:
        for name in OF_AGENT:
            path = f"/proc/{pid}/{name}"
            if os.path.isdir(path):
                _cover(path, "0")


def _tidy_devices() -> None:
    """Takes away what is too much in a /dev of this VM's own, which is read-only from then on."""
    unwanted = [f"/dev/{name}" for name in UNWANTED_DEVICES if os.path.lexists(f"/dev/{name}")]
    if not unwanted:
        return
    for path in unwanted:
        if os.path.isdir(path):
            for name in os.listdir(path):
                os.unlink(f"{path}/{name}")
            os.rmdir(path)
        else:
            os.unlink(path)
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID
    kernel.mount(None, "/dev", None, flags | kernel.MS_NOEXEC)
