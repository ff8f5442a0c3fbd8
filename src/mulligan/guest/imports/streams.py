"""Bytes of archives: parts of files, uncompressed where they are compressed, counted and hashed."""

from __future__ import annotations

import hashlib
import os

from mulligan.guest.imports.bounds import Budget, RefusedError

TYPE_CHECKING = False  # the guest does without typing
if TYPE_CHECKING:
    from typing import Any

CHUNK = 1024 * 1024
GZIP, BZIP2, XZ, ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
_HASHES = {"sha256": 64, "sha512": 128}


class Part:
    """A part of an open file, read from its beginning; others may read it meanwhile.

    As much of a file as tarfile and the decompressors of the standard library ask for.
    """

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self.size = size
        self._at = 0

    def seekable(self) -> bool:
        """Whether ``seek`` works."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See ``io.IOBase``."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """See ``io.IOBase``."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, less only at the end."""
        left = max(0, self.size - self._at)
        left = left if size < 0 else min(size, left)
        parts = []
        while left and (data := os.pread(self._descriptor, left, self._start + self._at)):
            parts.append(data)
            self._at += len(data)
            left -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def part(self, start: int, size: int) -> Part:
        """A part of this part."""
        return Part(self._descriptor, self._start + start, size)

    def again(self) -> Part:
        """The same part, from its beginning."""
        return Part(self._descriptor, self._start, self.size)


def compression(part: Part) -> bytes:
    """The magic number of what a part is compressed by; nothing where it is not."""
    start = part.again().read(len(XZ))
    return next((each for each in (GZIP, BZIP2, XZ, ZSTD) if start.startswith(each)), b"")


class Plain:
    """What a part holds, uncompressed.

    Args:
        part: of an archive.
        budget: what it may unpack to.
        name: of a hash of what comes out; None for no hash.
    """

    def __init__(self, part: Part, budget: Budget, name: str | None = None) -> None:
        self._size = part.size
        self._budget = budget
        self._file = _decompressor(part.again())
        self._hash = hashlib.new(name) if name is not None else None
        self._out = 0

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, less only at the end.

        Raises:
            RefusedError: it is more than may be, or no such format.
        """
        wanted = CHUNK if size < 0 else size
        parts = []
        while wanted:
            try:
                data = self._file.read(min(wanted, CHUNK))
            except Exception as error:  # each decompressor has errors of its own
                raise RefusedError(f"it cannot be decompressed: {error}") from None
            if not data:
                break
            self._out += len(data)
            self._budget.expands(self._out, self._size)
            if self._hash is not None:
                self._hash.update(data)
            parts.append(data)
            wanted -= len(data)
        return b"".join(parts)

    def drain(self) -> None:
        """Reads what is left, which counts for the hash."""
        while self.read(CHUNK):
            pass

    def digest(self) -> str:
        """The hash of what was read."""
        assert self._hash is not None
        return f"{self._hash.name}:{self._hash.hexdigest()}"


def _decompressor(part: Part) -> Any:
    kind = compression(part)
    if kind == GZIP:
        import gzip

        return gzip.GzipFile(fileobj=part)
    if kind == BZIP2:
        import bz2

        return bz2.BZ2File(part)
    if kind == XZ:
        import lzma

        return lzma.LZMAFile(part)  # type: ignore[arg-type]
    return _zstd(part) if kind == ZSTD else part


def _zstd(part: Part) -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # since Python 3.14
    except ImportError:
        raise RefusedError(
            "it is compressed by zstd, which Python can read from version 3.14 on: write it with "
            "gzip, or decompress it first (zstd -d)"
        ) from None
    return zstd.ZstdFile(part)


def check_digest(part: Part, digest: str) -> None:
    """Makes sure that a part is what a digest of it says.

    Raises:
        RefusedError: it is not, or the digest is none.
    """
    name = split_digest(digest)[0]
    made = hashlib.new(name)
    again = part.again()
    while data := again.read(CHUNK):
        made.update(data)
    if f"{name}:{made.hexdigest()}" != digest:
        raise RefusedError(f"a blob is not what its digest says: {digest[:80]}")


def split_digest(digest: object) -> tuple[str, str]:
    """The algorithm and the value of a digest.

    Raises:
        RefusedError: it is none, or of an algorithm the OCI image specification does not name.
    """
    name, _, value = digest.partition(":") if isinstance(digest, str) else ("", "", "")
    if _HASHES.get(name) != len(value) or not set(value) <= set("0123456789abcdef"):
        raise RefusedError(f"no digest: {str(digest)[:100]!r}")
    return name, value
