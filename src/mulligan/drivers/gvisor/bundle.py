"""The OCI configuration of a gVisor VM, built by one pure function.

The format is that of the OCI runtime specification, config.md and config-linux.md, version 1.0.
What runsc is given here is what bubblewrap shows it: the same tree, at the same paths, as the agent
of a bubblewrap VM has.
"""

from __future__ import annotations

from typing import Any

from mulligan.drivers.bubblewrap.arguments import AGENT_START, MIB, VmPlan
from mulligan.guest.kernel import AGENT_CAPABILITIES
from mulligan.guest.root import AGENT, DISK, IMAGE, LAYERS, MOUNT_POINT, WALLS
from mulligan.images.host import GUEST_GID, GUEST_UID, HOSTNAME

# What only runsc sees, out of the way of any tree a toolchain may live in.
BASE = "/.runsc"
ROOTFS = f"{BASE}/rootfs"
SPEC_VERSION = "1.0.0"
CAPABILITY_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
# No network namespace is shared and none is entered: with --network=none there is only loopback.
NAMESPACES = ("pid", "network", "ipc", "uts", "mount")
MOST_DESCRIPTORS = 1 << 20
# The agent's connection is standard input: of all descriptors that are handed in, only those three
# have the same number again when a VM is restored (runsc/boot/loader.go, startingStdioFD).
CONNECTION = 0


def config(plan: VmPlan, descriptors: tuple[int, int]) -> dict[str, Any]:
    """The content of ``config.json``.

    Args:
        plan: of the bubblewrap VM that it is inside of.
        descriptors: soft and hard limit of each process's, as getrlimit(2) has them.
    """
    unlimited = [number if number >= 0 else MOST_DESCRIPTORS for number in descriptors]
    soft, hard = (min(number, MOST_DESCRIPTORS) for number in unlimited)
    start = AGENT_START % ((CONNECTION, [], [], plan.network, WALLS),)
    return {
        "ociVersion": SPEC_VERSION,
        "process": {
            "user": {"uid": GUEST_UID, "gid": GUEST_GID},
            "args": [str(plan.python), "-I", "-S", "-c", start],
            "env": [f"{name}={value}" for name, value in plan.environment.items()],
            "cwd": "/",
            "capabilities": {each: list(AGENT_CAPABILITIES) for each in CAPABILITY_SETS},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}],
        },
        "root": {"path": ROOTFS, "readonly": True},
        "hostname": HOSTNAME,
        "mounts": _mounts(plan),
        "linux": {"namespaces": [{"type": each} for each in NAMESPACES]},
    }


def _mounts(plan: VmPlan) -> list[dict[str, Any]]:
    """What the agent sees; programs see a root the agent builds from it."""
    shown = [str(path) for path in plan.binds] + [place for _, place in plan.shares]
    shm = f"size={plan.shm_mb * MIB}"
    mounts = [
        _mount("/proc", "proc", "nosuid", "nodev", "noexec"),
        _mount("/dev", "tmpfs", "nosuid", "noexec"),  # the agent tidies it, and makes it read-only
        _mount("/dev/pts", "devpts", "nosuid", "noexec"),
        _tmpfs("/dev/shm", "mode=1777", shm),  # noqa: S108  (the VM's own)
        *[_bind(path) for path in shown],
        _bind("/etc"),
        _bind(IMAGE),
        _bind(AGENT),
        _bind(WALLS),
        *[_bind(place) for _, place in plan.files],
    ]
    if plan.disk is None:
        mounts.append(_bind(LAYERS, writable=True))
    else:
        mounts += [_bind(LAYERS), _bind(DISK, writable=True)]
    return [*mounts, _tmpfs(MOUNT_POINT, "mode=755")]


def _bind(path: str, *, writable: bool = False) -> dict[str, Any]:
    options = ["rbind", "nosuid", "nodev", "rw" if writable else "ro"]
    return {"destination": path, "type": "bind", "source": path, "options": options}


def _tmpfs(path: str, *options: str) -> dict[str, Any]:
    return _mount(path, "tmpfs", "nosuid", "nodev", *options)


def _mount(path: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": path, "type": kind, "source": kind, "options": list(options)}
