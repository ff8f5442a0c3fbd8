"""What an unpacked tree needs to be an image, and what it says of itself."""

from __future__ import annotations

import hashlib
import os
import stat
import sys

from mulligan.guest.imports.bounds import RefusedError
from mulligan.guest.imports.streams import CHUNK
from mulligan.guest.imports.tree import Names, Tree, names_of, status_of
from mulligan.guest.jobs.walk import open_file
from mulligan.guest.root import TRUST

TYPE_CHECKING = False  # the guest does without typing
if TYPE_CHECKING:
    from typing import Any

# Where VMs mount things, or have them for sure: directories, whatever the archive has there.
PLACES = ("proc", "dev", "sys", "run", "run/mulligan", "packages", "workspace", "home/agent")
STICKY = ("tmp", "var/tmp")
USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = {
    "python": ("python3", "python"),
    "javascript": ("node", "nodejs"),
    "bash": ("bash",),
    "rust": ("rustc",),
}
SHELLS = ("/bin/sh", "/bin/bash", "/usr/bin/env")
MOST_PASSWD = 1024 * 1024
MOST_PATHS = 32
ELF_HEADER = 20


def finish(tree: Tree, variables: list[str], architecture: str | None) -> dict[str, Any]:
    """Lays what VMs need into a tree, and looks at it.

    Returns:
        ``programs`` (by language, where it is), ``search`` (its PATH), ``env`` (the other variables
        it sets), ``shell``, ``entries``, ``bytes`` and ``digest`` (of all that is in it).

    Raises:
        RefusedError: nothing could run in it.
    """
    for place in PLACES:
        _place(tree, place)
    for place in STICKY:
        _place(tree, place)
        tree.make_directory(names_of(place), 0o1777)
    env = _split(variables)
    search = [path for path in env.pop("PATH", USUAL_PATH).split(":") if path.startswith("/")]
    search = search[:MOST_PATHS] or USUAL_PATH.split(":")
    found = {language: _program(tree, names, search) for language, names in PROGRAMS.items()}
    programs = {language: path for language, path in found.items() if path is not None}
    _check_machine(tree, [*SHELLS, *programs.values()], architecture)
    if not programs:
        raise RefusedError(
            "none of bash, python3, node and rustc is in it: nothing could run there"
        )
    for path in GONE:
        tree.remove(names_of(path))
    shell = "/bin/bash" if "bash" in programs else "/bin/sh"
    _name_user(tree, shell)
    for path, text in FILES.items():
        _write(tree, names_of(path), text.encode())
    digest, entries, size = _sum(tree)
    return {
        "programs": programs,
        "search": search,
        "env": env,
        "shell": shell,
        "digest": digest,
        "entries": entries,
        "bytes": size,
        "machine": os.uname().machine,
    }


GONE = ("etc/resolv.conf",)  # of whoever made the archive: VMs resolve nothing by themselves
FILES = {
    "etc/hosts": "127.0.0.1\tlocalhost mulligan\n::1\tlocalhost\n",
    "etc/hostname": "mulligan\n",
    "etc/machine-id": "",
    TRUST[1:]: "",
}
USER = ("agent", 1000, 1000, "/home/agent")


def _place(tree: Tree, path: str) -> None:
    """A directory and those above it, none of them a link."""
    names = names_of(path)
    for depth in range(1, len(names) + 1):
        above = tree.directory(names[: depth - 1])
        status = status_of(above, names[depth - 1])
        if status is None or not stat.S_ISDIR(status.st_mode):
            tree.make_directory(names[:depth], 0o755)


def _split(variables: list[str]) -> dict[str, str]:
    found = {}
    for each in variables:
        name, separator, value = each.partition("=")
        if separator:
            found[name] = value
    return found


def _program(tree: Tree, names: tuple[str, ...], search: list[str]) -> str | None:
    """The path of the first of some programs that is on the PATH of a tree."""
    for name in names:
        for directory in search:
            path = f"{directory.rstrip('/')}/{name}"
            found = tree.find(path)
            if found is None:
                continue
            status = status_of(*found)
            if status is not None and stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
                return path
    return None


def _check_machine(tree: Tree, paths: list[str], architecture: str | None) -> None:
    """Makes sure that programs of a tree run here, by the header of one of them (elf(5)).

    Raises:
        RefusedError: they are for other machines.
    """
    with open(os.path.realpath(sys.executable), "rb") as file:
        own = file.read(ELF_HEADER)
    for path in paths:
        found = tree.find(path)
        if found is None:
            continue
        try:
            descriptor = open_file(*found)
        except OSError:
            continue
        try:
            header = os.read(descriptor, ELF_HEADER)
        finally:
            os.close(descriptor)
        if header[:4] != b"\x7fELF" or len(header) < ELF_HEADER:
            continue
        # Class, byte order and machine.
        if (header[4:6], header[18:20]) != (own[4:6], own[18:20]):
            of = f" ({architecture[:50]})" if architecture else ""
            raise RefusedError(
                f"its programs are for another machine{of}, and this one is {os.uname().machine}"
            )
        return


def _name_user(tree: Tree, shell: str) -> None:
    """Gives the user VMs have a name, before any other name of its number."""
    name, uid, gid, home = USER
    passwd = _lines(tree, "/etc/passwd") or [b"root:x:0:0:root:/root:/bin/sh"]
    group = _lines(tree, "/etc/group") or [b"root:x:0:"]
    passwd = [each for each in passwd if not each.startswith(b"agent:")]
    group = [each for each in group if not each.startswith(b"agent:")]
    passwd.insert(0, f"{name}:x:{uid}:{gid}::{home}:{shell}".encode())
    group.insert(0, f"{name}:x:{gid}:".encode())
    _write(tree, ("etc", "passwd"), b"\n".join(passwd) + b"\n")
    _write(tree, ("etc", "group"), b"\n".join(group) + b"\n")


def _lines(tree: Tree, path: str) -> list[bytes]:
    found = tree.find(path)
    if found is None:
        return []
    try:
        descriptor = open_file(*found)
    except OSError:
        return []
    with open(descriptor, "rb") as file:
        return file.read(MOST_PASSWD).splitlines()


def _write(tree: Tree, names: Names, content: bytes) -> None:
    descriptor = tree.open_new(names)
    with open(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(descriptor, 0o644)


def _sum(tree: Tree) -> tuple[str, int, int]:
    """A digest of all that is in a tree but times, how much that is, and its bytes."""
    total = hashlib.sha256()
    counts = [0, 0]
    _add(tree.top, "", total, counts)
    return f"sha256:{total.hexdigest()}", counts[0], counts[1]


def _add(directory: int, path: str, total: Any, counts: list[int]) -> None:
    """One directory and those below; a tree is no deeper than ``Tree`` makes it."""
    for name in sorted(os.listdir(directory)):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        whole = f"{path}/{name}"
        kind, content = stat.S_IFMT(status.st_mode), b""
        if kind == stat.S_IFREG:
            content = _hash(directory, name)
            counts[1] += status.st_blocks * 512
        elif kind == stat.S_IFLNK:
            content = os.fsencode(os.readlink(name, dir_fd=directory))
        counts[0] += 1
        head = os.fsencode(whole)
        total.update(b"%o %d %d " % (status.st_mode, len(head), len(content)) + head + content)
        if kind == stat.S_IFDIR:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                _add(inner, whole, total, counts)
            finally:
                os.close(inner)


def _hash(directory: int, name: str) -> bytes:
    made = hashlib.sha256()
    with open(open_file(directory, name), "rb") as file:
        while data := file.read(CHUNK):
            made.update(data)
    return made.digest()
