"""Looks after VMs that are up: idle ones hibernate, worn ones are renewed, forgotten ones go."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Iterable

from mulligan.engine.pool.rest import hibernate, idle_s, recycle, worn
from mulligan.engine.pool.spares import Spares
from mulligan.engine.vms.vm import Vm
from mulligan.errors import VmExecutionError
from mulligan.log import get_logger
from mulligan.settings.pool import PoolSettings

log = get_logger()

TICK_S = 1.0
SHARE = 4  # of the shortest time there is to keep


class Keeper:
    """Looks at all VMs again and again, at what is known of them without asking.

    Args:
        settings: for how long VMs may be idle.
        vms: those there are.
        spares: are tended, too.
        delete: removes a VM by its id.
    """

    def __init__(
        self,
        settings: PoolSettings,
        vms: Callable[[], Iterable[Vm]],
        spares: Spares,
        delete: Callable[[str], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._vms = vms
        self._spares = spares
        self._delete = delete
        times = (settings.idle_hibernate_seconds, settings.idle_delete_seconds)
        self._tick_s = min([TICK_S, *(each / SHARE for each in times if each)])
        self._refused: dict[str, float] = {}  # when a VM was found doing something, by its id
        self._looking: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._work(), context=contextvars.Context())

    async def close(self) -> None:
        """Looks no more. What was begun is finished."""
        self._task.cancel()
        await asyncio.wait({self._task})
        if self._looking is not None:
            await asyncio.wait({self._looking})

    async def _work(self) -> None:
        while True:
            self._spares.tend()
            # Shielded: no VM is left between two states.
            self._looking = asyncio.create_task(self.look())
            await asyncio.shield(self._looking)
            await asyncio.sleep(self._tick_s)

    async def look(self) -> None:
        """Looks at each VM once."""
        vms = list(self._vms())
        self._refused = {vm.record.id: self._refused.get(vm.record.id, 0.0) for vm in vms}
        for vm in vms:
            try:
                await self._look_at(vm)
            except (VmExecutionError, OSError) as error:  # it says so itself when it is needed
                log.warning("vm_not_looked_after", vm_id=vm.record.id, error=str(error))

    async def _look_at(self, vm: Vm) -> None:
        idle = idle_s(vm)
        settings = self._settings
        if settings.idle_delete_seconds and idle >= settings.idle_delete_seconds:
            log.info(
                "vm_expired",
                vm_id=vm.record.id,
                agent_id=vm.record.agent_id,
                idle_seconds=round(idle),
                setting="pool.idle_delete_seconds",
            )
            await self._delete(vm.record.id)
        elif vm.connection is None or idle == 0.0 or not self._due(vm):
            return
        elif settings.idle_hibernate_seconds and idle >= settings.idle_hibernate_seconds:
            if not await hibernate(vm, even_with_programs=settings.hibernate_with_programs):
                self._refused[vm.record.id] = time.monotonic()
        elif worn(vm):
            await self._renew(vm)

    async def _renew(self, vm: Vm) -> None:
        async with vm.steady():
            if vm.busy:
                return  # what comes sees to it
            if await recycle(vm):
                await vm.up()
            else:
                self._refused[vm.record.id] = time.monotonic()

    def _due(self, vm: Vm) -> bool:
        """Whether a VM that did something is to be asked again: looking costs it some time."""
        since = time.monotonic() - self._refused.get(vm.record.id, 0.0)
        return since >= max(TICK_S, self._settings.idle_hibernate_seconds / SHARE)
