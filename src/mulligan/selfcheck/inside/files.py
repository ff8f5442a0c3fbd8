"""The host's files."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator

from mulligan.selfcheck.inside.probing import (
    Seen,
    empty,
    named,
    names,
    probe,
    read,
    short,
    shut,
    text,
    told,
)

SMALL = 64 * 1024
MOST_ENTRIES = 20_000
WALK_S = 2.0

PLANTED = {
    "tmp": ("in /tmp", "fails"),
    "shm": ("in /dev/shm", "depends"),
    "private": ("in a directory of the server's user", "depends"),
    "data": ("in the data directory", "depends"),
}


def _register_planted() -> None:
    for name, (where, outside) in PLANTED.items():

        def run(name: str = name) -> Seen:
            return shut(lambda: f"{len(read(told['files'][name]))} bytes")

        probe(f"files.planted_{name}", f"read the planted file {where}", "not there", outside)(run)


_register_planted()


@probe("files.proc_root", "read the planted file in /tmp by way of /proc/1/root", "shut", "depends")
def proc_root() -> Seen:
    return shut(lambda: len(read(f"/proc/{told['agent']}/root{told['files']['tmp']}")))


@probe("files.own_root", "read it by way of /proc/self/root and many ..", "not there")
def own_root() -> Seen:
    up = "../" * 40
    return shut(lambda: len(read(f"/proc/self/root/{up}{told['files']['tmp'].lstrip('/')}")))


@probe("files.own_cwd", "read it by way of /proc/self/cwd and many ..", "not there")
def own_cwd() -> Seen:
    up = "../" * 40
    return shut(lambda: len(read(f"/proc/self/cwd/{up}{told['files']['tmp'].lstrip('/')}")))


def _below(top: str, end: float) -> Iterator[os.DirEntry[str]]:
    """What is below a directory on its own file system, within bounds; links are not followed."""
    queue = [top]
    seen = 0
    try:
        own = os.stat(top).st_dev
    except OSError:
        return
    while queue:
        try:
            found = list(os.scandir(queue.pop()))
        except OSError:
            continue
        for entry in found:
            seen += 1
            if seen > MOST_ENTRIES or time.monotonic() > end:
                return
            yield entry
            try:
                inside = entry.is_dir(follow_symlinks=False)
                if inside and entry.stat(follow_symlinks=False).st_dev == own:
                    queue.append(entry.path)
            except OSError:
                continue


@probe(
    "files.search_names", "look for planted names below /tmp, /dev/shm, /home and others", "none"
)
def search_names() -> Seen:
    found = []
    end = time.monotonic() + WALK_S
    wanted = [os.path.basename(path) for path in told["files"].values()]
    for top in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/home", "/root", "/mnt", "/srv"):
        found += [entry.path for entry in _below(top, end) if entry.name in wanted]
    return empty(found)


@probe(
    "files.search_contents",
    "read every small file below /tmp, /dev/shm, /run, /home, /root, /var and /etc",
    "none of them has the secret",
)
def search_contents() -> Seen:
    number = 0
    end = time.monotonic() + WALK_S
    for top in ("/tmp", "/dev/shm", "/run", "/home", "/root", "/var", "/etc"):
        for entry in _below(top, end):
            try:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_size <= SMALL:
                    read(entry.path, SMALL)
                    number += 1
            except OSError:
                continue
    return True, f"{number} files read"


ABSENT = {
    "shadow": ("/etc/shadow", "fails"),
    "fstab": ("/etc/fstab", "depends"),
    "ssh": ("/etc/ssh", "depends"),
    "sudoers": ("/etc/sudoers", "depends"),
    "cron": ("/etc/cron.d", "depends"),
    "systemd": ("/etc/systemd", "depends"),
    "apt": ("/etc/apt", "depends"),
    "pam": ("/etc/pam.d", "depends"),
    "packages": ("/var/lib", "fails"),
    "logs": ("/var/log", "fails"),
    "caches": ("/var/cache", "fails"),
    "spool": ("/var/spool", "depends"),
    "boot": ("/boot", "depends"),
    "lost_found": ("/lost+found", "depends"),
    "media": ("/media", "depends"),
    "run_lock": ("/run/lock", "depends"),
    "run_systemd": ("/run/systemd", "depends"),
    "run_user": ("/run/user", "depends"),
    "dbus": ("/run/dbus/system_bus_socket", "depends"),
    "docker": ("/var/run/docker.sock", "depends"),
    "containerd": ("/run/containerd/containerd.sock", "depends"),
    "service_account": ("/var/run/secrets", "depends"),
    "fuse": ("/dev/fuse", "depends"),
    "tun": ("/dev/net/tun", "depends"),
    "kvm": ("/dev/kvm", "depends"),
    "loop": ("/dev/loop-control", "depends"),
    "vsock_device": ("/dev/vsock", "depends"),
    "console": ("/dev/tty1", "depends"),
    "serial": ("/dev/ttyS0", "depends"),
}


def _register_absent() -> None:
    for name, (path, outside) in ABSENT.items():

        def run(path: str = path) -> Seen:
            return shut(lambda: oct(os.stat(path).st_mode))

        probe(f"files.{name}", f"look for {path}", "it is not there", outside)(run)


_register_absent()

SAME = {
    "users": ("/etc/passwd", "depends"),
    "group_names": ("/etc/group", "depends"),
    "hosts": ("/etc/hosts", "depends"),
    "host_name": ("/etc/hostname", "depends"),
    "machine_id": ("/etc/machine-id", "depends"),
    "ca_private": ("/etc/ssl/private", "depends"),
}


def _register_same() -> None:
    for name, (path, outside) in SAME.items():

        def run(path: str = path) -> Seen:
            try:
                found = read(path)
            except OSError as error:
                return True, named(error.errno or 0)
            same = hashlib.sha256(found).hexdigest() == told["digests"].get(path)
            return not same or not found, f"{len(found)} bytes, " + (
                "the host's" if same else "made up"
            )

        probe(f"files.{name}", f"read {path}", "not what the host has there", outside)(run)


_register_same()


@probe("files.homes", "list /home", "the made-up user's alone", "depends")
def homes() -> Seen:
    found = names("/home")
    return found == ["agent"], " ".join(found)


@probe("files.top", "list /", "the usual names, /workspace and /packages", "depends")
def top() -> Seen:
    usual = "bin dev etc home lib lib32 lib64 libx32 mnt opt proc root run sbin srv sys tmp usr var"
    return empty(sorted(set(names("/")) - set(usual.split()) - {"packages", "workspace"}))


EMPTY = {"sys": "fails", "mnt": "depends", "opt": "depends", "srv": "depends"}


def _register_empty() -> None:
    for name, outside in EMPTY.items():

        def run(path: str = f"/{name}") -> Seen:
            return empty(names(path) if os.path.isdir(path) else [])

        probe(f"files.empty_{name}", f"list /{name}", "nothing in it", outside)(run)


_register_empty()


@probe(
    "files.root_home", "look for the superuser's files in /root", "toolchains at most", "depends"
)
def root_home() -> Seen:
    usual = (
        ".bashrc",
        ".profile",
        ".bash_history",
        ".ssh",
        ".config",
        ".aws",
        ".netrc",
        ".gitconfig",
    )
    return empty([name for name in usual if os.path.lexists(f"/root/{name}")])


@probe("files.block_devices", "look for block devices in /dev", "none", "depends")
def block_devices() -> Seen:
    end = time.monotonic() + WALK_S
    found = []
    for entry in _below("/dev", end):
        try:
            if stat.S_ISBLK(entry.stat(follow_symlinks=False).st_mode):
                found.append(entry.name)
        except OSError:
            continue
    return empty(sorted(found))


@probe("files.devices", "list /dev", "the ten or so that every program needs", "depends")
def devices() -> Seen:
    allowed = "null zero full random urandom tty pts ptmx shm fd stdin stdout stderr core console"
    return empty(sorted(set(names("/dev")) - set(allowed.split()) - {"mqueue"}))


READ_ONLY = {"usr": "/usr", "dev": "/dev", "python": None}


def _register_read_only() -> None:
    for name, path in READ_ONLY.items():

        def run(path: str | None = path) -> Seen:
            flags = os.statvfs(path or os.path.realpath("/proc/self/exe")).f_flag
            return bool(flags & os.ST_RDONLY), "read-only" if flags & os.ST_RDONLY else "writable"

        what = path or "the file system of the interpreter"
        probe(f"files.read_only_{name}", f"ask how {what} is mounted", "read-only", "depends")(run)


_register_read_only()


@probe("files.disk_names", "read the mount table", "names no directory of VMs", "passes")
def disk_names() -> Seen:
    vms = f"{told['data_dir']}/vms"
    return empty([each for each in text("/proc/self/mountinfo").split() if vms in each])


@probe(
    "files.package_sets",
    "list /packages, where every agent's sets of packages are",
    "refused: they are found by name alone",
    "passes",
)
def package_sets() -> Seen:
    return shut(lambda: names("/packages"))


@probe("files.data_dir", "look for the data directory", "it is not there")
def data_dir() -> Seen:
    return shut(lambda: oct(os.stat(told["data_dir"]).st_mode))


@probe(
    "files.neighbour",
    "read a file that another agent's VM wrote, by its path on the host",
    "it is not there",
    "depends",
)
def neighbour() -> Seen:
    if told["neighbour"] is None:
        return True, "no such file was found on the host either"
    return shut(lambda: f"{len(read(told['neighbour']))} bytes")


@probe("files.locks", "look for the planted file lock in /proc/locks", "not listed")
def locks() -> Seen:
    inode = f":{told['lock']} "
    try:
        lines = text("/proc/locks").splitlines()
    except FileNotFoundError:
        return True, "no such list"
    return empty([line for line in lines if inode in line])


@probe(
    "files.write_elsewhere", "ask whether /usr/bin and /etc may be written to", "not /usr", "passes"
)
def write_elsewhere() -> Seen:
    return empty([path for path in ("/usr/bin", "/usr/lib", "/usr") if os.access(path, os.W_OK)])


@probe("files.sysctl", "ask for kernel settings that it may write to", "none", "depends")
def sysctl() -> Seen:
    found = [
        entry.path.removeprefix("/proc/sys/")
        for entry in _below("/proc/sys", time.monotonic() + WALK_S)
        if not entry.is_dir(follow_symlinks=False) and os.access(entry.path, os.W_OK)
    ]
    return not found, f"{len(found)}: {short(' '.join(found))}" if found else "none"
