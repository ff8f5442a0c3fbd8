"""``mulligan doctor``: whether VMs can be made here, found out by making one."""

from __future__ import annotations

import asyncio
import json as json_module
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import typer

from mulligan import settings as settings_module
from mulligan.cli.console import out, within
from mulligan.cli.findings import Finding
from mulligan.cli.options import DataDirOption, JsonOption
from mulligan.cli.progress import Progress
from mulligan.drivers.bubblewrap import preflight
from mulligan.engine.vms.quota import MIB, bounds_of, check_room
from mulligan.errors import ConfigError, ExecutionFailed, VmExecutionError
from mulligan.images import toolchains
from mulligan.languages import INSTALL_HINTS
from mulligan.layers.directories import make_directory, remove_tree
from mulligan.models import VmExecuteRequest
from mulligan.settings import Settings
from mulligan.version import __version__

MARKS = {"ok": "[green]ok  [/green]", "note": "[yellow]note[/yellow]", "fail": "[red]FAIL[/red]"}


def doctor(json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Check whether this host can run VMs, and say which setting stands in the way if not."""
    settings = settings_module.load(data_dir=data_dir)
    findings = []
    with Progress("looking") as progress:
        for finding in _findings(settings):
            findings.append(finding)
            if not json:
                progress.stop()
                _print(finding)
    if json:
        dumped = [asdict(finding) for finding in findings]
        out.print(json_module.dumps(dumped, indent=2), markup=False)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


def _print(finding: Finding) -> None:
    line = f"{MARKS[finding.state]} {finding.check}: {within(finding.detail)}"
    out.print(line + (f"\n     remedy: {within(finding.remedy)}" if finding.remedy else ""))


def _findings(settings: Settings) -> Iterator[Finding]:
    release = os.uname()
    python = sys.version.split()[0]
    yield Finding(
        "host",
        "ok",
        f"{release.sysname} {release.release}, Mulligan {__version__}, Python {python}",
    )
    data = _data_dir(settings)
    yield data
    if data.state == "ok":
        yield _disk_quota(settings)
        yield _limits(settings)
        bwrap = _bubblewrap(settings)
        yield bwrap
        yield _namespaces(settings) if bwrap.state == "ok" else _skipped("namespaces", bwrap)
    else:
        yield _skipped("bubblewrap and namespaces", data)
    yield from _languages(settings)
    if data.state == "ok" and bwrap.state == "ok":
        yield from _drivers(settings)
        yield from _boot(settings)


def _drivers(settings: Settings) -> list[Finding]:
    from mulligan.cli.drivers import drivers

    return drivers(settings)


def _skipped(check: str, missing: Finding) -> Finding:
    return Finding(check, "note", f"not tried without {missing.check}")


def _failed(check: str, error: VmExecutionError) -> Finding:
    return Finding(check, "fail", str(error.detail), error.remedy)


def _bubblewrap(settings: Settings) -> Finding:
    try:
        path = preflight.reachable(preflight.find_bwrap(), settings.data_dir)
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except VmExecutionError as error:
        return _failed("bubblewrap", error)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("bubblewrap", "fail", f"it does not run: {error}")
    return Finding("bubblewrap", "ok", f"{said}, {path}")


def _namespaces(settings: Settings) -> Finding:
    guest = (settings.guest_uid, settings.guest_gid)
    path = preflight.reachable(preflight.find_bwrap(), settings.data_dir)
    obstacle = preflight.obstacle(path, guest)
    if obstacle is not None:
        return _failed("namespaces", obstacle)
    who = f"uid {guest[0]} (the server is root)" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    return Finding("namespaces", "ok", f"VMs run as {who}, with no capabilities on the host")


def _data_dir(settings: Settings) -> Finding:
    try:
        make_directory(settings.data_dir)
    except ConfigError as error:
        return _failed("data directory", error)
    return Finding("data directory", "ok", str(settings.data_dir))


def _disk_quota(settings: Settings) -> Finding:
    """What keeps VMs from filling the disk: nowhere the kernel's own quotas."""
    bounds = bounds_of(settings, settings.default_vm_type, None)
    how = "watched by each VM's agent: beyond it writes fail with EFBIG (not ENOSPC)"
    limit = f"{bounds.limit_mb} MB a VM, {how}"
    if bounds.limit_bytes is None:
        limit = "no limit for a VM (disk_mb = 0)"
    kept = f"{bounds.reserve() // MIB} MB of the host's disk stay free"
    try:
        check_room(bounds)
    except ExecutionFailed as error:
        return _failed("disk quota", error)
    unlimited = bounds.limit_bytes is None or not settings.min_free_mb
    return Finding("disk quota", "note" if unlimited else "ok", f"{limit}; {kept}")


def _limits(settings: Settings) -> Finding:
    """What holds VMs of the usual type to their limits."""
    from mulligan.drivers.bubblewrap.holding import holding
    from mulligan.drivers.cgroups import Cgroups
    from mulligan.drivers.cgroups.bases import REMEDY
    from mulligan.drivers.limits import unheld
    from mulligan.engine.vms.limits import limits_of_type

    asked = limits_of_type(settings.vm_type(settings.default_vm_type))
    held = holding(asked, Cgroups(settings.data_dir))
    words = {"none": "by nothing", "watched": "watched"}
    said = [
        f"{name} = {limit.value:.15g} {words[limit.held_by]} ({limit.reason})"
        if limit.held_by in words
        else f"{name} = {limit.value:.15g} by {limit.held_by}"
        for name, limit in held.items()
        if limit.value
    ]
    required = settings.limits_required
    missing = unheld(held, required or True)
    state = "ok" if not missing else "fail" if required else "note"
    return Finding("limits", state, "; ".join(said), REMEDY if missing else None)


def _languages(settings: Settings) -> Iterator[Finding]:
    found = toolchains.find_all()
    for language in settings.allowed_languages:
        chain = found.get(language)
        if chain is not None:
            yield Finding(language, "ok", str(chain.program))
        else:
            state = "fail" if language == "python" else "note"  # the agent itself is Python
            yield Finding(language, state, "not on this host", INSTALL_HINTS[language])


def _boot(settings: Settings) -> list[Finding]:
    """Boots a throwaway VM on the file system VMs will live on."""
    directory = settings.data_dir / f"doctor-{secrets.token_hex(4)}"
    try:
        return asyncio.run(_try_boot(settings, directory))
    finally:
        if directory.exists():
            remove_tree(directory)


async def _try_boot(settings: Settings, directory: Path) -> list[Finding]:
    from mulligan.cli import walls
    from mulligan.drivers.qemu.image import lend
    from mulligan.engine.engine import Engine

    hooks = settings.hooks.model_copy(update={"enabled": False})  # gates would refuse to probe
    changes = {"data_dir": directory, "hooks": hooks}
    make_directory(directory)
    lend(settings.data_dir / "images", directory / "images")
    try:
        async with Engine(settings.model_copy(update=changes)) as engine:
            request = VmExecuteRequest(agent_id="doctor", language="python", code="print('well')")
            response = await engine.execute(request)
            probe = request.model_copy(update={"code": walls.PROBE})
            probed = await engine.execute(probe)
            driver = engine.drivers.of_type(settings.default_vm_type)
    except VmExecutionError as error:
        return [_failed("a VM", error)]
    if response.stdout != "well\n":
        detail = f"exit code {response.exit_code}: {response.stderr[-300:]}"
        return [Finding("a VM", "fail", detail)]
    detail = f"booted by {driver.name} and ran Python in {response.duration_ms} ms"
    booted = Finding("a VM", "ok", detail)
    try:
        return [booted, *walls.walls(probed.stdout, own_kernel=driver.capabilities.own_kernel)]
    except (ValueError, KeyError, TypeError) as error:
        said = probed.stderr[-300:] or str(error)
        return [booted, Finding("walls", "fail", f"they could not be probed: {said}")]
