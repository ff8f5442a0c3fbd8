"""Probes of the host's processes that a VM is made of: what a way out of it would be in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from mulligan.selfcheck.answers import Asked, MissingError, Seen, answer_probe
from mulligan.selfcheck.inside.namespaces import NAMESPACES
from mulligan.selfcheck.inside.probing import short

PROC = Path("/proc")


def _of_all(asked: Asked, look: Callable[[Path], str | None]) -> Seen:
    """Looks at each process; what is wrong with one, or None, is what ``look`` finds."""
    pids, wrong = asked.place.processes(), []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            try:
                found = look(PROC / str(pid))
            except PermissionError:
                raise MissingError("this user may not look at the VM's processes") from None
            if found is not None:
                wrong.append(found)
    if not pids:
        return False, "no process of it was found on the host"
    return not wrong, short("; ".join(sorted(set(wrong)))) if wrong else f"all {len(pids)} do"


def _shared(process: Path) -> str | None:
    same = [
        name
        for name in NAMESPACES
        if (process / "ns" / name).readlink() == Path(f"/proc/self/ns/{name}").readlink()
    ]
    return f"shares {' '.join(same)}" if same else None


def _mapped(process: Path) -> str | None:
    """A map of other than one number: user_namespaces(7)."""
    for kind in ("uid_map", "gid_map"):
        lines = (process / kind).read_text().split()
        if len(lines) != 3 or lines[2] != "1":  # noqa: PLR2004
            return f"{kind} {' '.join(lines)}"
    return None


def _privileged(process: Path) -> str | None:
    told = (process / "status").read_text().splitlines()
    lines = dict(line.split(":\t", 1) for line in told if ":\t" in line)
    return None if lines.get("NoNewPrivs") == "1" else f"NoNewPrivs {lines.get('NoNewPrivs')}"


@answer_probe(
    "namespaces.around",
    "compare all seven namespaces of each process the VM is on the host with the server's",
    "every process has others",
)
async def around(asked: Asked) -> Seen:
    return _of_all(asked, _shared)


@answer_probe(
    "namespaces.around_users",
    "read uid_map and gid_map of each process the VM is on the host",
    "each maps one number",
)
async def around_users(asked: Asked) -> Seen:
    return _of_all(asked, _mapped)


@answer_probe(
    "namespaces.around_privileges",
    "read NoNewPrivs of each process the VM is on the host",
    "1: none can become more than it is",
    "depends",
)
async def around_privileges(asked: Asked) -> Seen:
    return _of_all(asked, _privileged)
