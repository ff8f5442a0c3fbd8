"""What runs a microVM's instructions: KVM where it truly works, else QEMU's emulation.

That /dev/kvm can be opened says little. Where this host is a VM itself, KVM may refuse registers
of a processor, or let its guest into 64-bit mode and never out again. So a kernel is booted, once:
what came of it is written down for as long as the host, QEMU and the image stay the same.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from mulligan.drivers.qemu.arguments import QemuSpec, Tools, probe_command
from mulligan.drivers.qemu.image import MicrovmImage

KVM = Path("/dev/kvm")
NOTES = "microvm-accel.json"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TRIAL_S = 5.0
TRIAL_MB = 256
EMULATED = "tcg"
HARDWARE = "kvm"


@dataclass(frozen=True)
class Accel:
    """What was found.

    Attributes:
        name: "kvm" or "tcg".
        reason: why it is not KVM; empty where it is.
    """

    name: str
    reason: str = ""


def find(
    tools: Tools, image: MicrovmImage, run_as: tuple[int, int] | None, directory: Path
) -> Accel:
    """What microVMs of this host are to be run by.

    Args:
        tools: QEMU, and what it runs in.
        image: whose kernel is booted to try.
        run_as: the user of VMs, where that is another than this process's.
        directory: of images, where it is written down.
    """
    closed = _closed(run_as)
    if closed:
        return Accel(EMULATED, closed)
    notes = directory / NOTES
    key = _key(tools, image)
    try:
        known = json.loads(notes.read_text())
        if known.pop("key") == key:
            return Accel(**known)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        pass  # it has not been tried
    reason = _trial(tools, image, run_as)
    found = Accel(EMULATED, reason) if reason else Accel(HARDWARE)
    staging = notes.with_name(f".{NOTES}.new")
    staging.write_text(json.dumps({"key": key, **asdict(found)}))
    staging.replace(notes)
    return found


def _closed(run_as: tuple[int, int] | None) -> str:
    """Why /dev/kvm cannot be used at all; empty where it may be."""
    try:
        stat = KVM.stat()
    except OSError:
        return "this host has no /dev/kvm"
    if run_as is None:
        allowed = os.access(KVM, os.R_OK | os.W_OK)
        who = f"uid {os.geteuid()}"
    else:
        uid, gid = run_as
        bits = 0o600 if stat.st_uid == uid else 0o060 if stat.st_gid == gid else 0o006
        allowed = stat.st_mode & bits == bits
        who = f"uid {uid}, which VMs run as,"
    return "" if allowed else f"{who} may not use /dev/kvm"


def _key(tools: Tools, image: MicrovmImage) -> str:
    """What changes with the host, QEMU and the image."""
    stat = tools.qemu.stat()
    boot = BOOT_ID.read_text().strip()
    return f"{boot} {stat.st_mtime_ns:x} {stat.st_size:x} {image.stamp.key}"


def _trial(tools: Tools, image: MicrovmImage, run_as: tuple[int, int] | None) -> str:
    """Boots the image's kernel by KVM until its first program; why it did not get there."""
    user = {"user": run_as[0], "group": run_as[1], "extra_groups": []} if run_as else {}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        spec = QemuSpec(
            kernel=image.kernel,
            initrd=image.initrd,
            accel=HARDWARE,
            memory_mb=TRIAL_MB,
            cpus=1,
            monitor=theirs.fileno(),
        )
        try:
            done = subprocess.run(
                probe_command(tools, spec),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TRIAL_S,
                check=False,
                cwd="/",
                env={},
                **user,  # type: ignore[call-overload]
            )
        except subprocess.TimeoutExpired:
            return f"KVM hangs: a kernel did not start within {TRIAL_S:g} s"
        except (OSError, subprocess.SubprocessError) as error:
            return f"KVM could not be tried: {error}"
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines()
    return f"KVM does not work: {said[0][:200] if said else f'status {done.returncode}'}"
