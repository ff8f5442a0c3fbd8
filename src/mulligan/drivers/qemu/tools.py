"""The programs microVMs are made with, where this host has them."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from mulligan.drivers.bubblewrap import preflight
from mulligan.drivers.qemu.arguments import Tools
from mulligan.errors import ConfigError

SEARCHED = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/libexec:/usr/lib/qemu:/usr/libexec/qemu-kvm"
QEMU = {"x86_64": "qemu-system-x86_64"}
INSTALL = "Debian: apt-get install --no-install-recommends qemu-system-x86"


def find(bwrap: Path | None = None) -> Tools:
    """The programs; ``bwrap`` where another than the usual one is to be taken.

    Raises:
        ConfigError: one is missing, or this architecture is not served.
    """
    machine = os.uname().machine
    if machine not in QEMU:
        raise ConfigError(f"microVMs are made on x86_64, and this host is {machine}")
    return Tools(
        bwrap=bwrap or preflight.find_bwrap(),
        qemu=_found(QEMU[machine], INSTALL),
        virtiofsd=_found("virtiofsd", f"{INSTALL} (from 13 on: virtiofsd, too)"),
        setpriv=_found("setpriv", "Debian: apt-get install util-linux"),
    )


def check_qmp() -> None:
    """Refuses where what speaks with QEMU's monitor is not installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        known = importlib.util.find_spec("qemu.qmp")
    except ModuleNotFoundError:  # nor is the package it is in
        known = None
    if known is None:
        raise ConfigError(
            "microVMs need qemu.qmp, which is not installed",
            field="driver",
            remedy="pip install '.[microvm]' where Mulligan's source is",
        )


def _found(name: str, remedy: str) -> Path:
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        raise ConfigError(f"{name} is not installed", remedy=remedy)
    return Path(found)
