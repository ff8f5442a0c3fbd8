"""What of a VM's walls holds here, asked from inside of one: findings of ``mulligan doctor``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from mulligan.cli.findings import Finding
from mulligan.drivers.bubblewrap import seccomp
from mulligan.guest import landlock

PROBE = """
import ctypes, errno, json, os
libc = ctypes.CDLL(None, use_errno=True)
def answer(result):
    return errno.errorcode.get(ctypes.get_errno(), "?") if result == -1 else "done"
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
def look(path):
    try:
        with open(path, "rb") as file:
            return "open" if file.read(1) else "empty"
    except OSError as error:
        return errno.errorcode[error.errno]
def act(do):
    try:
        do()
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
print(json.dumps({
    "capabilities": sorted({status[n].strip().strip("0") for n in
                            ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}),
    "no_new_privs": status["NoNewPrivs"].strip(),
    "seccomp": status["Seccomp"].strip(),
    "mount": answer(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
    "namespace": answer(libc.unshare(0x10000000)),
    "trace": answer(libc.ptrace(16, 1, 0, 0)),
    "keys": look("/proc/keys"),
    "memory": look("/proc/1/mem"),
    "limits": act(lambda: __import__("resource").prlimit(1, 7)),
    "device": act(lambda: os.mknod("/tmp/device", 0o20600, os.makedev(1, 3))),
    "setuid": all("nosuid" in line.split()[5].split(",") for line in open("/proc/self/mountinfo")),
}))
"""


def walls(said: str, *, own_kernel: bool = False) -> Iterator[Finding]:
    """What the probe's answer shows.

    Args:
        said: the standard output of ``PROBE``, run in a VM.
        own_kernel: whether it has another kernel than this host.

    Raises:
        ValueError, KeyError, TypeError: that is no answer.
    """
    found = json.loads(said)
    yield _rights(found)
    yield _calls(found)
    yield _proc(found)
    if not own_kernel:
        yield _landlock(found)
    else:
        yield _landlock_of_its_own(found)


def _judged(check: str, bad: list[str], detail: str) -> Finding:
    if bad:
        return Finding(check, "fail", f"programs in a VM are not held by: {', '.join(bad)}")
    return Finding(check, "ok", detail)


def _rights(found: dict[str, Any]) -> Finding:
    bad = [] if found["capabilities"] == [""] else ["capabilities"]
    bad += [] if found["no_new_privs"] == "1" else ["no_new_privs"]
    bad += [] if found["setuid"] else ["nosuid"]
    bad += [] if found["namespace"] in ("EPERM", "ENOSPC") else ["no new namespaces"]
    detail = "none in any set, none by set-user-ID, no namespaces of their own"
    return _judged("rights of programs", bad, detail)


def _calls(found: dict[str, Any]) -> Finding:
    bad = [] if found["seccomp"] == "2" else ["seccomp"]
    bad += [f"{name} refused" for name in ("mount", "trace", "limits") if found[name] != "EPERM"]
    allowed = [calls for answer, _, calls in seccomp.groups().values() if answer == "allow"]
    known = seccomp.numbers(os.uname().machine)
    count = sum(name in known for calls in allowed for name in calls)
    by_arguments = len(seccomp.groups()["arguments"][2])
    detail = (
        f"{count} of {len(known)} allowed, {by_arguments} by their arguments, all others refused; "
        "programs have a second filter"
    )
    return _judged("system calls", bad, detail)


def _proc(found: dict[str, Any]) -> Finding:
    bad = [] if found["keys"] in ("empty", "ENOENT") else ["/proc/keys masked"]
    bad += [] if found["memory"] in ("EACCES", "EPERM") else ["the agent's memory closed"]
    return _judged(
        "/proc", bad, "masked, its settings read-only; the agent shows nothing of itself"
    )


def _landlock_of_its_own(found: dict[str, Any]) -> Finding:
    """See ``_landlock``; the version of another kernel is not known here."""
    if found["device"] == "EACCES":
        return Finding(
            "Landlock", "ok", "of the VM's own kernel: executions cannot look into others"
        )
    detail = "the VM's own kernel has none: executions in one VM can read each other's environment"
    return Finding("Landlock", "note", f"{detail} and memory")


def _landlock(found: dict[str, Any]) -> Finding:
    """Landlock answers for a device file before the check of rights does, and in another way."""
    abi = landlock.version()
    if abi < landlock.ABI_FILES:
        what = "this kernel has none" if not abi else f"version {abi} is too old for programs"
        return Finding(
            "Landlock",
            "note",
            f"{what}: executions in one VM can read each other's environment and memory",
            "a kernel of 5.19 or later with CONFIG_SECURITY_LANDLOCK, and landlock in lsm= on its "
            "command line",
        )
    bad = [] if found["device"] == "EACCES" else ["Landlock"]
    kernels = "" if abi >= landlock.ABI_SCOPE else "; kernels have none before version 6"
    return _judged("Landlock", bad, f"version {abi}: executions cannot look into others{kernels}")
