"""Where the disk of a VM stands, and what its overlay keeps beside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr

from mulligan.layers.directories import inside, itself

WORK = "work"
MOST_SCRATCH = 100


class VmState(BaseModel):
    """Where a VM's disk stands.

    Attributes:
        base: the layer its upper is on, None for the image.
        generation: which of its directories it writes to.
        line: tells generations of the same number apart, where memory went back to an earlier one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: StrictStr | None = None
    generation: StrictInt = 0
    line: StrictStr = ""

    def next(self, base: str | None) -> VmState:
        """The one after it, on that layer."""
        return self.model_copy(update={"base": base, "generation": self.generation + 1})

    def layer(self, vm_id: str) -> str:
        """The layer its upper becomes when it is frozen."""
        return layer_name(vm_id, self.generation, self.line)


class Scratch(NamedTuple):
    """Something in the scratch directory of an overlay, which knows it by its path."""

    path: str
    mode: int


def scratch_of(generation: Path) -> list[Scratch]:
    """What is in a scratch directory, and no program can write to: the overlay's own.

    Raises:
        OSError: it cannot be read, or there is more of it than overlays make.
    """
    found: list[Scratch] = []
    with inside(generation, WORK) as work:
        pending = [Path()]
        while pending:
            below = pending.pop()
            for name, mode in _entries(work, below):
                found.append(Scratch(str(below / name), mode))
                if stat.S_ISDIR(mode):
                    pending.append(below / name)
            if len(found) > MOST_SCRATCH:
                raise OSError(f"there is too much in {generation / WORK}")
    return found


def _entries(work: int, below: Path) -> list[tuple[str, int]]:
    with inside(work, *below.parts) as opened:
        try:
            with os.scandir(itself(opened)) as entries:
                return [(each.name, each.stat(follow_symlinks=False).st_mode) for each in entries]
        except PermissionError:
            return []  # overlayfs closes the one it works in, which is empty between two steps


def fill(generation: int, scratch: Sequence[Scratch], owner: tuple[int, int]) -> None:
    """Makes that again, in the open directory of a generation whose own is empty.

    Raises:
        OSError: it cannot be made.
    """
    for each in scratch:
        *above, name = Path(each.path).parts
        with inside(generation, WORK, *above) as opened:
            if stat.S_ISDIR(each.mode):
                os.mkdir(name, 0o700, dir_fd=opened)
            elif stat.S_ISREG(each.mode):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o600, dir_fd=opened))
    for each in reversed(scratch):  # what is below a directory before that is closed
        *above, name = Path(each.path).parts
        with inside(generation, WORK, *above) as opened:
            place = f"{itself(opened)}/{name}"
            if os.geteuid() == 0:
                os.chown(place, *owner, follow_symlinks=False)
            os.chmod(place, stat.S_IMODE(each.mode))  # noqa: PTH101  (it was made just now)


def layer_name(vm_id: str, generation: int, line: str = "") -> str:
    """The layer a generation of a VM becomes when it is frozen."""
    return f"{vm_id}.{line}.{generation}" if line else f"{vm_id}.{generation}"


def there(name: str, directory: int) -> bool:
    """Whether there is anything of that name, a link that leads nowhere included."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def is_generation(disk: Path, generation: int) -> bool:
    """Whether what programs write to is there, and what the host made."""
    try:
        with inside(disk, str(generation), "upper"):
            return True
    except OSError:
        return False
