"""The groups of a server's VMs: made before one boots, gone when it has ended.

::

    <base>/mulligan-<id>/<VM>.<boot>/agent/      process 1 of the VM, with a reserve
    <base>/mulligan-<id>/<VM>.<boot>/programs/   all its other processes

``<id>`` is the data directory's device and inode: no two servers have the same. What a server that
was killed has left is found by that name, below the places it wrote down in ``cgroups.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mulligan.drivers.cgroups import bases
from mulligan.drivers.cgroups.bases import Base
from mulligan.drivers.cgroups.hierarchies import Hierarchy
from mulligan.drivers.cgroups.values import AGENT, PROGRAMS, VM, Value, counted, values
from mulligan.drivers.limits import Limits, Strain
from mulligan.errors import ExecutionFailed

PLACES = "cgroups.json"
EMPTY_TRIES = 100
EMPTY_PAUSE_S = 0.01
MOST_NUMBERS = 4096
NAME = "mulligan-"


class VmGroups:
    """The groups of one VM, and the descriptors by which its processes enter them.

    Args:
        name: of the VM.
        bases: where they are made.
        home: name of the server's group there.
        limits: what is written into them.

    Raises:
        ExecutionFailed: a limit could not be put in force; nothing is left.
    """

    def __init__(self, name: str, places: list[Base], home: str, limits: Limits) -> None:
        self._directories = [(base, base.parent / home / name) for base in places]
        self.agent: list[int] = []
        self.programs: list[int] = []
        self._counters: list[tuple[int, str]] = []
        try:
            for base, directory in self._directories:
                self._make(base, directory, limits)
        except OSError as error:
            self.close()
            self.remove()
            why = f"the VM's limits cannot be put in force: {error.filename}: {error.strerror}"
            raise ExecutionFailed(why, remedy=bases.REMEDY) from None

    def _make(self, base: Base, directory: Path, limits: Limits) -> None:
        directory.parent.mkdir(exist_ok=True)
        if base.version != 1:
            _hand_on(directory.parent, base.controllers)
        directory.mkdir()
        if base.version != 1:
            _hand_on(directory, base.controllers)
        for group in (PROGRAMS, AGENT):
            (directory / group).mkdir()
        for value in values(limits, base.version):
            if value.controller in base.controllers:
                _write(directory, value)
        # In version 1 a process of one thread can move itself by "tasks", without waiting for every
        # other of the machine to be where it can be moved.
        entry = "tasks" if base.version == 1 else "cgroup.procs"
        flags = os.O_WRONLY | os.O_CLOEXEC
        self.agent.append(os.open(directory / AGENT / entry, flags))
        self.programs.append(os.open(directory / PROGRAMS / entry, flags))
        self._watch(base, directory / PROGRAMS)

    def _watch(self, base: Base, programs: Path) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC
        if "memory" in base.controllers:
            file = "memory.oom_control" if base.version == 1 else "memory.events"
            self._counters.append((os.open(programs / file, flags), "oom_kill"))
        if "pids" in base.controllers:
            self._counters.append((os.open(programs / "pids.events", flags), "max"))

    def admit(self, pid: int) -> None:
        """Puts a process of one thread among the programs; what it starts from then on is, too.

        Raises:
            OSError: it may not be.
        """
        for descriptor in self.programs:
            os.write(descriptor, b"%d" % pid)

    def entered(self) -> None:
        """The VM has its own copies of the entries."""
        for descriptor in (*self.agent, *self.programs):
            os.close(descriptor)
        self.agent, self.programs = [], []

    def strain(self) -> Strain:
        """How often programs met a limit since the VM booted."""
        found = {
            name: counted(os.pread(descriptor, MOST_NUMBERS, 0).decode(), name)
            for descriptor, name in self._counters
        }
        return Strain(found.get("oom_kill", 0), found.get("max", 0))

    def holds(self, pid: int, group: str = AGENT) -> bool:
        """Whether a process is in the agent's group, or the programs', of every hierarchy."""
        return all(
            str(pid) in (directory / group / "cgroup.procs").read_text().split()
            for _, directory in self._directories
        )

    def close(self) -> None:
        """Lets go of every descriptor. May be repeated."""
        self.entered()
        for descriptor, _ in self._counters:
            os.close(descriptor)
        self._counters = []

    def remove(self) -> bool:
        """Removes the groups, and the server's where no other VM has any; true where all are gone.

        Called when the VM's processes have ended.
        """
        gone = True
        self.close()
        for _, directory in self._directories:
            for path in (directory / AGENT, directory / PROGRAMS, directory):
                gone &= _rmdir(path)
            with contextlib.suppress(OSError):
                directory.parent.rmdir()  # busy while another VM is in it
        return gone


class Cgroups:
    """Makes groups for the VMs of a data directory.

    Args:
        directory: the data directory.
        found: the hierarchies there are; None: as this process sees them.
    """

    def __init__(self, directory: Path, found: list[Hierarchy] | None = None) -> None:
        status = directory.stat()
        self.name = f"{NAME}{status.st_dev:x}-{status.st_ino:x}"
        self._notes = directory / PLACES
        hierarchies = bases.present() if found is None else found
        self._mounts = [each.mount for each in hierarchies]
        self.bases, self.missing = bases.find(hierarchies, self.name)
        self._last = 0

    def version(self, controller: str) -> int | None:
        """Which version has a controller that can be used here; None where there is none."""
        for base in self.bases:
            if controller in base.controllers:
                return base.version
        return None

    def create(self, vm_id: str, limits: Limits) -> VmGroups | None:
        """Makes the groups of a VM about to boot; None where this host has no place for any.

        Raises:
            ExecutionFailed: a limit could not be put in force.
            OSError: where they are cannot be written down.
        """
        if not self.bases:
            return None
        self._note()
        self._last += 1
        return VmGroups(f"{vm_id}.{self._last}", self.bases, self.name, limits)

    def sweep(self) -> list[int]:
        """Ends what is in groups a server that was killed has left, and removes them.

        Called while nobody else serves the directory. Returns the numbers of ended processes.
        """
        ended: list[int] = []
        for place in {*self._noted(), *(base.parent for base in self.bases)}:
            if any(place.is_relative_to(mount) for mount in self._mounts):
                ended += _collect(place / self.name)
        self._notes.unlink(missing_ok=True)
        return ended

    def _noted(self) -> list[Path]:
        try:
            places = json.loads(self._notes.read_text())
        except (OSError, ValueError):
            return []
        return [Path(each) for each in places if isinstance(each, str) and ".." not in each]

    def _note(self) -> None:
        noted = self._noted()
        here = [base.parent for base in self.bases]
        if not set(here) <= set(noted):
            places = sorted({str(each) for each in (*noted, *here)})
            staging = self._notes.with_name(f".{PLACES}.new")
            staging.write_text(json.dumps(places))
            staging.replace(self._notes)


def _hand_on(group: Path, controllers: frozenset[str]) -> None:
    wanted = " ".join(f"+{controller}" for controller in sorted(controllers))
    (group / "cgroup.subtree_control").write_text(wanted)


def _write(directory: Path, value: Value) -> None:
    path = directory / value.group / value.file if value.group != VM else directory / value.file
    try:
        path.write_text(value.text)
    except FileNotFoundError:
        if not value.optional:
            raise


def _rmdir(path: Path) -> bool:
    """Removes a group; the kernel may take a moment to see that it is empty."""
    for attempt in range(EMPTY_TRIES):
        try:
            path.rmdir()
            return True
        except FileNotFoundError:
            return True
        except OSError:
            if attempt == EMPTY_TRIES - 1:
                return False
            time.sleep(EMPTY_PAUSE_S)
    return False


def _collect(home: Path) -> list[int]:
    """Ends every process in a tree of groups and removes it."""
    groups = [*_tree(home)]
    ended = [pid for group in groups for pid in _end(group)]
    for group in groups:
        _rmdir(group)
    return ended


def _tree(group: Path) -> Iterator[Path]:
    """A group and those in it, the innermost first."""
    try:
        inner = [path for path in group.iterdir() if path.is_dir()]
    except OSError:
        return
    for path in inner:
        yield from _tree(path)
    yield group


def _end(group: Path) -> Iterable[int]:
    for pid in _members(group):
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if pid in _members(group):  # and so it is the one the descriptor is of
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                yield pid
        except OSError:
            continue  # it has ended
        finally:
            os.close(pidfd)


def _members(group: Path) -> list[int]:
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []
