"""The command line of a gVisor VM, built by one pure function.

bubblewrap makes the namespaces, shows runsc the VM's tree and nothing else of the host, and becomes
nobody in particular; in there runsc, which believes itself to be privileged, makes its sandbox. So
nothing of gVisor has rights on the host, all of it is one process namespace that ends at once, and
its state directory is in memory that goes with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mulligan.drivers.bubblewrap.arguments import VmPlan, namespaces, staging, tree
from mulligan.drivers.gvisor.bundle import BASE, ROOTFS
from mulligan.guest.root import WALLS

RUNSC = f"{BASE}/runsc"
BUNDLE = f"{BASE}/bundle"
STATE = f"{BASE}/state"
CONTAINER = "vm"
MEMORY = f"{BASE}/memory"
# What runsc needs in the user namespace bubblewrap made, to make its sandbox in it and to look
# after files as the agent of a bubblewrap VM does. None of it counts outside of that namespace.
CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
)
FLAGS = (
    "--network=none",
    "--ignore-cgroups",  # whole VMs are in groups of ours
)


@dataclass(frozen=True)
class RunscPlan:
    """What the command line of a gVisor VM depends on beyond a bubblewrap VM's.

    Attributes:
        runsc: the executable.
        platform: how it runs programs: "systrap", "ptrace" or "kvm".
        flags: further ones, for all of its commands.
        config: number of the inherited descriptor of ``config.json``.
        gate: number of an inherited descriptor; nothing starts before something is read from it.
        memory: host directory of the VM's memory, where it is kept.
        resumes: what is kept there that the VM goes on from; None: it boots.
    """

    runsc: Path
    platform: str
    flags: tuple[str, ...]
    config: int
    gate: int
    memory: Path | None = None
    resumes: str | None = None


def command(plan: VmPlan, inner: RunscPlan) -> list[str]:
    """The argument vector that becomes the VM."""
    arguments = [*staging(plan), str(plan.bwrap), *namespaces()]
    for capability in CAPABILITIES:
        arguments += ["--cap-add", capability]
    arguments += tree(plan)
    arguments += ["--tmpfs", BASE, "--dir", BUNDLE, "--dir", STATE, "--dir", ROOTFS]
    for target, link in plan.symlinks:
        arguments += ["--symlink", target, f"{ROOTFS}{link}"]
    if inner.memory is not None:
        arguments += ["--bind", str(inner.memory), MEMORY]
    if inner.platform == "kvm":
        arguments += ["--dev-bind", "/dev/kvm", "/dev/kvm"]
    arguments += [
        "--ro-bind", str(inner.runsc), RUNSC,
        "--file", str(inner.config), f"{BUNDLE}/config.json",
        # Not by --seccomp: that would be around gVisor's kernel, which needs more.
        "--file", str(plan.seccomp), WALLS,
        "--tmpfs", "/tmp",  # noqa: S108  (runsc's own)
        "--info-fd", str(plan.info),
        "--block-fd", str(inner.gate),
        "--",
        *runsc(inner),
    ]  # fmt: skip
    how = ["run"]
    if inner.resumes is not None:
        how = ["restore", "--image-path", f"{MEMORY}/{inner.resumes}"]
    return [*arguments, *how, "--bundle", BUNDLE, CONTAINER]


def runsc(inner: RunscPlan) -> list[str]:
    """How runsc is called in the VM's namespaces, up to its command."""
    return [RUNSC, "--root", STATE, f"--platform={inner.platform}", *FLAGS, *inner.flags]
