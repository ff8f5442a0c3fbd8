"""Which of a kernel's modules a microVM needs, and in which order.

What a module depends on stands in it, as modinfo(8) shows it; Debian's packages have no index until
they are installed.
"""

from __future__ import annotations

import lzma
import re
from pathlib import Path

from mulligan.errors import ConfigError

# What the machine's devices, the VM's files and its programs' root need.
WANTED = (
    "virtio_pci",
    "virtio_console",
    "virtio-rng",
    "virtiofs",
    "overlay",
)
_DEPENDS = re.compile(rb"\0depends=([A-Za-z0-9_,-]*)\0")


def needed(tree: Path) -> list[tuple[str, bytes]]:
    """Name and content of each module, in the order they have to be loaded.

    Args:
        tree: the ``kernel`` directory of a kernel's modules. What it has not got is taken to be
            in the kernel itself, but for those everything rests on.

    Raises:
        ConfigError: one is missing.
    """
    found = {_plain(path): path for path in sorted(tree.rglob("*.ko*"))}
    ordered: dict[str, bytes] = {}
    for name in WANTED:
        if name.replace("-", "_") not in found:
            raise ConfigError(
                f"the kernel has no module {name}",
                remedy="use one that has, such as that of Debian's linux-image-cloud-amd64",
            )
        _add(name.replace("-", "_"), found, ordered)
    return list(ordered.items())


def _add(name: str, found: dict[str, Path], ordered: dict[str, bytes]) -> None:
    """Adds a module after all it depends on; a circle, which there is none, would be cut."""
    waiting = [(name, False)]
    seen: set[str] = set()
    while waiting:
        each, ready = waiting.pop()
        if each in ordered or each not in found:
            continue
        content = _content(found[each])
        if ready:
            ordered[each] = content
        elif each not in seen:
            seen.add(each)
            waiting.append((each, True))
            waiting += [(other, False) for other in depends(content)]


def depends(content: bytes) -> list[str]:
    """The modules a module says it needs."""
    match = _DEPENDS.search(content)
    names = match[1].decode().split(",") if match else []
    return [name.replace("-", "_") for name in names if name]


def _plain(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix != ".ko":
        raise ConfigError(
            f"{path.name} is compressed in a way that is not known here",
            remedy="use a kernel with modules that are plain or .xz, as Debian's are",
        )
    return data
