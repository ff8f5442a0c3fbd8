"""A Python module run with a small file system of its own, which goes with its processes.

Root gets an ext4 image on a loop device, or a tmpfs where there are no loop devices. Anybody else
gets a tmpfs in a user namespace, inside of which a second one gives them back their own number: as
root of the first, a server would want users that are not there.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.server import clean_environment

TESTS = Path(__file__).parents[1]


def run_module(
    module: str, directory: Path, size_mib: int, seconds: float = 100
) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m module <mount point>``; skips where this host mounts nothing for us.

    Args:
        module: one of ``support``.
        directory: empty, for the mount point and the image.
        size_mib: of the file system.
        seconds: that it may take.
    """
    point = directory / "small"
    point.mkdir(mode=0o711)
    paths = os.pathsep.join(path for path in (str(TESTS), *sys.path) if path)
    program = [sys.executable, "-m", module, str(point)]
    reasons = []
    for how, mount in _ways(directory, point, size_mib):
        shell = f"{mount} && chmod 711 {shlex.quote(str(point))} || exit 77; exec "
        command = [*how, "sh", "-c", shell + shlex.join([*_back(), *program])]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            env=clean_environment(PYTHONPATH=paths),
        )
        if done.returncode not in (1, 77) or "Traceback" in done.stderr:
            return done
        reasons.append((done.stderr.strip().splitlines() or ["it was refused"])[-1])
    pytest.skip(f"no small file system can be mounted here: {'; '.join(reasons)}")


def _ways(directory: Path, point: Path, size_mib: int) -> list[tuple[list[str], str]]:
    where = shlex.quote(str(point))
    tmpfs = f"mount -t tmpfs -o size={size_mib}m,mode=711 tmpfs {where}"
    if os.geteuid() != 0:
        return [(["unshare", "-Urm"], tmpfs)]
    image = shlex.quote(str(directory / "image"))
    ext4 = (
        f"truncate -s {size_mib}M {image} && mkfs.ext4 -q -m 0 {image} && "
        f"mount -o loop {image} {where}"
    )
    return [(["unshare", "-m"], ext4), (["unshare", "-m"], tmpfs)]


def _back() -> list[str]:
    """What makes root of a user namespace who they were before; nothing for real root."""
    if os.geteuid() == 0:
        return []
    return ["unshare", "-U", f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}"]
