"""Templates for VMs of a type, of drivers that copy machines instead of booting them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mulligan.drivers.interface import BootSpec
from mulligan.drivers.qemu.driver import QemuDriver
from mulligan.engine.vms.limits import limits_of_type
from mulligan.images.host import PACKAGES, prepare
from mulligan.layers.directories import make_directory
from mulligan.packages.store import pool_of_sets
from mulligan.settings import Settings


async def make_template(settings: Settings, vm_type: str) -> Path:
    """Makes the template VMs of a type are copied from, anew where there is one.

    A server that runs copies it from then on. VMs whose makers asked for other limits boot.

    Args:
        settings: of the server.
        vm_type: one of its types.

    Returns:
        The template's directory.

    Raises:
        ConfigError: there is no such type, this host has not what it takes, or the machine is too
            large for it.
        ExecutionFailed: its machine did not come up, or there is no room for it.
    """
    limits = limits_of_type(settings.vm_type(vm_type))
    make_directory(settings.data_dir)
    driver = QemuDriver((settings.guest_uid, settings.guest_gid), settings.data_dir)
    try:
        images = settings.data_dir / "images"
        image = await asyncio.to_thread(prepare, images, driver.disk_owner())
        # Layers and disk are each VM's own, and shown when it is copied.
        layers, disk = settings.data_dir / "layers", settings.data_dir / "vms"
        shares = ((pool_of_sets(settings), PACKAGES),)
        spec = BootSpec("template", image, layers, disk, limits, shares=shares)
        return (await driver.make_template(spec)).directory
    finally:
        driver.close()
