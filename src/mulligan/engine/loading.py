"""What an engine finds on disk when it opens."""

from __future__ import annotations

import asyncio

from mulligan.drivers.interface import Driver
from mulligan.engine.store import StoredVm, Stores, VmStore
from mulligan.layers.store import LayerStore
from mulligan.log import get_logger
from mulligan.settings import Settings

log = get_logger()


async def load_stores(settings: Settings, driver: Driver) -> tuple[Stores, list[StoredVm]]:
    """The VMs and layers there are; what was half done is finished or undone."""
    directory, durable = settings.data_dir, settings.durability == "power"
    layers = LayerStore(directory / "layers", driver.disk_owner(), durable=durable)
    for complaint in await asyncio.to_thread(layers.load):
        log.error("layer_damaged", detail=complaint)
    store = VmStore(directory / "vms", driver.disk_owner(), durable=durable)
    found, complaints = await asyncio.to_thread(store.load, layers)
    for complaint in complaints:
        log.error("vm_unreadable", detail=complaint)
    return Stores(store, layers), found
