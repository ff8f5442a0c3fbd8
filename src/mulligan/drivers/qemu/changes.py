"""Memory of a machine as what is other than in a copy of it that is there already.

A machine that is saved again and again changes little of its memory in between: each save has a
hard link to the same copy, and beside it a file of its own::

    pages, one after the other
    runs of them: place in memory, bytes             two numbers each, from the lowest place up
    how many runs                                    one number

Numbers are of 64 bits, little-endian; places and bytes are whole pages.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
from collections.abc import Iterator
from pathlib import Path

PAGE = 4096
CHUNK = 64 * PAGE
RUN, COUNT = struct.Struct("<QQ"), struct.Struct("<Q")


def filled(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Where what is no hole begins and ends."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing more
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def store(memory: int, base: int, path: Path, most: int) -> bool:
    """Writes down what of memory is other than in a copy.

    Args:
        memory: its descriptor; nothing writes to it meanwhile.
        base: that of the copy.
        path: of a file to be.
        most: bytes that are worth it.

    Returns:
        Whether it was no more than that; there is no file else.

    Raises:
        OSError: there is no room for it; part of it may be there.
    """
    size = os.fstat(memory).st_size
    if os.fstat(base).st_size != size:
        return False
    runs: list[tuple[int, int]] = []
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    target = os.open(path, flags, 0o600)
    try:
        written = 0
        for place, pages in _other(memory, base, size):
            written += len(pages)
            if written > most:
                path.unlink()
                return False
            _write(target, pages)
            if runs and sum(runs[-1]) == place:
                runs[-1] = runs[-1][0], runs[-1][1] + len(pages)
            else:
                runs.append((place, len(pages)))
        _write(target, b"".join(itertools.starmap(RUN.pack, runs)) + COUNT.pack(len(runs)))
    finally:
        os.close(target)
    return True


def _other(memory: int, base: int, size: int) -> Iterator[tuple[int, memoryview]]:
    """Places, and the pages there; what is given is to be used before the next is asked for."""
    now, then = bytearray(CHUNK), bytearray(CHUNK)
    view = memoryview(now)
    for start, end in _either(memory, base, size):
        for place in range(start, end, CHUNK):
            length = min(CHUNK, end - place)
            read_at(memory, view[:length], place)
            read_at(base, memoryview(then)[:length], place)
            if now == then:
                continue
            at = 0
            while at < length:
                until = at
                while until < length and now[until : until + PAGE] != then[until : until + PAGE]:
                    until += PAGE
                if until > at:
                    yield place + at, view[at:until]
                at = until + PAGE


def _either(memory: int, base: int, size: int) -> Iterator[tuple[int, int]]:
    """Where one of them is no hole, in order."""
    last: tuple[int, int] | None = None
    for start, end in sorted([*filled(memory, size), *filled(base, size)]):
        if last is not None and start <= last[1]:
            last = last[0], max(end, last[1])
            continue
        if last is not None:
            yield last
        last = start, end
    if last is not None:
        yield last


def apply(path: Path, memory: int) -> None:
    """Makes memory that is the copy what it was.

    Raises:
        OSError: it is not what ``store`` wrote, or cannot be read.
    """
    size = os.fstat(memory).st_size
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        at = 0
        for place, length in _runs(source, size):
            left = length
            while left:
                sent = os.pread(source, min(CHUNK, left), at)
                os.pwrite(memory, sent, place + length - left)
                at += len(sent)
                left -= len(sent)
    finally:
        os.close(source)


def _runs(source: int, size: int) -> list[tuple[int, int]]:
    """The runs in a file, which are whole pages inside of the memory, and together all its data."""
    end = os.fstat(source).st_size - COUNT.size
    count = COUNT.unpack(os.pread(source, COUNT.size, end))[0] if end >= 0 else -1
    data = end - count * RUN.size
    if not 0 <= count <= size // PAGE or data < 0:
        raise _damaged()
    runs = list(RUN.iter_unpack(_all(source, data, end)))
    at = 0
    for place, length in runs:
        if place < at or not 0 < length <= size - place or place % PAGE or length % PAGE:
            raise _damaged()
        at = place + length
    if sum(length for _, length in runs) != data:
        raise _damaged()
    return runs


def _damaged() -> OSError:
    return OSError(errno.EINVAL, "what had changed of the memory that was kept is damaged")


def _all(file: int, start: int, end: int) -> bytes:
    read = bytearray(end - start)
    read_at(file, memoryview(read), start)
    return bytes(read)


def read_at(file: int, into: memoryview, place: int) -> None:
    """Fills ``into`` with what is there.

    Raises:
        OSError: it cannot be read, or the file ends before that.
    """
    at = 0
    while at < len(into):
        read = os.preadv(file, [into[at:]], place + at)
        if read == 0:
            raise OSError(errno.EIO, "memory ended early")
        at += read


def _write(file: int, data: memoryview | bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
