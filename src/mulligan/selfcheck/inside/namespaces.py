"""Namespaces, rights, and making more of them."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable

from mulligan.selfcheck.inside.probing import (
    Seen,
    in_child,
    link,
    named,
    names,
    probe,
    refused,
    short,
    shut,
    syscall,
    text,
    told,
)

NAMESPACES = {
    "user": "users",
    "pid": "processes",
    "mnt": "mounts",
    "net": "network",
    "ipc": "System V and POSIX IPC",
    "uts": "host name",
    "cgroup": "control groups",
}
# linux/sched.h
NEWNS, NEWUTS, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x10000000, 0x20000000, 0x40000000
SIGCHLD = 17
ENOSPC = 28


def _register_namespaces() -> None:
    for name, what in NAMESPACES.items():

        def run(name: str = name) -> Seen:
            if told["own_kernel"]:
                return _other_kernel()
            here = link(f"/proc/self/ns/{name}")
            return here != told["namespaces"][name], here

        probe(
            f"namespaces.{name}",
            f"compare the namespace of {what} with the server's",
            "another one",
        )(run)


def _other_kernel() -> Seen:
    """Whether the kernel is another one: then whatever is its own is not the host's.

    Numbers of namespaces say nothing there: every kernel begins to count at the same.
    """
    here = " ".join(os.uname()[2:4])
    return here != told["kernel"], f"another kernel: {here}"


_register_namespaces()


def _status() -> dict[str, str]:
    lines = (line.partition(":") for line in text("/proc/self/status").splitlines())
    return {key: value.strip() for key, _, value in lines}


@probe("namespaces.bounding", "read CapBnd in /proc/self/status", "no right can be had again")
def bounding() -> Seen:
    value = _status()["CapBnd"]
    return int(value, 16) == 0, value


@probe(
    "namespaces.rights",
    "read CapInh, CapPrm, CapEff and CapAmb in /proc/self/status",
    "no right is held",
    "passes",
)
def rights() -> Seen:
    status = _status()
    held = {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
    return not any(int(value, 16) for value in held.values()), short(held)


@probe("namespaces.uid", "read the user in /proc/self/status", "1000, four times", "depends")
def uid() -> Seen:
    value = _status()["Uid"]
    return value.split() == ["1000"] * 4, value


@probe("namespaces.groups", "read the groups in /proc/self/status", "none beside 1000", "depends")
def groups() -> Seen:
    status = _status()
    both = f"{status['Gid']} {status['Groups']}"
    return set(both.split()) == {"1000"}, both


def _register_maps() -> None:
    for kind in ("uid", "gid"):

        def run(kind: str = kind) -> Seen:
            lines = text(f"/proc/self/{kind}_map").split()
            return len(lines) == 3 and lines[2] == "1", " ".join(lines)

        probe(f"namespaces.{kind}_map", f"read /proc/self/{kind}_map", "one number is mapped")(run)


_register_maps()


@probe("namespaces.setgroups", "read /proc/self/setgroups", "deny", "depends")
def setgroups() -> Seen:
    value = text("/proc/self/setgroups").strip()
    return value == "deny", value


@probe("namespaces.hostname", "ask for the host name", "not the host's")
def hostname() -> Seen:
    name = os.uname().nodename
    return name != told["hostname"], name


@probe("namespaces.cgroup_path", "read /proc/self/cgroup", "every path is / or below", "depends")
def cgroup_path() -> Seen:
    paths = {line.split(":", 2)[2] for line in text("/proc/self/cgroup").splitlines()}
    return not {path for path in paths if path != "/"}, short(" ".join(sorted(paths)) or "none")


def _unshared(flags: int, then: Callable[[], Seen] | None = None) -> Seen:
    """What comes of new namespaces, in a child; where there are some, of what is done in them."""

    def work() -> Seen:
        result, number = syscall("unshare", flags)
        if result == -1:
            return True, f"unshare: {named(number)}"
        return then() if then is not None else (False, "it was made")

    return in_child(work)


MADE = {
    "userns": (0, "a user namespace"),
    "nested_pid": (NEWPID, "a user and a pid namespace"),
    "nested_net": (NEWNET, "a user and a network namespace"),
    "nested_mnt": (NEWNS, "a user and a mount namespace"),
}


def _register_made() -> None:
    for name, (flags, what) in MADE.items():

        def run(flags: int = flags) -> Seen:
            return _unshared(NEWUSER | flags)

        probe(f"namespaces.{name}", f"unshare: make {what}", "refused", "depends")(run)


_register_made()


@probe(
    "namespaces.clone_user", "clone: start a process in a new user namespace", "refused", "depends"
)
def clone_user() -> Seen:
    return in_child(_cloned)


def _cloned() -> Seen:
    result, number = syscall("clone", NEWUSER | SIGCHLD, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    if result > 0:
        os.waitpid(result, 0)
    return refused((result, number), (ENOSPC,))


@probe("namespaces.clone3_user", "clone3: the same", "refused", "depends")
def clone3_user() -> Seen:
    return in_child(_cloned3)


def _cloned3() -> Seen:
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
    arguments = (ctypes.c_uint64 * 8)(NEWUSER, 0, 0, 0, SIGCHLD, 0, 0, 0)
    result, number = syscall("clone3", ctypes.byref(arguments), ctypes.sizeof(arguments))
    if result == 0:
        os._exit(0)
    if result > 0:
        os.waitpid(result, 0)
    return refused((result, number), (ENOSPC,))


def _own_directory() -> str:
    path = os.path.abspath(f"mount-{os.getpid()}")
    os.mkdir(path)
    return path


def _mounted(kind: bytes) -> Seen:
    """A file system on a directory of its own, in namespaces of its own if there can be any."""
    path = _own_directory()
    try:
        return _unshared(
            NEWUSER | NEWNS,
            lambda: refused(syscall("mount", b"none", path.encode(), kind, 0, 0)),
        )
    finally:
        os.rmdir(path)


@probe(
    "namespaces.mount_nested",
    "mount a tmpfs on a directory of its own, in a user namespace of its own",
    "refused",
    "depends",
)
def mount_nested() -> Seen:
    return _mounted(b"tmpfs")


@probe(
    "namespaces.bind_nested",
    "bind its own directory onto itself, in a user namespace of its own",
    "refused",
    "depends",
)
def bind_nested() -> Seen:
    path = _own_directory()
    try:
        return _unshared(
            NEWUSER | NEWNS,
            lambda: refused(syscall("mount", path.encode(), path.encode(), 0, 4096, 0)),
        )
    finally:
        os.rmdir(path)


@probe(
    "namespaces.fsopen_nested",
    "fsopen: the newer way to a tmpfs, in a user namespace of its own",
    "refused",
    "depends",
)
def fsopen_nested() -> Seen:
    return _unshared(NEWUSER | NEWNS, lambda: refused(syscall("fsopen", b"tmpfs", 0)))


@probe(
    "namespaces.chroot_nested",
    "chroot into its own directory, in a user namespace of its own",
    "refused",
    "depends",
)
def chroot_nested() -> Seen:
    path = _own_directory()
    try:
        return _unshared(NEWUSER, lambda: refused(syscall("chroot", path.encode())))
    finally:
        os.rmdir(path)


@probe(
    "namespaces.hostname_nested",
    "set the host name to what it is, in namespaces of its own",
    "refused",
    "depends",
)
def hostname_nested() -> Seen:
    name = os.uname().nodename.encode()
    return _unshared(NEWUSER | NEWUTS, lambda: refused(syscall("sethostname", name, len(name))))


@probe("namespaces.mount", "mount a tmpfs on a directory of its own", "refused", "passes")
def mount() -> Seen:
    path = _own_directory()
    try:
        return in_child(lambda: refused(syscall("mount", b"none", path.encode(), b"tmpfs", 0, 0)))
    finally:
        os.rmdir(path)


@probe("namespaces.setuid", "become user 0 (in a child)", "refused", "passes")
def setuid() -> Seen:
    return in_child(lambda: shut(lambda: os.setuid(0)))


@probe(
    "namespaces.device",
    "make a device file (null) in its own directory, in a user namespace of its own if it can",
    "refused",
    "passes",
)
def device() -> Seen:
    name = f"device-{os.getpid()}"

    def make() -> Seen:
        try:
            return shut(lambda: os.mknod(name, 0o600 | stat.S_IFCHR, os.makedev(1, 3)))
        finally:
            if os.path.lexists(name):
                os.unlink(name)

    return in_child(make)


def _mounts() -> list[tuple[str, list[str], str]]:
    """(mount point, options, file system) of every mount there is."""
    found = []
    for line in text("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        found.append((fields[4], fields[5].split(","), after.split()[0]))
    return found


@probe("namespaces.nosuid", "read the mount table", "every mount is nosuid")
def nosuid() -> Seen:
    lacking = [point for point, options, _ in _mounts() if "nosuid" not in options]
    return not lacking, f"not {short(' '.join(lacking))}" if lacking else "every one is"


@probe("namespaces.nodev", "read the mount table", "devices work in /dev and as covers alone")
def nodev() -> Seen:
    lacking = [
        point
        for point, options, kind in _mounts()
        if "nodev" not in options and kind not in ("devtmpfs", "devpts") and point != "/dev"
    ]
    return not lacking, f"not {short(' '.join(lacking))}" if lacking else "so it is"


@probe(
    "namespaces.setuid_programs",
    "look for programs in /usr/bin that would run as somebody else",
    "their file system takes no notice of it",
    "depends",
)
def setuid_programs() -> Seen:
    live = []
    for name in names("/usr/bin")[:5000]:
        path = f"/usr/bin/{name}"
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            continue
        marked = stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID)
        if marked and not os.statvfs(path).f_flag & os.ST_NOSUID:
            live.append(name)
    return not live, f"{len(live)} would: {short(' '.join(live))}" if live else "none would"
