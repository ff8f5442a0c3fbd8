"""Which drivers can make VMs here: findings of ``mulligan doctor``."""

from __future__ import annotations

import asyncio
import secrets
import time

from mulligan.cli.findings import Finding
from mulligan.drivers.choosing import EMBEDDED, MAKERS
from mulligan.drivers.qemu.image import lend
from mulligan.engine.drivers import AUTO, Drivers, tried
from mulligan.errors import VmExecutionError
from mulligan.images.host import HostImage, prepare
from mulligan.layers.directories import make_directory, remove_tree
from mulligan.settings import Settings


def drivers(settings: Settings) -> list[Finding]:
    """Has every driver but the embedded one, which is looked at by itself, boot a VM."""
    directory = settings.data_dir / f"doctor-{secrets.token_hex(4)}"
    try:
        make_directory(directory)
        lend(settings.data_dir / "images", directory / "images")
        return asyncio.run(_looked_at(settings.model_copy(update={"data_dir": directory})))
    except VmExecutionError as error:
        return [Finding("drivers", "fail", str(error.detail), error.remedy)]
    finally:
        if directory.exists():
            remove_tree(directory)


async def _looked_at(settings: Settings) -> list[Finding]:
    found = Drivers(settings)
    try:
        await found.open()
        make_directory(settings.data_dir / "images")
        image = prepare(settings.data_dir / "images", found.jobs.disk_owner())
        names = [name for name in MAKERS if name != EMBEDDED]
        findings = [await _one(name, found, image, settings) for name in names]
        if all(finding.state != "fail" for finding in findings):
            findings.append(await _chosen(found, image, settings))
    finally:
        found.close()
    return findings


async def _one(name: str, found: Drivers, image: HostImage, settings: Settings) -> Finding:
    named = {kind.driver or settings.driver for kind in settings.vm_types.values()}
    state = "fail" if name in named else "note"
    try:
        driver = found.make(name)
        began = time.monotonic()
        await tried(driver, image, settings.data_dir)
    except VmExecutionError as error:
        return Finding(name, state, str(error.detail), error.remedy)
    took = round((time.monotonic() - began) * 1000)
    can = driver.capabilities
    kernel = "a kernel of its own" if can.own_kernel else "the host's kernel"
    networks = " or ".join(can.network)
    detail = f"{driver.about()}: ran Python in {took} ms; {kernel}, network {networks}"
    return Finding(name, "ok", detail)


async def _chosen(found: Drivers, image: HostImage, settings: Settings) -> Finding:
    try:
        await found.choose(image)
    except VmExecutionError as error:
        return Finding("drivers", "fail", str(error.detail), error.remedy)
    said = []
    for name, kind in settings.vm_types.items():
        how = " (auto)" if (kind.driver or settings.driver) == AUTO else ""
        said.append(f"{name} by {found.of_type(name).name}{how}")
    return Finding("drivers", "ok", ", ".join(said))
