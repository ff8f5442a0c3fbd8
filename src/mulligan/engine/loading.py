"""What an engine finds on disk when it opens."""

from __future__ import annotations

import asyncio

from mulligan.drivers.interface import Driver
from mulligan.engine.vms.store import StoredVm, Stores, VmStore
from mulligan.history import HistoryStore
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


def history_of(settings: Settings) -> HistoryStore:
    """The history of a data directory, not yet open."""
    return HistoryStore(
        settings.data_dir / "history",
        url=settings.database_url,
        durability=settings.durability,
        persist=settings.history.persist_history,
    )


async def open_history(history: HistoryStore, stores: Stores) -> None:
    """Opens it, and has it forget what is of VMs that are gone.

    Raises:
        ConfigError, HistoryError: it cannot be opened.
    """
    lost = await asyncio.to_thread(history.open)
    if lost:
        log.warning("executions_lost", execution_ids=lost)
    await asyncio.to_thread(history.forget_all_but, stores.vms.ids())
