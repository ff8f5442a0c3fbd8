"""The image microVMs of the tests boot with: made once a run, on hosts that can."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from atexit import register
from pathlib import Path

import pytest

from mulligan.drivers.qemu import image, tools
from mulligan.drivers.qemu.build import build
from mulligan.drivers.qemu.driver import QemuDriver
from mulligan.errors import ConfigError

READY = "TEST_MICROVM_IMAGES"  # a directory of images that has one, to save the time


@functools.cache
def images() -> Path | str:
    """The directory with the image; in words why there is none."""
    try:
        tools.find()
        ready = os.environ.get(READY)
        if ready:
            image.load(Path(ready))
            return Path(ready)
        directory = Path(tempfile.mkdtemp(prefix="mulligan-microvm-"))
        register(shutil.rmtree, directory)
        directory.chmod(0o711)
        build(directory, lambda _: None)
    except ConfigError as error:
        return f"no microVMs here: {error.detail} ({error.remedy})"
    return directory


def driver(guest: tuple[int, int], directory: Path) -> QemuDriver:
    """A driver for a data directory; skips the test where there can be none."""
    found = images()
    if isinstance(found, str):
        pytest.skip(found)
    image.lend(found, directory / "images")
    return QemuDriver(guest, directory)
