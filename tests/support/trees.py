"""A tree of files in plain memory: what programs in a VM do to theirs, done to a dict.

The model knows what an overlay file system is bound to do and a plain one is not: a name whose
file was frozen gets a file of its own when it is written (hard links part), and a directory older
than the last frozen state is moved by copying (EXDEV).
"""

from __future__ import annotations

import copy
import errno
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

FILE, DIRECTORY, SYMLINK, FIFO = "file", "directory", "symlink", "fifo"
SET_ID = 0o6000
HOLE = 1 << 20  # from here on a hole is looked for again

Operation = dict[str, Any]


class Undecided(Exception):  # noqa: N818  (no error: an answer)
    """The model does not say what this operation does; it is left out."""


@dataclass
class Node:
    """An inode. ``lower``: it is part of a frozen state; ``mtime`` is learned, in nanoseconds."""

    kind: str
    mode: int
    content: bytes = b""
    target: str = ""
    xattrs: dict[str, str] = field(default_factory=dict)
    lower: bool = False
    holes: bool = False
    mtime: int | None = None


class Tree:
    """Paths, relative and ``/`` between names, and what they name; hard links share a node."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def copy(self, *, lower: bool = False) -> Tree:
        """The same tree, independent of this one; with ``lower`` as one that is frozen."""
        other = Tree()
        other.nodes = copy.deepcopy(self.nodes)
        if lower:
            other.freeze()
        return other

    def freeze(self) -> None:
        """All there is becomes part of a frozen state."""
        for node in self.nodes.values():
            node.lower = True

    def apply(self, operation: Operation) -> str:
        """Does one operation, and returns what a program is told of it: "ok" or an errno's name.

        Raises:
            Undecided: nothing was done.
        """
        arguments = {name: value for name, value in operation.items() if name != "op"}
        if "data" in arguments:
            arguments["data"] = bytes.fromhex(arguments["data"]) * arguments.pop("times")
        try:
            return getattr(self, f"_{operation['op']}")(**arguments) or "ok"
        except OSError as error:
            return errno.errorcode[error.args[0]]

    # Looking

    def below(self, path: str) -> list[str]:
        """What is in a directory, at any depth."""
        return [each for each in self.nodes if each.startswith(f"{path}/")]

    def _reach(self, path: str) -> Node | None:
        """What a path names, after the directories on the way there were gone through."""
        names = path.split("/")
        for count in range(1, len(names)):
            node = self.nodes.get("/".join(names[:count]))
            if node is None:
                raise OSError(errno.ENOENT)
            if node.kind == SYMLINK:
                raise Undecided
            if node.kind != DIRECTORY:
                raise OSError(errno.ENOTDIR)
        return self.nodes.get(path)

    def _get(self, path: str) -> Node:
        node = self._reach(path)
        if node is None:
            raise OSError(errno.ENOENT)
        return node

    def _parent_writable(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if parent and not self.nodes[parent].mode & 0o200:
            raise OSError(errno.EACCES)

    def _own(self, path: str) -> Node:
        """The node of a name that is about to be changed: its own, where it was frozen."""
        node = self.nodes[path]
        if node.lower and node.kind != DIRECTORY:
            node = self.nodes[path] = copy.deepcopy(node)
            node.lower = False
        return node

    # Files

    def _writable(self, path: str) -> Node | None:
        node = self._reach(path)
        if node is None:
            return None
        if node.kind == DIRECTORY:
            raise OSError(errno.EISDIR)
        if node.kind != FILE or node.mode & SET_ID:
            raise Undecided
        if not node.mode & 0o200:
            raise OSError(errno.EACCES)
        node = self._own(path)
        node.mtime = None
        return node

    def _existing(self, path: str) -> Node:
        node = self._writable(path)
        if node is None:
            raise OSError(errno.ENOENT)
        return node

    def _write(self, path: str, data: bytes) -> None:
        node = self._writable(path)
        if node is None:
            self._parent_writable(path)
            node = self.nodes[path] = Node(FILE, 0o644)
        node.content, node.holes = data, False

    def _append(self, path: str, data: bytes) -> None:
        node = self._existing(path)
        node.content += data

    def _truncate(self, path: str, size: int) -> None:
        node = self._existing(path)
        node.holes = node.holes or size - len(node.content) >= HOLE
        node.content = node.content[:size].ljust(size, b"\0")
        node.holes = node.holes and size >= HOLE

    def _put(self, path: str, offset: int, data: bytes) -> None:
        node = self._existing(path)
        if not data:
            return  # nothing is written, wherever it is put
        node.holes = node.holes or offset - len(node.content) >= HOLE
        old = node.content.ljust(offset, b"\0")
        node.content = old[:offset] + data + old[offset + len(data) :]

    # Names

    def _new(self, path: str, node: Node) -> None:
        if self._reach(path) is not None:
            raise OSError(errno.EEXIST)
        self._parent_writable(path)
        self.nodes[path] = node

    def _mkdir(self, path: str) -> None:
        self._new(path, Node(DIRECTORY, 0o755))
        parent = path.rpartition("/")[0]
        if parent:
            self.nodes[path].mode |= self.nodes[parent].mode & 0o2000

    def _symlink(self, path: str, target: str) -> None:
        self._new(path, Node(SYMLINK, 0o777, target=target))

    def _mkfifo(self, path: str) -> None:
        self._new(path, Node(FIFO, 0o644))

    def _link(self, path: str, to: str) -> None:
        node = self._get(path)
        if self._reach(to) is not None:
            raise OSError(errno.EEXIST)
        if node.mode & SET_ID:
            raise Undecided  # not everybody may link to such a file
        self._parent_writable(to)
        if node.kind == DIRECTORY:
            raise OSError(errno.EPERM)
        self.nodes[to] = self._own(path)

    def _unlink(self, path: str) -> None:
        node = self._get(path)
        self._parent_writable(path)
        if node.kind == DIRECTORY:
            raise OSError(errno.EISDIR)
        del self.nodes[path]

    def _rmdir(self, path: str) -> None:
        node = self._get(path)
        self._parent_writable(path)
        if node.kind != DIRECTORY:
            raise OSError(errno.ENOTDIR)
        if self.below(path):
            raise OSError(errno.ENOTEMPTY)
        del self.nodes[path]

    def _rmtree(self, path: str) -> None:
        if self._get(path).kind != DIRECTORY or not self._all_writable(path):
            raise Undecided
        for each in self.below(path):
            del self.nodes[each]
        self._parent_writable(path)  # its own name goes last
        del self.nodes[path]

    def _all_writable(self, path: str) -> bool:
        nodes = [self.nodes[each] for each in [path, *self.below(path)]]
        return all(node.mode & 0o200 for node in nodes if node.kind == DIRECTORY)

    def _rename(self, path: str, to: str) -> str:
        node, there = self._reach(path), self._reach(to)
        if node is None:
            raise OSError(errno.ENOENT)
        if f"{to}/".startswith(f"{path}/") or f"{path}/".startswith(f"{to}/") or there is node:
            raise Undecided
        if node.kind == DIRECTORY and not self._all_writable(path):
            raise Undecided
        self._parent_writable(path)
        self._parent_writable(to)
        if there is not None:
            if (there.kind == DIRECTORY) != (node.kind == DIRECTORY):
                raise OSError(errno.EISDIR if there.kind == DIRECTORY else errno.ENOTDIR)
            if self.below(to):
                raise OSError(errno.ENOTEMPTY)
        if node.kind != DIRECTORY:
            self.nodes[to] = self._own(path)
            del self.nodes[path]
            return "ok"
        moved = {each: self.nodes.pop(each) for each in [path, *self.below(path)]}
        if copied := node.lower:
            moved = copy.deepcopy(moved)  # what is linked inside stays so
            for each in moved.values():
                each.lower = False
        self.nodes.pop(to, None)
        self.nodes.update({to + each[len(path) :]: value for each, value in moved.items()})
        return "copied" if copied else "ok"

    # Attributes

    def _chmod(self, path: str, mode: int) -> None:
        kind = self._get(path).kind
        if kind == SYMLINK:
            raise Undecided
        # Whoever owns a directory can always get into it here: what cannot be read cannot be
        # compared.
        self._own(path).mode = mode | (0o500 if kind == DIRECTORY else 0o400)

    def _setxattr(self, path: str, name: str, data: bytes) -> None:
        self._attributes(path)
        self._own(path).xattrs[name] = data.hex()

    def _removexattr(self, path: str, name: str) -> None:
        if name not in self._attributes(path).xattrs:
            raise OSError(errno.ENODATA)
        del self._own(path).xattrs[name]

    def _attributes(self, path: str) -> Node:
        node = self._get(path)
        if node.kind not in (FILE, DIRECTORY):
            raise Undecided
        if not node.mode & 0o200:
            raise OSError(errno.EACCES)
        return node

    # Comparing

    def compare(self, dump: dict[str, dict[str, Any]]) -> None:
        """Holds what a program saw of its tree against this one, and learns times it cannot know.

        Args:
            dump: as the program ``guest_programs.DUMP`` prints it.

        Raises:
            AssertionError: they differ.
        """
        shown = {path: _shown(entry) for path, entry in dump.items()}
        expected = {path: _expected(node) for path, node in self.nodes.items()}
        wrong = [
            f"{path!r}: {shown.get(path)}, not {expected.get(path)}"
            for path in sorted(shown.keys() | expected.keys())
            if shown.get(path) != expected.get(path)
        ]
        assert not wrong, wrong
        groups = _groups({path: entry["ino"] for path, entry in dump.items()})
        linked = _groups({path: id(node) for path, node in self.nodes.items()})
        assert groups == linked, f"hard links: {groups}, not {linked}"
        for path, node in self.nodes.items():
            if node.holes:
                assert dump[path]["blocks"] * 512 < len(node.content), f"{path} lost its holes"
            if node.kind != DIRECTORY:
                assert node.mtime in (None, dump[path]["mtime"]), f"{path} has another time"
                node.mtime = dump[path]["mtime"]

    def differences(self, new: Tree) -> dict[str, str]:
        """What a diff of this state and a newer one has to say: path to kind of change."""
        old_nodes = {path: _expected(node) for path, node in self.nodes.items()}
        new_nodes = {path: _expected(node) for path, node in new.nodes.items()}
        changes = {}
        for path in old_nodes.keys() | new_nodes.keys():
            if old_nodes.get(path) != new_nodes.get(path):
                added, removed = path not in old_nodes, path not in new_nodes
                changes[path] = "added" if added else "removed" if removed else "changed"
        return changes


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("kind", "mode", "size", "sha256", "target", "xattrs")}


def _expected(node: Node) -> dict[str, Any]:
    is_file = node.kind == FILE
    return {
        "kind": node.kind,
        "mode": node.mode,
        "size": len(node.content) if is_file else None,
        "sha256": hashlib.sha256(node.content).hexdigest() if is_file else None,
        "target": node.target,
        "xattrs": node.xattrs,
    }


def _groups(inodes: dict[str, int]) -> set[frozenset[str]]:
    """Which names are hard links of one another."""
    found: dict[int, set[str]] = {}
    for path, inode in inodes.items():
        found.setdefault(inode, set()).add(path)
    return {frozenset(paths) for paths in found.values() if len(paths) > 1}


# Strategies

NAMES = ["a", "b", "é\n", ".wh.a"]
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
data = st.binary(max_size=20).map(bytes.hex)
times = st.sampled_from([1, 1, 1, 7, 5000])  # large contents, told in few words
sizes = st.integers(0, 5000) | st.integers(HOLE, 4 * HOLE)
modes = st.sampled_from([0o644, 0o600, 0o755, 0o444, 0o400, 0o666, 0o4755, 0o2755, 0o1777, 0o555])
targets = st.sampled_from(["a", "../a", "/etc/passwd", "é\n", "x" * 300, "."])
attributes = st.sampled_from(["user.one", "user.two.é"])


def _operation(op: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
    return st.fixed_dictionaries({"op": st.just(op), "path": paths, **arguments})


making = st.one_of(
    _operation("write", data=data, times=times),
    _operation("write", data=data, times=times),
    _operation("mkdir"),
    _operation("symlink", target=targets),
    _operation("mkfifo"),
)
changing = st.one_of(
    _operation("append", data=data, times=times),
    _operation("truncate", size=sizes),
    _operation("put", offset=sizes, data=data, times=times),
    _operation("chmod", mode=modes),
    _operation("setxattr", name=attributes, data=data, times=st.just(1)),
    _operation("removexattr", name=attributes),
)
moving = st.one_of(
    _operation("link", to=paths),
    _operation("rename", to=paths),
    _operation("unlink"),
    _operation("rmdir"),
    _operation("rmtree"),
)


def _with_parents(operation: Operation) -> list[Operation]:
    """An operation after the directories it needs were made, where they are missing."""
    return [*({"op": "mkdir", "path": path} for path in parents(operation["path"])), operation]


def parents(path: str) -> Iterator[str]:
    """The directories above a path, the outermost first."""
    names = path.split("/")
    return ("/".join(names[:count]) for count in range(1, len(names)))


batches = st.lists(
    st.one_of(
        making.map(_with_parents),
        changing.map(lambda operation: [operation]),
        moving.map(lambda operation: [operation]),
    ),
    min_size=1,
    max_size=8,
).map(lambda groups: [operation for group in groups for operation in group])
