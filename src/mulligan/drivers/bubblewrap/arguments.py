"""The command line of a bubblewrap VM, built by one pure function."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mulligan.drivers.limits import SHM_MB
from mulligan.guest.kernel import AGENT_CAPABILITIES
from mulligan.guest.root import AGENT, DISK, IMAGE, LAYERS, MOUNT_POINT
from mulligan.images.host import GUEST_GID, GUEST_UID, HOSTNAME

MIB = 1024 * 1024
AGENT_START = (
    f"import sys; sys.path.insert(0, '{AGENT}'); from mulligan.guest.start import main; main%r"
)


@dataclass(frozen=True)
class VmPlan:
    """Everything the command line depends on.

    Attributes:
        bwrap: the bubblewrap executable.
        python: the interpreter, as seen inside, that runs the agent.
        binds: host directories shown read-only at the path they have.
        symlinks: (target, link) pairs of the VM's root.
        shares: host directories shown read-only, each with its place in the VM.
        environment: of the agent and of the programs it starts.
        rootfs, agent, layers, disk: host directories of the image, the guest's code, the layers of
            the VM's disk, and its disk. Without a disk the layers may be written to.
        etc: host directory that is the agent's /etc.
        descriptor: number of the inherited connection to the host.
        seccomp: number of the inherited descriptor of the system call filter.
        network: number of the inherited socket through which the agent hands over what its
            programs connect to; None without a network.
        files: (path of the host, path inside) of files shown read-only in place of the image's.
        info: number of the inherited pipe on which bubblewrap names its child.
        own_groups, program_groups: numbers of inherited entries of control groups: the agent's own,
            and those of everything else in the VM.
        shm_mb: size of ``/dev/shm``, in MiB.
        run_as: uid and gid to become first (a server started as root), or None.
        staged: those of ``binds`` that ``run_as`` cannot reach by path, such as a toolchain under
            /root; a first bubblewrap, still with the server's rights, shows them under ``stage``.
        stage: an existing, empty directory for that.
        setpriv: the setpriv executable; needed with ``staged``.
        memory, resumes: as in ``BootSpec``; for drivers that build upon this one.
    """

    bwrap: Path
    python: Path
    binds: tuple[Path, ...]
    symlinks: tuple[tuple[str, str], ...]
    environment: dict[str, str]
    rootfs: Path
    etc: Path
    agent: Path
    layers: Path
    disk: Path | None
    descriptor: int
    info: int
    seccomp: int
    own_groups: tuple[int, ...] = ()
    program_groups: tuple[int, ...] = ()
    shm_mb: int = SHM_MB
    files: tuple[tuple[Path, str], ...] = ()
    network: int | None = None
    run_as: tuple[int, int] | None = None
    staged: tuple[Path, ...] = ()
    stage: Path | None = None
    setpriv: Path | None = None
    shares: tuple[tuple[Path, str], ...] = ()
    memory: Path | None = None
    resumes: str | None = None


def command(plan: VmPlan) -> list[str]:
    """The argument vector that becomes the VM."""
    return [*staging(plan), str(plan.bwrap), *_walls(), *tree(plan), *_agent(plan)]


def _walls() -> list[str]:
    """Namespaces, identity and rights: the same for every VM."""
    arguments = ["--disable-userns", "--as-pid-1", *namespaces(), "--cap-drop", "ALL"]
    for capability in AGENT_CAPABILITIES:
        arguments += ["--cap-add", capability]
    return arguments


def namespaces() -> list[str]:
    """New namespaces of every kind, and nobody's user in them."""
    return [
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup",
        "--uid",
        str(GUEST_UID),
        "--gid",
        str(GUEST_GID),
        "--hostname",
        HOSTNAME,
        "--die-with-parent",
        "--new-session",
        "--clearenv",
    ]


def tree(plan: VmPlan) -> list[str]:
    """What the agent sees; programs see a root the agent builds from it."""
    arguments = []
    for name, value in plan.environment.items():
        arguments += ["--setenv", name, value]
    for path in plan.binds:
        source = reached(plan, path)
        arguments += ["--ro-bind", str(source), str(path)]
    for target, link in plan.symlinks:
        arguments += ["--symlink", target, link]
    for path, place in plan.shares:
        arguments += ["--ro-bind", str(path), place]
    return arguments + [
        "--proc", "/proc",
        "--dev", "/dev",
        "--size", str(plan.shm_mb * MIB), "--tmpfs", "/dev/shm",  # noqa: S108  (the VM's own)
        "--remount-ro", "/dev",
        "--ro-bind", str(plan.etc), "/etc",
        "--ro-bind", str(plan.rootfs), IMAGE,
        "--ro-bind", str(plan.agent), AGENT,
        *[each for source, path in plan.files for each in ("--ro-bind", str(source), path)],
        *_disk(plan),
        "--tmpfs", MOUNT_POINT,
        "--chdir", "/",
    ]  # fmt: skip


def _disk(plan: VmPlan) -> list[str]:
    if plan.disk is None:
        return ["--bind", str(plan.layers), LAYERS]
    return ["--ro-bind", str(plan.layers), LAYERS, "--bind", str(plan.disk), DISK]


def _agent(plan: VmPlan) -> list[str]:
    groups = list(plan.own_groups), list(plan.program_groups)
    start = AGENT_START % ((plan.descriptor, *groups, plan.network),)
    return [
        "--info-fd",
        str(plan.info),
        "--seccomp",
        str(plan.seccomp),
        "--",
        str(plan.python),
        "-I",
        "-S",
        "-c",
        start,
    ]


def reached(plan: VmPlan, path: Path) -> Path:
    """Where a path of the host is for the user the VM runs as."""
    if path not in plan.staged:
        return path
    assert plan.stage is not None
    return plan.stage / str(plan.staged.index(path))


def staging(plan: VmPlan) -> list[str]:
    """The first bubblewrap, which only shows what the second could not reach, and gives up root."""
    if not plan.staged:
        return []
    assert plan.run_as is not None
    assert plan.setpriv is not None
    arguments = [str(plan.bwrap), "--die-with-parent", "--dev-bind", "/", "/"]
    arguments += ["--tmpfs", str(plan.stage)]
    for path in plan.staged:
        arguments += ["--ro-bind", str(path), str(reached(plan, path))]
    uid, gid = plan.run_as
    identity = ["--reuid", str(uid), "--regid", str(gid), "--clear-groups"]
    return [*arguments, "--", str(plan.setpriv), *identity, "--"]
