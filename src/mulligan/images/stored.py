"""An image of the store, as VMs are made of it.

The agent runs in the same tree as ever: the host's programs and its own code, neither of which an
image can replace. Programs see the image alone.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from mulligan.guest.imports.tree import Tree
from mulligan.guest.jobs.walk import open_file
from mulligan.guest.root import TRUST
from mulligan.images.host import HostImage
from mulligan.images.store import ImageRecord
from mulligan.images.toolchains import Toolchain, numbers


@dataclass(frozen=True)
class StoredImage(HostImage):
    """See ``HostImage``; ``binds`` are the agent's alone.

    Attributes:
        host: the image the agent runs in.
        record: what is known of this one.
    """

    host: HostImage
    record: ImageRecord

    @property
    def digest(self) -> str | None:
        """See ``HostImage``."""
        return self.record.digest

    @property
    def python(self) -> Path:
        """See ``HostImage``: the host's, which programs do not see."""
        return self.host.python

    @property
    def etc(self) -> Path:
        """See ``HostImage``."""
        return self.host.etc

    @property
    def shown(self) -> tuple[Path, ...]:
        """See ``HostImage``."""
        return ()

    def version_of(self, language: str) -> tuple[int, ...]:
        """See ``HostImage``: what it said when the image was made."""
        program = self.record.programs.get(language)
        return numbers(program.version) if program is not None else ()

    @property
    def variables(self) -> dict[str, str]:
        """See ``HostImage``."""
        own = {"PATH": self.search_path(), "SHELL": self.record.shell}
        return {name: value for name, value in self.record.env.items() if name not in OURS} | own

    def bundle(self, paths: tuple[str, ...]) -> tuple[str, str] | None:
        """See ``HostImage``. VMs have it elsewhere, as what is at its path is the image's."""
        with Tree(os.fspath(self.rootfs)) as tree:
            for path in paths:
                found = tree.find(path)
                with contextlib.suppress(OSError):
                    if found is not None and (text := _text(open_file(*found))):
                        return TRUST, text
        return None

    def search_path(self) -> str:
        """See ``HostImage``."""
        return ":".join(self.record.search)

    def environment(self) -> dict[str, str]:
        """See ``HostImage``."""
        return self.host.environment()


def _text(descriptor: int) -> str:
    with open(descriptor, "rb") as file:
        return file.read(MOST_BUNDLE).decode(errors="replace")


MOST_BUNDLE = 8 * 1024 * 1024
OURS = ("HOME", "USER", "LOGNAME", "TERM", "PWD")


def stored_image(record: ImageRecord, rootfs: Path, host: HostImage) -> StoredImage:
    """An image for VMs, whose agent runs in the host's."""
    toolchains = {
        language: Toolchain(language, Path(program.path))
        for language, program in record.programs.items()
    }
    return StoredImage(
        rootfs=rootfs,
        agent=host.agent,
        binds=host.binds,
        symlinks=host.symlinks,
        toolchains=toolchains,
        host=host,
        record=record,
    )
