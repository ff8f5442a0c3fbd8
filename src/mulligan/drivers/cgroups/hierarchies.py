"""Where control groups are mounted, and which this process is in. See cgroups(7)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CONTROLLERS = ("memory", "pids", "cpu")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Hierarchy:
    """A tree of groups.

    Attributes:
        version: 1 or 2.
        controllers: those of ``CONTROLLERS`` bound to it; of version 2 they are found in its files.
        mount: directory its root, or the part of it that is seen here, is mounted at.
        own: directory of the group this process is in; None where it lies outside of what is seen.
    """

    version: int
    controllers: frozenset[str]
    mount: Path
    own: Path | None


def hierarchies(mountinfo: str, membership: str) -> list[Hierarchy]:
    """The hierarchies mounted here, those of version 1 first.

    Args:
        mountinfo: content of ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)).
        membership: content of ``/proc/self/cgroup`` (cgroups(7)).
    """
    paths = dict(_membership(membership))
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if len(before) < 5 or len(after) < 3 or after[0] not in ("cgroup", "cgroup2"):  # noqa: PLR2004
            continue
        root, mount = _unescape(before[3]), Path(_unescape(before[4]))
        if after[0] == "cgroup2":
            found.append(Hierarchy(2, frozenset(), mount, _below(mount, root, paths.get(""))))
            continue
        bound = frozenset(after[2].split(",")) & frozenset(CONTROLLERS)
        if bound:
            path = paths.get(min(bound))
            found.append(Hierarchy(1, bound, mount, _below(mount, root, path)))
    return sorted(found, key=lambda each: each.version)


def _membership(text: str) -> list[tuple[str, str]]:
    """Pairs of a controller ("" for version 2) and the path of this process's group."""
    pairs = []
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            pairs.append(("", path))
        pairs += [(name, path) for name in names.split(",") if name]
    return pairs


def _below(mount: Path, root: str, path: str | None) -> Path | None:
    """Where a group is to be seen, if it lies below the root of what is mounted."""
    if path is None or ".." in PurePosixPath(path).parts:
        return None
    try:
        return mount / PurePosixPath(path).relative_to(root)
    except ValueError:
        return None


def _unescape(text: str) -> str:
    """Undoes the octal escapes of blanks and the like in mountinfo."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)
