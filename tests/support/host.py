"""What tests see of the host: processes, mounts, descriptors, and a place to put data."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mulligan.drivers.bubblewrap import preflight
from mulligan.layers.directories import PASS_THROUGH, remove_tree
from mulligan.selfcheck.places import USUAL


def check_has_what_it_types(code: str) -> None:
    """Skips a test of code that types commands this host does not have."""
    typed = {"curl": r"\bcurl ", "rustc": r"-l rust\b", "node": r"\"javascript\""}
    for command, sign in typed.items():
        if re.search(sign, code):
            check_has(command)


def check_has(command: str) -> None:
    """Skips a test where this host does not have a command."""
    if shutil.which(command) is None:
        pytest.skip(f"this host has no {command}")


@contextmanager
def data_directory() -> Iterator[Path]:
    """A directory that VMs' users can reach, removed afterwards with everything in it."""
    path = Path(tempfile.mkdtemp(prefix="mulligan-test-"))
    path.chmod(PASS_THROUGH)
    try:
        yield path
    finally:
        if path.exists():
            remove_tree(path)


def descendants(pid: int) -> set[int]:
    """The living processes below a process, zombies not counted."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(name))
    found: set[int] = set()
    queue = [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found.update(children)
        queue += children
    return found


def alive(pids: set[int]) -> set[int]:
    """Those of some processes that are still there and no zombies."""
    found = set()
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[0] != "Z":
            found.add(pid)
    return found


def naming(directory: Path) -> list[int]:
    """Every process, orphans too, whose command line names a directory; not this one's own."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if os.fsencode(directory) in Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
            except OSError:
                continue
    return found


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def mounts() -> list[str]:
    """The mounts of this process's namespace."""
    return sorted(Path("/proc/self/mountinfo").read_text().splitlines())


def wait_until(condition: Callable[[], object], timeout: float = 10.0) -> bool:
    """Waits for a condition; false if it did not come true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def status(pid: int, field: str) -> list[str]:
    """A field of /proc/PID/status, in its words; none where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []
    return next(line.split()[1:] for line in lines if line.startswith(f"{field}:"))


def number_inside(pid: int) -> int:
    """The number a process has in the innermost process namespace it is in; 0 where it is gone."""
    return int((status(pid, "NSpid") or ["0"])[-1])


def parent(pid: int) -> int:
    """The number of a process's parent; 0 where it is gone."""
    return int((status(pid, "PPid") or ["0"])[0])


def command_line(pid: int) -> bytes:
    """What a process was started as; nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descriptors_of(pid: int) -> list[str]:
    """What a process's descriptors lead to; nothing where it is gone."""
    try:
        return [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def python_for(uid: int) -> str | None:
    """An interpreter of this version that a user can reach."""
    for path in (Path(sys.executable), *USUAL):
        real = path.resolve()
        if not real.exists() or preflight.barrier(real, (uid, uid)) is not None:
            continue
        asked = [str(path), "-c", "import sys; print(*sys.version_info[:2])"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
        if said == [str(each) for each in sys.version_info[:2]]:
            return str(path)
    return None
