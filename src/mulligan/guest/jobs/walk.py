"""Ways through a tree that hold few descriptors, and what overlayfs means by what is there.

Nothing here builds a path longer than a name: every step is taken from an open directory, with
O_NOFOLLOW, so neither links nor depths matter. Trees may not be renamed in while they are read.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from types import TracebackType

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
MOST_DESCRIPTORS = 256

_OWN = "user.overlay."
# What programs call user.overlay.x the kernel keeps as user.overlay.overlay.x (since Linux 6.7).
_ESCAPED = "user.overlay.overlay."
OPAQUE = "user.overlay.opaque"
# "Copied up", from where is not known: ovl_get_inode looks for whiteouts in such a directory even
# where it is merged with no other.
ORIGIN = "user.overlay.origin"
_WHITEOUT = "user.overlay.whiteout"
# All else that overlayfs notes down (origin, impure, nlink, …) is about one mount over one lower
# tree: inode numbers to show and copies to find again. A copy is no such thing, and works without.
MARKS = (OPAQUE, _WHITEOUT)
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_NO_XATTR = (errno.ENODATA, errno.ENOTSUP)


class Cursor:
    """A place in a tree, moved one directory at a time.

    Of the directories on the way down only the last few stay open. Those above are found again
    by ``..``, which costs the same at any depth, and are made sure of by their inode.

    Args:
        path: the tree's top, where the cursor begins; no link.
        trees: how many cursors share ``MOST_DESCRIPTORS``.

    Raises:
        OSError: it cannot be opened, or is no directory.
    """

    def __init__(self, path: str, trees: int = 1) -> None:
        self._window = max(2, MOST_DESCRIPTORS // max(1, trees))
        self._open = [os.open(path, OPEN_DIRECTORY)]
        self._closed: list[tuple[int, int]] = []
        self._marks: list[bool | None] = [None]

    def __enter__(self) -> Cursor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """The descriptor of the directory it is at, good until it moves."""
        return self._open[-1]

    def enter(self, name: str) -> None:
        """Goes down into a directory.

        Raises:
            OSError: there is none of that name; links are none.
        """
        self._open.append(os.open(name, OPEN_DIRECTORY, dir_fd=self.fd))
        self._marks.append(None)
        if len(self._open) > self._window:
            far = self._open[0]
            self._closed.append(_identity(far))
            del self._open[0]
            os.close(far)

    def leave(self) -> None:
        """Goes back up.

        Raises:
            OSError: the directory above is not the one it came from.
        """
        if len(self._open) == 1:
            above = os.open("..", OPEN_DIRECTORY, dir_fd=self.fd)
            self._open.insert(0, above)
            if _identity(above) != self._closed.pop():
                raise OSError(errno.ESTALE, "a directory was moved while it was read")
        self._marks.pop()
        os.close(self._open.pop())

    def close(self) -> None:
        """Closes everything; the cursor is of no use then."""
        while self._open:
            os.close(self._open.pop())

    def hides(self, name: str, status: os.stat_result) -> bool:
        """Whether an entry of the directory is a whiteout, of either kind overlayfs knows."""
        if stat.S_ISCHR(status.st_mode):
            return status.st_rdev == 0
        if not stat.S_ISREG(status.st_mode) or status.st_size or not self.has_marks:
            return False
        return _xattr(beneath(self.fd, name), _WHITEOUT) is not None

    @property
    def has_marks(self) -> bool:
        """Whether whiteouts in this directory may be empty files with an attribute."""
        known = self._marks[-1]
        if known is None:
            known = self._marks[-1] = _xattr(self.fd, OPAQUE) == b"x"
        return known

    def is_opaque(self, name: str) -> bool:
        """Whether a directory of this one shows nothing of the trees below."""
        return _xattr(beneath(self.fd, name), OPAQUE) == b"y"

    def status(self, name: str) -> os.stat_result | None:
        """lstat of an entry; None where there is none."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None


def open_file(directory: int, name: str) -> int:
    """A descriptor to read a regular file by; opening waits for nothing.

    Raises:
        OSError: it cannot be read, or is something else.
    """
    descriptor = os.open(name, OPEN_FILE, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ESTALE, "a file was replaced while it was read", name)
    return descriptor


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def beneath(directory: int, name: str) -> str:
    """A path to an entry of an open directory, for the calls that take no dir_fd.

    They must not follow links: what comes before the name is the kernel's own.
    """
    return f"/proc/self/fd/{directory}/{name}"


def _xattr(place: str | int, name: str) -> bytes | None:
    try:
        return os.getxattr(place, name, follow_symlinks=isinstance(place, int))
    except OSError as error:
        if error.errno in _NO_XATTR:
            return None
        raise


def xattrs(place: str | int, *, marks: bool = False) -> dict[str, bytes]:
    """The extended attributes that are content: those of users, and access control lists.

    Args:
        place: a path made by ``beneath``, whose last link is not followed, or a descriptor.
        marks: with those that make a directory opaque and a file a whiteout.
    """
    follow = isinstance(place, int)  # a descriptor is no link, and says so by this
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTR:
            return {}
        raise
    wanted = [name for name in names if _is_content(name) or (marks and name in MARKS)]
    return {name: os.getxattr(place, name, follow_symlinks=follow) for name in wanted}


def _is_content(name: str) -> bool:
    if name.startswith("user."):
        return not name.startswith(_OWN) or name.startswith(_ESCAPED)
    return name in _ACLS
