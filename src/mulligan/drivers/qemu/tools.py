"""The programs microVMs are made with, where this host has them."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from mulligan.drivers.bubblewrap import preflight
from mulligan.drivers.qemu.arguments import Tools
from mulligan.errors import ConfigError

SEARCHED = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/libexec:/usr/lib/qemu:/usr/libexec/qemu-kvm"
QEMU = {"x86_64": "qemu-system-x86_64"}
VERSION = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,4}){1,3}")
OF_QEMU_FROM = (5,)  # one that is part of QEMU has QEMU's version, and the other is far below
ASK_S = 20
MOST_SAID = 1000
INSTALL = "Debian: apt-get install --no-install-recommends qemu-system-x86"


def find(bwrap: Path | None = None) -> Tools:
    """The programs; ``bwrap`` where another than the usual one is to be taken.

    Raises:
        ConfigError: one is missing, or this architecture is not served.
    """
    machine = os.uname().machine
    if machine not in QEMU:
        raise ConfigError(f"microVMs are made on x86_64, and this host is {machine}")
    qemu = _found(QEMU[machine], INSTALL)
    virtiofsd = _found("virtiofsd", f"{INSTALL} (from 13 on: virtiofsd, too)")
    virtiofsd_version = version(virtiofsd, INSTALL)
    return Tools(
        bwrap=bwrap or preflight.find_bwrap(),
        qemu=qemu,
        virtiofsd=virtiofsd,
        setpriv=_found("setpriv", "Debian: apt-get install util-linux"),
        qemu_version=version(qemu, INSTALL),
        virtiofsd_version=virtiofsd_version if virtiofsd_version < OF_QEMU_FROM else None,
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


def version(program: Path, remedy: str) -> tuple[int, ...]:
    """What a program says its version is, such as (10, 0, 13).

    Raises:
        ConfigError: it does not say.
    """
    stat = program.stat()
    return _asked(program, stat.st_mtime_ns, stat.st_size, remedy)


@functools.cache
def _asked(program: Path, _changed: int, _size: int, remedy: str) -> tuple[int, ...]:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=ASK_S, check=True,
            env={}, cwd="/", stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{program} does not say its version: {error}", remedy=remedy) from None
    found = VERSION.search(done.stdout[:MOST_SAID])
    if found is None:
        raise ConfigError(f"{program} does not say its version", remedy=remedy)
    return tuple(map(int, found[0].split(".")))


def _found(name: str, remedy: str) -> Path:
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        raise ConfigError(f"{name} is not installed", remedy=remedy)
    return Path(found)
