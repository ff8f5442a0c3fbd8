"""The first file system of a microVM that becomes a template: what an agent needs to come up.

Its walls go up over a tree in memory with the interpreter and the modules the agent and the zygote
have imported by then, each at the place it has on the host, and an empty directory for everything
else they are to be shown. The host's files are mounted over it later, see ``guest.woken``.
"""

from __future__ import annotations

import glob
import json
import os
import shlex
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

from mulligan.drivers.bubblewrap import seccomp
from mulligan.drivers.bubblewrap.arguments import VmPlan, command
from mulligan.drivers.qemu import cpio
from mulligan.drivers.qemu.arguments import OWN, SERIAL, TAG, TOLD, Tools
from mulligan.errors import ConfigError
from mulligan.guest import woken
from mulligan.images.host import GUEST_GID, GUEST_UID

TREE = "warm"
LAYERS, DISK = Path(f"{OWN}/layers"), Path(f"{OWN}/disk")
PLACES = ("/dev", "/etc", "/proc", "/sys", "/tmp", "/usr")  # noqa: S108  (the VM's own)
ASK_S = 60
MOST_LINKS = 40
# What has been imported when an agent waits for its first frame, and a zygote for its first job.
AGENT = (
    "import mulligan.guest.start, mulligan.guest.agent, mulligan.guest.zygotes, "
    "mulligan.guest.woken"
)
ZYGOTE = (
    "import mulligan.guest.forkserver, mulligan.guest.leaving, mulligan.guest.kernels.packages, "
    "mulligan.guest.launch"
)
TELL = """
import json, os, sys
files = [f for m in list(sys.modules.values()) for f in (
    getattr(m, '__file__', None), getattr(m, '__cached__', None)) if f]
with open('/proc/self/maps') as maps:
    files += [line.split(None, 5)[5].strip() for line in maps if '/' in line]
files = sorted(set(filter(os.path.isfile, files)))
print(json.dumps([files, [path for path in sys.path if os.path.isdir(path)]]))
"""


def plan_of(plan: VmPlan) -> VmPlan:
    """The plan of a template: that of a VM, without what is its own."""
    return replace(plan, layers=LAYERS, disk=DISK)


def first_file_system(tools: Tools, plan: VmPlan, first: bytes) -> bytes:
    """The archive a template boots from.

    Args:
        tools: programs of the host.
        plan: see ``plan_of``.
        first: the archive microVMs boot from otherwise, with busybox and modules.

    Raises:
        ConfigError: the image's interpreter does not say what it needs.
    """
    tree = _Tree()
    for name, executable in _needed(tools, plan):
        tree.add(name, executable=executable)
    shown = [*plan.binds, plan.rootfs, plan.etc, plan.agent, LAYERS, DISK]
    shown += [path for path, _ in plan.shares]
    for name in (*PLACES, woken.FILES, OWN, *map(str, shown)):
        tree.directory(name)
    cache = Path("/etc/ld.so.cache")
    if cache.is_file():
        tree.file(str(cache), cache)
        tree.file(f"{plan.etc}/ld.so.cache", cache)
    filtered = seccomp.descriptor()
    try:
        tree.content(f"{OWN}/seccomp", os.pread(filtered, os.fstat(filtered).st_size, 0))
    finally:
        os.close(filtered)
    script = cpio.file("init", _init(tools, plan).encode(), executable=True)
    return first + cpio.archive([cpio.directory(TREE), *tree.entries.values(), script])


def _init(tools: Tools, plan: VmPlan) -> str:
    identity = ["--reuid", str(GUEST_UID), "--regid", str(GUEST_GID), "--clear-groups"]
    become = [str(tools.setpriv), *identity, "--", *command(plan)]
    code = (
        f"import sys; sys.path.insert(0, {str(plan.agent)!r}); "
        f"from mulligan.guest.woken import main; main(*{(SERIAL, TOLD, TAG, become)!r})"
    )
    start = shlex.join([str(plan.python), "-I", "-S", "-c", code])
    return INIT.replace("@START@", start)


INIT = """#!/bin/busybox sh
# Process 1 of a microVM that becomes a template, until its tree is its root.

busybox=/bin/busybox
fail() {
    echo "mulligan: $1"
    $busybox reboot -f
}

$busybox mount -t devtmpfs dev /dev || fail "there is no /dev"
while read -r module; do
    $busybox insmod "/modules/$module" || fail "module $module cannot be loaded"
done < /modules/order

rounds=0
until [ -c /dev/vport0p1 ] && [ -c /dev/vport0p2 ]; do
    rounds=$((rounds + 1))
    [ $rounds -lt 1000 ] || fail "the ports to the host do not appear"
    $busybox usleep 5000
done
$busybox mount -t tmpfs -o mode=755 tree /tree || fail "there is no room for a tree"
$busybox cp -a /warm/. /tree || fail "the tree cannot be filled"
$busybox mount -t proc proc /tree/proc || fail "there is no /proc"
$busybox mount -t sysfs sys /tree/sys || fail "there is no /sys"
$busybox mount --move /dev /tree/dev
exec $busybox switch_root /tree @START@
"""


def _needed(tools: Tools, plan: VmPlan) -> list[tuple[str, bool]]:
    """Files of the host, and whether each is a program."""
    python = str(plan.python)
    files, searched = _asked([python, "-I", "-S", "-c", _from(plan.agent, AGENT)], plan)
    more, also = _asked([python, "-c", _from(plan.agent, ZYGOTE)], plan)
    found = dict.fromkeys([*files, *more], False)
    for library in [name for name in found if ".so" in name]:
        found |= dict.fromkeys(_called(Path(library)), False)
    for directory in dict.fromkeys([*searched, *also]):
        found |= {str(path): False for path in Path(directory).glob("*.pth")}
        found[directory] = False
    found |= {str(path): False for path in plan.agent.rglob("*") if path.is_file()}
    settings = plan.python.resolve().parent.parent / "pyvenv.cfg"
    if settings.is_file():
        found[str(settings)] = False
    for program in (tools.bwrap, tools.setpriv, plan.python):
        found[str(program)] = True
        found |= dict.fromkeys(_libraries(program), True)
    return list(found.items())


def _called(library: Path) -> list[str]:
    """The links beside a library that lead to it: what programs know it by."""
    name = library.name.partition(".so")[0]
    beside = library.parent.glob(f"{glob.escape(name)}.so*")
    return [str(link) for link in beside if link.is_symlink() and link.resolve() == library]


def _from(agent: Path, code: str) -> str:
    return f"import sys; sys.path.insert(0, {str(agent)!r}); {code}\n{TELL}"


def _asked(argv: list[str], plan: VmPlan) -> tuple[list[str], list[str]]:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=ASK_S, check=True,
            env=plan.environment, cwd="/", stdin=subprocess.DEVNULL,
        )  # fmt: skip
        files, searched = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(f"{argv[0]} does not say what it needs: {error}") from None
    return files, searched


def _libraries(program: Path) -> list[str]:
    """What the dynamic linker would load for a program (ld.so(8)); it is not run."""
    done = subprocess.run(
        [program], capture_output=True, text=True, timeout=ASK_S, check=False,
        env={"LD_TRACE_LOADED_OBJECTS": "1"}, cwd="/", stdin=subprocess.DEVNULL,
    )  # fmt: skip
    words = [word for line in done.stdout.splitlines() for word in line.split()]
    return [word for word in words if word.startswith("/")]


class _Tree:
    """Entries of a tree, each with the directories and links that lead to it."""

    def __init__(self) -> None:
        self.entries: dict[str, cpio.Entry] = {}

    def add(self, path: str, *, executable: bool) -> None:
        """A file or directory of the host (without what is in it), at its place."""
        real = Path(self._lead_to(path))
        if real.is_dir():
            self.directory(str(real))
        elif real.is_file():
            self.file(str(real), real, executable=executable)

    def file(self, name: str, source: Path, *, executable: bool = False) -> None:
        """A file with another's content."""
        executable = executable or os.access(source, os.X_OK)
        mtime = int(source.stat().st_mtime)  # by which modules' compiled code is known
        self.content(name, source.read_bytes(), executable=executable, mtime=mtime)

    def content(self, name: str, data: bytes, *, executable: bool = False, mtime: int = 0) -> None:
        """A file."""
        self.directory(str(Path(name).parent))
        self.entries[name] = replace(
            cpio.file(f"{TREE}{name}", data, executable=executable), mtime=mtime
        )

    def directory(self, name: str) -> None:
        """A directory, and those it is in; what is a link on the host is one here."""
        self._directories(Path(self._lead_to(name)))

    def _lead_to(self, path: str) -> str:
        """Adds the links a path goes through, and where they are; returns where it leads to."""
        left = list(Path(path).parts[1:])
        at, links = Path("/"), 0
        while left:
            part = left.pop(0)
            if part == "..":
                at = at.parent
                continue
            step = at / part
            if not step.is_symlink():
                at = step
                continue
            links += 1
            if links > MOST_LINKS:
                raise ConfigError(f"{path} leads through too many links")
            target = step.readlink()
            self._directories(at)
            link = cpio.Entry(f"{TREE}{step}", stat.S_IFLNK | 0o777, os.fsencode(target))
            self.entries.setdefault(str(step), link)
            if target.is_absolute():
                at = Path("/")
            left = [*(part for part in target.parts if part != "/"), *left]
        return str(at)

    def _directories(self, path: Path) -> None:
        for each in [*reversed(path.parents), path][1:]:
            self.entries.setdefault(str(each), cpio.directory(f"{TREE}{each}"))
