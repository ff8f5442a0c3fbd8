"""The runsc there is, and what it can do: asked of itself, since versions say little.

Debian's have dates for versions, as releases have; one built from its module calls itself nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mulligan.errors import ConfigError

ASK_TIMEOUT_S = 20
PLATFORMS = ("systrap", "ptrace")  # the better one first; see docs/decisions/0014-gvisor.md
KVM = Path("/dev/kvm")
REMEDY = (
    "install a current one where PATH leads: go install gvisor.dev/gvisor/runsc@latest "
    "(Debian's of 2022 and 2024 are too old)"
)
# Only since then it starts where there is no user 0 (gVisor's commit 82275ab10), and no flag tells.
WITHOUT_ROOT = 20260330
_DATE = re.compile(r"\b(?:release-|0\.0~)(20[0-9]{6})\b")
_FLAG = re.compile(r"^\s+-{1,2}([a-z0-9][a-z0-9-]*)\b", re.MULTILINE)


@dataclass(frozen=True)
class Runsc:
    """A runsc and how it is used.

    Attributes:
        path: the executable.
        version: the first line of what it says of itself.
        platform: how it runs programs.
        flags: those of ``--name=value`` that are good to have, and that it knows.
    """

    path: Path
    version: str
    platform: str
    flags: tuple[str, ...] = ()

    def stamp(self) -> str:
        """What another file at this path, or this one changed, would not have."""
        stat = self.path.stat()
        return f"{self.path}:{stat.st_mtime_ns:x}:{stat.st_size:x}:{self.platform}"


def find() -> Runsc:
    """The runsc on PATH, if it has what VMs need.

    Raises:
        ConfigError: there is none, it does not run, or it lacks something.
    """
    found = shutil.which("runsc")
    if found is None:
        raise ConfigError("runsc, which is gVisor, is not on PATH", remedy=REMEDY)
    path = Path(found).resolve()
    version = _ask(path, "--version").partition("\n")[0].strip()
    known = flags_of(_ask(path, "flags"))
    platforms = _ask(path, "help", "platforms").split()
    if "pass-fd" not in flags_of(_ask(path, "help", "run")):
        raise ConfigError(
            f"{path} ({version}) is too old: its command run has no --pass-fd, and the mount "
            "namespaces that came before that are what VMs need",
            remedy=REMEDY,
        )
    dated = date_of(version)
    if dated is not None and dated < WITHOUT_ROOT:
        raise ConfigError(
            f"{path} ({version}) is too old: it becomes user 0 of its sandbox, whom VMs do not "
            f"have; those from {WITHOUT_ROOT} on do not",
            remedy=REMEDY,
        )
    platform = next((each for each in PLATFORMS if each in platforms), None)
    if platform is None:
        raise ConfigError(
            f"{path} ({version}) has none of the platforms {', '.join(PLATFORMS)}, only "
            f"{', '.join(platforms) or 'none'}",
            remedy=REMEDY,
        )
    return Runsc(path, version, platform, known_of(known))


def flags_of(text: str) -> set[str]:
    """The names of flags in a help text of Go's flag package."""
    return set(_FLAG.findall(text))


def date_of(version: str) -> int | None:
    """The date in a version, as the number YYYYMMDD; None where it has none."""
    found = _DATE.search(version)
    return int(found[1]) if found else None


def known_of(known: set[str]) -> tuple[str, ...]:
    """Those of the flags VMs get that a runsc knows; without them it does as well, or worse."""
    wanted = {
        "host-settings": "ignore",  # the host's settings are its owner's
        "host-uds": "none",
        "overlay2": "none",
        "oci-seccomp": "false",
    }
    return tuple(f"--{name}={value}" for name, value in wanted.items() if name in known)


def _ask(path: Path, *arguments: str) -> str:
    """What it answers, wherever it says it.

    Raises:
        ConfigError: it cannot be run.
    """
    try:
        done = subprocess.run(
            [str(path), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_TIMEOUT_S,
            check=False,
            cwd="/",
            env={"PATH": os.defpath},
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{path} cannot be run: {error}", remedy=REMEDY) from None
    return f"{done.stdout}\n{done.stderr}"
