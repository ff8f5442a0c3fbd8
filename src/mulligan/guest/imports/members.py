"""The entries of a tar, read by Python's tarfile, which is stopped where it would be lenient."""

from __future__ import annotations

import tarfile

from mulligan.guest.imports.bounds import RefusedError

TYPE_CHECKING = False  # the guest does without typing
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mulligan.guest.imports.streams import Part, Plain

BLOCK = 10240


class _Entry(tarfile.TarInfo):
    """An entry; a damaged header is an error and not, as usually, the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Entry:
        """See ``tarfile.TarInfo``."""
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise RefusedError(f"it is no tar, or damaged: {error}") from None


def opened(file: Part | Plain, mode: str) -> tarfile.TarFile:
    """A tar, open; see ``entries``."""
    return tarfile.open(  # type: ignore[call-overload,no-any-return]
        fileobj=file,
        mode=mode,
        bufsize=BLOCK,
        tarinfo=_Entry,
        encoding="utf-8",
        errors="surrogateescape",
    )


def entries(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Its entries, one at a time: none is kept.

    Raises:
        RefusedError: it is damaged.
    """
    while (member := _next(tar)) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else a million of them stay
        if member.size < 0:
            raise RefusedError("an entry has a size below zero")
        yield member


def members(file: Part, size: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The entries of an uncompressed tar, each with where its content begins in it.

    Raises:
        RefusedError: it is no tar, or damaged.
    """
    try:
        with opened(file, "r:") as tar:
            for member in entries(tar):
                if member.offset_data > size:
                    raise RefusedError("it is cut off")
                yield member, member.offset_data
    except ERRORS as error:
        raise refused(error) from None


def _next(tar: tarfile.TarFile) -> Any:
    try:
        return tar.next()
    except ERRORS as error:
        raise refused(error) from None


# What tarfile raises for what is no tar; deep chains of extended headers are a recursion to it.
ERRORS = (
    tarfile.TarError,
    EOFError,
    ValueError,
    OverflowError,
    IndexError,
    KeyError,
    RecursionError,
)


def refused(error: BaseException) -> RefusedError:
    """What is said of an archive that cannot be read."""
    if isinstance(error, RecursionError):
        return RefusedError("it is no tar: headers describe headers without end")
    return RefusedError(f"it is no tar, or damaged: {str(error)[:200]}")
