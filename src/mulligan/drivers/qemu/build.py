"""Makes the image of microVMs from Debian's packages, as an ordinary user.

Packages are fetched by apt, which checks their signatures as for an installation, and unpacked
beside their place; nothing of them is run or installed here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from mulligan.drivers.qemu import cpio
from mulligan.drivers.qemu.image import (
    FORMAT,
    POINTER,
    MicrovmImage,
    Stamp,
    digest,
    init_script,
    load,
)
from mulligan.drivers.qemu.modules import needed
from mulligan.errors import ConfigError

KERNELS = {"x86_64": "linux-image-cloud-amd64"}
BUSYBOX = "busybox-static"
FETCH_TIMEOUT_S = 900
UNPACK_TIMEOUT_S = 300
CONSOLE = (5, 1)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,100}")

Progress = Callable[[str], None]


def build(images: Path, progress: Progress) -> MicrovmImage:
    """Makes the image, and has it be the one in use.

    Args:
        images: the directory of images.
        progress: told in a few words what is under way.

    Raises:
        ConfigError: it cannot be made here; the one there was is still in use.
    """
    machine = os.uname().machine
    if machine not in KERNELS:
        raise ConfigError(f"no kernel for microVMs is known for {machine}")
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise ConfigError(
                f"making the image for microVMs needs {tool}, and this host has none",
                remedy="make it on a machine with Debian or Ubuntu, and copy images/microvm*",
            )
    try:
        images.mkdir(mode=0o711, parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".microvm-", dir=images))
        try:
            return _build(images, work, machine, progress)
        finally:
            shutil.rmtree(work)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"cannot make the image for microVMs: {error}") from None


def _build(images: Path, work: Path, machine: str, progress: Progress) -> MicrovmImage:
    kernel_package = _kernel_package(KERNELS[machine])
    versions = {}
    for package in (kernel_package, BUSYBOX):
        progress(f"fetching {package}")
        versions[package] = _fetch(package, work)
        progress(f"unpacking {package} {versions[package]}")
    kernels = sorted((work / "tree" / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise ConfigError(f"{kernel_package} has {len(kernels)} kernels, not one")
    release = kernels[0].name.removeprefix("vmlinuz-")
    progress(f"making the first file system of Linux {release}")
    staged = work / "image"
    staged.mkdir()
    staged.chmod(0o755)
    shutil.copy(kernels[0], staged / "vmlinuz")
    (staged / "initrd").write_bytes(_initrd(work / "tree", release))
    parts = {}
    for path in sorted(staged.iterdir()):
        path.chmod(0o644)
        parts[path.name] = digest(path.read_bytes())
    stamp = Stamp(
        format=FORMAT,
        machine=machine,
        release=release,
        init=digest(init_script()),
        packages=versions,
        parts=parts,
    )
    target = images / f"microvm-{stamp.key}"
    if target.exists():
        shutil.rmtree(target)  # the same content, or damaged
    staged.rename(target)
    pointer = staged.with_name(POINTER)
    pointer.write_text(stamp.model_dump_json(indent=2))
    os.sync()  # once, for files of megabytes that others are to trust
    pointer.replace(images / POINTER)
    _remove_others(images, target)
    return load(images)


def _remove_others(images: Path, kept: Path) -> None:
    """Removes images nobody boots with any more: QEMU has read them when a VM is up."""
    for path in images.glob("microvm-*"):
        if path != kept:
            shutil.rmtree(path)


def _initrd(tree: Path, release: str) -> bytes:
    """The first file system, as an archive."""
    places = (tree / "lib/modules", tree / "usr/lib/modules")
    found = [place / release / "kernel" for place in places if (place / release).is_dir()]
    if not found:
        raise ConfigError(f"the package of Linux {release} has no modules")
    busybox = next(
        path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.exists()
    )
    modules = needed(found[0])
    order = "".join(f"{name}.ko\n" for name, _ in modules)
    return cpio.archive(
        [
            *map(cpio.directory, ("bin", "dev", "modules", "tree")),
            cpio.character_device("dev/console", *CONSOLE),
            cpio.file("init", init_script(), executable=True),
            cpio.file("bin/busybox", busybox.read_bytes(), executable=True),
            cpio.file("modules/order", order.encode()),
            *(cpio.file(f"modules/{name}.ko", content) for name, content in modules),
        ]
    )


def _kernel_package(meta: str) -> str:
    """The package a package that is only a name for the newest one stands for."""
    said = _run(["apt-cache", "depends", "--important", meta], "/")
    for line in said.splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-") and _PACKAGE.fullmatch(name):
            return name
    raise ConfigError(
        f"apt knows no {meta}", remedy="apt-get update, or add Debian's main to apt's sources"
    )


def _fetch(package: str, work: Path) -> str:
    """Fetches a package, unpacks it into ``tree``, and returns its version."""
    _run(["apt-get", "download", "-q", package], work, timeout=FETCH_TIMEOUT_S)
    archives = sorted(work.glob("*.deb"))
    if len(archives) != 1:
        raise ConfigError(f"apt-get download {package} brought {len(archives)} files, not one")
    version = _run(["dpkg-deb", "--field", str(archives[0]), "Version"], work).strip()
    _run(["dpkg-deb", "--extract", str(archives[0]), "tree"], work, timeout=UNPACK_TIMEOUT_S)
    archives[0].unlink()
    return version


def _run(command: list[str], where: Path | str, *, timeout: float = 60) -> str:
    """What a program prints.

    Raises:
        ConfigError: it failed; the text is the last it said.
    """
    done = subprocess.run(
        command,
        cwd=where,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if not line.startswith("W:")]
        last = said[-1] if said else f"exit status {done.returncode}"
        raise ConfigError(
            f"{command[0]} {command[1]}: {last[:300]}",
            remedy="apt-get update, and see that apt reaches a mirror",
        )
    return done.stdout
