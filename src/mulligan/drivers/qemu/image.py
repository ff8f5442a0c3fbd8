"""The kernel and first file system microVMs boot with, as ``build`` made them.

::

    <data_dir>/images/microvm.json            which of them is in use
    <data_dir>/images/microvm-<key>/vmlinuz   the kernel, as its package has it
    <data_dir>/images/microvm-<key>/initrd    init.sh, busybox and the modules it loads
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr, ValidationError

from mulligan.errors import ConfigError

FORMAT = 1
POINTER = "microvm.json"
BUILD = "mulligan microvm build"


class Stamp(BaseModel):
    """What an image was made of, and for.

    ``parts`` are the SHA-256 of its files, by name; ``packages`` the versions of what it was made
    of, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: StrictInt
    machine: StrictStr
    release: StrictStr
    init: StrictStr
    packages: dict[str, StrictStr]
    parts: dict[str, StrictStr]

    @property
    def key(self) -> str:
        """A name that changes with anything it is made of."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class MicrovmImage:
    """An image that was found whole."""

    kernel: Path
    initrd: Path
    stamp: Stamp


def init_script() -> bytes:
    """The program the kernel starts."""
    return files("mulligan.drivers.qemu").joinpath("init.sh").read_bytes()


def digest(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def load(images: Path) -> MicrovmImage:
    """The image in use.

    Raises:
        ConfigError: there is none, or it is of another version, of another architecture, or not
            what was built; the text says which.
    """
    try:
        stamp = Stamp.model_validate_json((images / POINTER).read_bytes())
    except FileNotFoundError:
        raise ConfigError("there is no kernel image for microVMs yet", remedy=BUILD) from None
    except (OSError, ValidationError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(
            f"the image for microVMs cannot be read: {images / POINTER}: {why}", remedy=BUILD
        ) from None
    if stamp.machine != os.uname().machine:
        raise ConfigError(
            f"the image for microVMs is of another architecture: {stamp.machine}, not "
            f"{os.uname().machine}",
            remedy=BUILD,
        )
    if stamp.format != FORMAT or stamp.init != digest(init_script()):
        raise ConfigError(
            "the image for microVMs was made by another version of Mulligan", remedy=BUILD
        )
    directory = images / f"microvm-{stamp.key}"
    for name, expected in stamp.parts.items():
        try:
            same = digest((directory / name).read_bytes()) == expected
        except OSError:
            same = False
        if not same:
            raise ConfigError(
                f"the image for microVMs is damaged: {directory / name}", remedy=BUILD
            )
    return MicrovmImage(directory / "vmlinuz", directory / "initrd", stamp)


def lend(images: Path, others: Path) -> None:
    """Has another directory of images use what this one has, for as long as it is there."""
    others.mkdir(mode=0o711, parents=True, exist_ok=True)
    for path in (images / POINTER, *images.glob("microvm-*")):
        if path.exists():
            (others / path.name).symlink_to(path.resolve())
