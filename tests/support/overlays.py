"""Real overlays for tests, mounted in a namespace of their own that takes them with it."""

import errno
import os
import pickle
import shutil
import signal
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mulligan.engine.vms.store import remove_tree
from mulligan.guest import kernel

CLONE_NEWUSER = 0x10000000
Entry = dict[str, Any]
View = dict[bytes, Entry]


def inside(work: Callable[["Stack"], Any], disk: Path | None = None) -> Any:
    """Runs ``work`` in a forked child, with the rights an agent has and a stack to build.

    The stack is on a file system in memory, or below ``disk``; afterwards nothing of it is left.
    Skips the test where the host has no such namespaces or overlays.
    """
    top = Path(tempfile.mkdtemp(prefix="mulligan-test-", dir=disk))
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer: tuple[str, Any]
        try:
            os.close(read_end)
            answer = _child(work, top, in_memory=disk is None)
        except BaseException:  # noqa: BLE001  (told to the parent, whatever it is)
            answer = ("failed", traceback.format_exc())
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        os._exit(0)
    os.close(write_end)
    try:
        with os.fdopen(read_end, "rb") as pipe:
            data = pipe.read()
    finally:  # also when the test ran out of time
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        remove_tree(top)
    outcome, value = pickle.loads(data)
    if outcome == "skip":
        pytest.skip(value)
    assert outcome == "done", value
    return value


def _child(work: Callable[["Stack"], Any], top: Path, *, in_memory: bool) -> tuple[str, Any]:
    try:
        _enter_namespaces()
        if in_memory:
            kernel.mount("tmpfs", str(top), "tmpfs", 0, "mode=755")
        stack = Stack(top)
        with stack.mounted([]):
            pass
        os.setxattr(top, "user.test", b"1")
    except OSError as error:
        return "skip", f"no overlays in user namespaces here: {error}"
    value = work(stack)
    os.chdir("/")
    return "done", value


def _enter_namespaces() -> None:
    """A user and a mount namespace, one user mapped, and no more rights than agents have."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(CLONE_NEWUSER | kernel.CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"1000 {gid} 1")
    mask = sum(1 << number for number in kernel.AGENT_CAPABILITIES.values())
    sets = mask.to_bytes(4, "little") * 2 + bytes(16)
    kernel._call("capset", kernel._CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4), sets)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


class Stack:
    """An image and trees over it, oldest first; all in a directory that is the current one."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.image = top / "image"
        self.trees: list[Path] = []
        self._number = 0
        os.umask(0o022)
        os.chdir(top)  # mount options have room for short names alone
        for name in ("image", "none", "merged"):
            (top / name).mkdir()

    def new(self) -> Path:
        """A directory that is not there yet."""
        self._number += 1
        return self.top / f"d{self._number}"

    def newest_first(self) -> list[str]:
        """The trees as jobs take them."""
        return [str(tree) for tree in reversed(self.trees)]

    def add(self, change: Callable[[Path], None]) -> Path:
        """Lets ``change`` work on the mounted stack; what it wrote becomes the newest tree."""
        upper = self.new()
        upper.mkdir()
        with self.mounted(self.newest_first(), upper) as merged:
            change(merged)
        self.trees.append(upper)
        return upper

    @contextmanager
    def mounted(self, trees: list[str], upper: Path | None = None) -> Iterator[Path]:
        """The overlay of trees, newest first, over the image."""
        paths = [*trees, str(self.image), str(self.top / "none")]
        lower = ":".join(os.path.relpath(path, self.top) for path in paths)
        options = f"lowerdir={lower},userxattr,volatile"
        if upper is not None:
            work = self.new()
            work.mkdir()
            options += f",upperdir={upper.name},workdir={work.name}"
        else:
            options = options.replace(",volatile", "")
        merged = self.top / "merged"
        kernel.mount("overlay", str(merged), "overlay", kernel.MS_NOSUID | kernel.MS_NODEV, options)
        try:
            yield merged
        finally:
            kernel._call("umount2", os.fsencode(merged), 0)

    def view(self, trees: list[str]) -> View:
        """What programs would see."""
        with self.mounted(trees) as merged:
            return view(merged)


def view(top: Path) -> View:
    """All there is below a directory, and it itself under the empty name."""
    found = {b"": _entry(os.fsencode(top))}
    for directory, directories, files in os.walk(os.fsencode(top)):
        for name in directories + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, os.fsencode(top))] = _entry(path)
    return found


def _entry(path: bytes) -> Entry:
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    entry: Entry = {"kind": kind, "mode": stat.S_IMODE(status.st_mode)}
    if kind == stat.S_IFREG:
        entry["content"] = Path(os.fsdecode(path)).read_bytes()
    elif kind == stat.S_IFLNK:
        entry["content"] = os.readlink(path)
    if kind != stat.S_IFDIR:
        entry["mtime"] = status.st_mtime_ns
    entry["xattrs"] = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
        if name.startswith(("user.", "system."))
    }
    return entry


def raw(top: Path) -> dict[bytes, tuple[Any, ...]]:
    """A tree itself, not as overlayfs shows it, with which names are one inode."""
    found = {}
    inodes: dict[int, int] = {}
    for path, entry in sorted(view(top).items()):
        status = os.lstat(os.path.join(os.fsencode(top), path))
        xattrs = {
            name: value
            for name, value in entry["xattrs"].items()
            if not name.startswith("user.overlay.")
            or name.count(".overlay.") > 1
            or name in ("user.overlay.opaque", "user.overlay.whiteout")
        }
        inode = inodes.setdefault(status.st_ino, len(inodes))
        whiteout = stat.S_ISCHR(status.st_mode)
        rest = (
            (inode, status.st_rdev)
            if whiteout
            else (inode, entry["mode"], entry.get("content"), status.st_mtime_ns)
        )
        found[path] = (entry["kind"], xattrs, *rest)
    return found


KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def naive_diff(old: View, new: View) -> dict[str, Entry]:
    """What a diff must say of two views, texts aside."""
    found = {}
    for path in old.keys() | new.keys():
        before, after = old.get(path), new.get(path)
        if _essence(before) == _essence(after):
            continue
        change = "added" if before is None else "removed" if after is None else "changed"
        text = "/" + path.decode("utf-8", "backslashreplace")
        found[text] = {
            "path": text,
            "change": change,
            "kind": KINDS[(after or before or {})["kind"]],
            "old_size": _length(before),
            "new_size": _length(after),
            "old_mode": f"{before['mode']:04o}" if before else None,
            "new_mode": f"{after['mode']:04o}" if after else None,
        }
    return found


def _essence(entry: Entry | None) -> Entry | None:
    return entry and {name: value for name, value in entry.items() if name != "mtime"}


def _length(entry: Entry | None) -> int | None:
    if not entry or "content" not in entry:
        return None
    content = entry["content"]
    return len(content)


def remove(path: bytes) -> None:
    """rm -rf; errors are the caller's to pass over."""
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def quietly(work: Callable[..., object], *arguments: object, **more: object) -> None:
    """Does what a program may try in vain; errors of our own making are not passed over."""
    try:
        work(*arguments, **more)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ESTALE, errno.EUCLEAN):
            raise
