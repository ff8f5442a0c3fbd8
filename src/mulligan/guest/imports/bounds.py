"""What an archive may ask for at the most, and how it is refused."""

from __future__ import annotations

import os

MIB = 1024 * 1024
MOST_NAME = 255  # bytes, as file systems have it
MOST_PATH = 4095
MOST_DEPTH = 200
LOOK_EVERY = 64 * MIB
SMALL = 64 * MIB  # what may be had of an archive of any size
MOST_SHOWN = 200


class RefusedError(Exception):
    """An archive that is not taken in; the text says why, in one line."""


def shown(name: str) -> str:
    """A name from an archive as it can be told to people."""
    text = repr(name)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"


class Budget:
    """Counts what an archive takes, and refuses what is too much.

    Args:
        most_bytes: of all files together, each as long as it says it is.
        most_entries: of all layers together.
        most_ratio: how many times its own size an archive may unpack to.
        min_free: bytes of the disk that stay free.
        place: a descriptor on that disk.
    """

    def __init__(
        self, most_bytes: int, most_entries: int, most_ratio: int, min_free: int, place: int
    ) -> None:
        self.most_bytes = most_bytes
        self.most_entries = most_entries
        self._most_ratio = most_ratio
        self._min_free = min_free
        self._place = place
        self.bytes = 0
        self.entries = 0
        self._unlooked = 0

    def entry(self, size: int) -> None:
        """Takes an entry of an archive and the length it claims.

        Raises:
            RefusedError: it is one, or a byte, too many.
        """
        self.entries += 1
        self.bytes += size
        if self.entries > self.most_entries:
            raise RefusedError(f"it has more than {self.most_entries} entries")
        if self.bytes > self.most_bytes:
            raise RefusedError(
                f"its files take more than {self.most_bytes // MIB} MiB (images.max_mb)"
            )

    def expands(self, size: int, came_of: int) -> None:
        """Takes that so many bytes came of so many compressed ones.

        Raises:
            RefusedError: no honest archive does that.
        """
        if size > SMALL and size > came_of * self._most_ratio:
            raise RefusedError(
                f"{came_of} bytes unpack to more than {self._most_ratio} times as many: a bomb"
            )
        if size > 2 * self.most_bytes + SMALL:  # headers and padding included
            raise RefusedError(f"it unpacks to more than {2 * self.most_bytes // MIB} MiB")

    def writes(self, size: int) -> None:
        """Takes that so many bytes are about to be written; looks at the disk now and then.

        Raises:
            RefusedError: the disk would be full.
        """
        self._unlooked += size
        if self._unlooked < LOOK_EVERY:
            return
        found = os.fstatvfs(self._place)
        if found.f_bavail * found.f_frsize - self._unlooked < self._min_free:
            raise RefusedError(
                f"the disk would have less than {self._min_free // MIB} MiB left (min_free_mb)"
            )
        self._unlooked = 0
