"""Finding a place among the host's groups in which a server may make its own.

Nothing is taken that was not given: version 1 is used below the group this process is in; version 2
where that group is this process's alone, is delegated to it (systemd's ``Delegate=``), or, as root,
at the top. See https://systemd.io/CGROUP_DELEGATION/ and cgroup-v2.rst, "Delegation" and "No
Internal Process Constraint".
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from mulligan.drivers.cgroups.hierarchies import CONTROLLERS, Hierarchy, hierarchies

REMEDY = (
    "start the server in a group of its own: systemd-run --user --scope -p Delegate=yes mulligan "
    "serve, or a unit with Delegate=yes"
)


@dataclass(frozen=True)
class Base:
    """Where the groups of VMs are made for some controllers.

    Attributes:
        version: of the hierarchy.
        controllers: those that can be used there.
        parent: an existing group; the server makes one in it.
    """

    version: int
    controllers: frozenset[str]
    parent: Path


def present() -> list[Hierarchy]:
    """The hierarchies this process sees."""
    mountinfo = Path("/proc/self/mountinfo").read_text(errors="replace")
    return hierarchies(mountinfo, Path("/proc/self/cgroup").read_text(errors="replace"))


def find(found: list[Hierarchy], name: str) -> tuple[list[Base], dict[str, str]]:
    """Where groups can be made, and for every controller without such a place why not.

    Args:
        found: as ``present`` gives them.
        name: of the group to be; a process that has a group of version 2 to itself moves into one
            beside it, as only groups without processes can divide what they have.
    """
    bases: list[Base] = []
    why = dict.fromkeys(CONTROLLERS, "no cgroup controller of this kind is mounted here")
    for hierarchy in found:
        look = _first if hierarchy.version == 1 else _second
        base = look(hierarchy, name, why)
        if base is not None:
            taken = frozenset().union(*(each.controllers for each in bases))
            left = Base(base.version, base.controllers - taken, base.parent)
            bases += [left] if left.controllers else []
    for base in bases:
        for controller in base.controllers:
            why.pop(controller, None)
    return bases, why


def _first(hierarchy: Hierarchy, _: str, why: dict[str, str]) -> Base | None:
    if hierarchy.own is None or not hierarchy.own.is_dir():
        reason = "the cgroup (v1) of this process cannot be seen here"
    elif not os.access(hierarchy.own, os.W_OK):
        reason = f"{hierarchy.own} may not be written to"
    else:
        return Base(1, hierarchy.controllers, hierarchy.own)
    why.update(dict.fromkeys(hierarchy.controllers, reason))
    return None


def _second(hierarchy: Hierarchy, name: str, why: dict[str, str]) -> Base | None:
    own = hierarchy.own
    if own is None or not own.is_dir():
        return None
    offered = _words(hierarchy.mount / "cgroup.controllers") & set(CONTROLLERS)
    reason = f"{own} is not delegated to this process; {REMEDY}"
    for parent in _candidates(hierarchy, own, name):
        enabled = _enable(parent)
        if enabled:
            return Base(2, frozenset(enabled), parent)
    why.update(dict.fromkeys(offered, reason))
    return None


def _candidates(hierarchy: Hierarchy, own: Path, name: str) -> list[Path]:
    """Groups that may be this process's to divide, the nearest first."""
    found = []
    if os.access(own, os.W_OK) and (is_root(own) or _vacate(own, name)):
        found.append(own)
    if own != hierarchy.mount and _delegated(own.parent):
        found.append(own.parent)
    if os.geteuid() == 0 and is_root(hierarchy.mount):
        found.append(hierarchy.mount)
    return found


def is_root(group: Path) -> bool:
    """Whether a group of version 2 is the root of all: it alone may divide and have processes."""
    return not (group / "cgroup.events").exists()


def _vacate(group: Path, name: str) -> bool:
    """Has this process leave a group it has to itself for one inside; true if nobody is in it."""
    try:
        members = (group / "cgroup.procs").read_text().split()
        if members == [str(os.getpid())] and _words(group / "cgroup.controllers"):
            inside = group / f"{name}.server"
            inside.mkdir(exist_ok=True)
            (inside / "cgroup.procs").write_text(str(os.getpid()))
            return True
    except OSError:
        return False
    return not members


def _delegated(group: Path) -> bool:
    """Whether systemd has given a group away, to whoever can write to it."""
    for attribute in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, attribute) == b"1":
                return os.access(group, os.W_OK)
    return False


def _enable(parent: Path) -> set[str]:
    """Hands controllers on to the groups in a group; those that are."""
    for controller in _words(parent / "cgroup.controllers") & set(CONTROLLERS):
        with contextlib.suppress(OSError):
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")
    return _words(parent / "cgroup.subtree_control") & set(CONTROLLERS)


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()
