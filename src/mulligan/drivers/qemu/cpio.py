"""Archives a kernel unpacks as its first file system.

The format is "newc", as in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst:
a header of thirteen numbers in eight hexadecimal digits each, a name, and the content, each padded
to four bytes.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
ALIGNMENT = 4


@dataclass(frozen=True)
class Entry:
    """A file, directory, link or device of an archive.

    Attributes:
        name: its path, relative to the root.
        mode: type and permissions, as ``stat`` has them.
        content: of a file; of a link, where it leads.
        device: major and minor number of a device.
        mtime: when it was last written, in seconds of the epoch.
    """

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)
    mtime: int = 0


def directory(name: str) -> Entry:
    """A directory."""
    return Entry(name, stat.S_IFDIR | 0o755)


def file(name: str, content: bytes, *, executable: bool = False) -> Entry:
    """A file."""
    return Entry(name, stat.S_IFREG | (0o755 if executable else 0o644), content)


def character_device(name: str, major: int, minor: int) -> Entry:
    """A device that needs no right to be written down."""
    return Entry(name, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: list[Entry]) -> bytes:
    """The bytes of an archive; everything belongs to root."""
    packed = [_packed(number, entry) for number, entry in enumerate(entries, 1)]
    return b"".join([*packed, _packed(0, Entry(TRAILER, 0))])


def _packed(number: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = [number, entry.mode, 0, 0, links, entry.mtime, len(entry.content), 0, 0, *entry.device]
    header = MAGIC + b"".join(b"%08X" % value for value in [*fields, len(name), 0])
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
