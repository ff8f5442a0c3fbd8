"""What is in regular files: copied and compared without touching the holes in them."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512  # what st_blocks counts in, whatever the file system's own blocks are
_AT_ONCE = 1 << 30
_CHUNK = 1 << 20
_CANNOT = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def copy_content(source: int, target: int, status: os.stat_result) -> None:
    """Copies a file of the given status into an empty one; holes stay holes.

    Raises:
        OSError: it could not be read or written, or is shorter than its status says.
    """
    size = status.st_size
    if status.st_blocks * BLOCK >= size:
        _copy(source, target, 0, size)
        return
    os.ftruncate(target, size)
    for start, end in _extents(source, size):
        _copy(source, target, start, end)


def equal(first: int, second: int, size: int) -> bool:
    """Whether two files of ``size`` bytes hold the same; holes are zeros, and cost nothing."""
    position = 0
    while position < size:
        start = min(_data_from(first, position, size), _data_from(second, position, size))
        length = min(_CHUNK, size - start)
        if os.pread(first, length, start) != os.pread(second, length, start):
            return False
        position = start + length
    return True


def _data_from(descriptor: int, position: int, size: int) -> int:
    """Where data comes next, from ``position`` on; ``size`` where none does."""
    try:
        return min(size, os.lseek(descriptor, position, os.SEEK_DATA))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        raise


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that hold data, as (start, end) in bytes."""
    end = 0
    while (start := _data_from(descriptor, end, size)) < size:
        end = min(size, os.lseek(descriptor, start, os.SEEK_HOLE))
        yield start, end


def _copy(source: int, target: int, position: int, end: int) -> None:
    while position < end:
        done = _pass(source, target, position, min(end - position, _AT_ONCE))
        if done == 0:
            raise OSError(errno.EIO, "a file became shorter while it was copied")
        position += done


def _pass(source: int, target: int, position: int, count: int) -> int:
    """Copies some of ``count`` bytes, inside the kernel where it can, and says how many."""
    try:
        if done := os.copy_file_range(source, target, count, position, position):
            return done
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    return os.pwrite(target, os.pread(source, min(count, _CHUNK), position), position)
