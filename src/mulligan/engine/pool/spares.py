"""Spare VMs: booted ahead, with a disk of their own, and given to whoever asks next.

What a VM has mounted follows its directories when they are renamed, so a spare one is made in
directories that are nobody's, and becomes somebody's by two renames: of its own directory to that
of a VM, and of an empty family of layers to its agent's. Nothing is mounted, moved or copied then.
An agent that has layers already cannot be given one of those; the spare ones of its own have its
family mounted.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mulligan.engine.executions.programs import rehearsal
from mulligan.engine.images.images import Images
from mulligan.engine.vms.store import NEW, Stores, VmRecord, new_id
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ExecutionFailed, VmExecutionError
from mulligan.log import get_logger
from mulligan.models import utc_now
from mulligan.settings import Settings
from mulligan.telemetry import count

log = get_logger()

NOBODY = ""  # no agent is called so
STEP_S = 0.05
STEPS = 40
FIRST_USE_S = 0.1
RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


class Key(NamedTuple):
    """A kind of spare VM: of a type, and of an agent or of nobody."""

    vm_type: str
    agent_id: str | None


@dataclass(frozen=True)
class Spare:
    """A spare VM, the id it will have, and its family of layers where it has one of its own."""

    vm: Vm
    vm_id: str
    family: Path | None


Give = Callable[[Spare, VmRecord], None]


class Spares:
    """Keeps as many spare VMs as the settings want.

    Args:
        settings: ``warm`` of each VM type, ``vm_pool_size`` of each agent.
        driver: names the driver of a type.
        stores: where VMs and layers are kept.
        build: makes a VM of a record and the directory of its layers; it does not boot it.
        owned: how many VMs each agent has.
        busy: whether executions want all there is of the machine.
        full: whether no more VMs may be up.
        images: what VMs of each type are made of.
    """

    def __init__(
        self,
        settings: Settings,
        driver: Callable[[str], str],
        stores: Stores,
        build: Callable[[VmRecord, Path, str], Vm],
        owned: Callable[[], Counter[str]],
        busy: Callable[[], bool],
        full: Callable[[], bool],
        images: Images,
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._stores = stores
        self._build = build
        self._owned = owned
        self._busy = busy
        self._full = full
        self._images = images
        self._kept: dict[Key, deque[Spare]] = {}
        self.giving: Counter[str] = Counter()  # VMs that are about to be an agent's
        self._task: asyncio.Task[None] | None = None
        self._discards: set[asyncio.Task[None]] = set()
        self._retry_at = 0.0
        self._retry_s = RETRY_S
        self._given_at = -FIRST_USE_S
        self._closed = False

    def ready(self, vm_type: str, agent_id: str | None) -> int:
        """How many of a kind wait for somebody."""
        return len(self._kept.get(Key(vm_type, agent_id), ()))

    # Making

    def tend(self) -> None:
        """Has what is missing made in the background, and what is too much or dead removed."""
        if self._closed:
            return
        wanted = self._wanted()
        for key, spares in list(self._kept.items()):
            for spare in list(spares):
                if (why := self._useless(spare, key.vm_type)) is not None:
                    log.warning("spare_vm_replaced", vm_id=spare.vm_id, reason=why)
                    spares.remove(spare)
                    self._discard(spare)
            while len(spares) > wanted[key]:
                self._discard(spares.popleft())
            if not spares:
                del self._kept[key]
        if self._task is not None and not self._task.done():
            return
        if self._missing() is not None and time.monotonic() >= self._retry_at:
            # In a context of its own: it belongs to nobody's request.
            self._task = asyncio.create_task(self._fill(), context=contextvars.Context())

    def _useless(self, spare: Spare, vm_type: str) -> str | None:
        """Why nobody can have a spare VM; None where somebody can."""
        if spare.vm.connection is None:
            return "it ended"
        if spare.vm.record.image != self._images.digest_of_type(vm_type):
            return "its type has another image now"
        return None

    def _wanted(self) -> Counter[Key]:
        settings = self._settings
        wanted = Counter(
            {
                Key(name, None): each.warm
                for name, each in settings.vm_types.items()
                if each.warm and self._images.digest_of_type(name) != ""
            }
        )
        if settings.vm_pool_size > 1:
            for agent_id, own in self._owned().items():
                if own < settings.vm_pool_size:
                    key = Key(settings.default_vm_type, agent_id)
                    wanted[key] = settings.vm_pool_size - own
        return wanted

    def _missing(self) -> Key | None:
        for key, number in self._wanted().items():
            if len(self._kept.get(key, ())) < number:
                return key
        return None

    async def _fill(self) -> None:
        """Makes one after the other, and lets executions go first."""
        while not self._closed and (key := self._missing()) is not None and not self._full():
            await self._let_go_first(key)
            for _ in range(STEPS):
                if not self._busy():
                    break
                await asyncio.sleep(STEP_S)  # executions go first, but not for ever
            try:
                spare = await self._make(key)
            except (VmExecutionError, OSError) as error:
                log.warning("spare_vm_not_made", vm_type=key.vm_type, error=str(error))
                self._retry_at = time.monotonic() + self._retry_s
                self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)
                return
            self._retry_s = RETRY_S
            if self._closed or len(self._kept.get(key, ())) >= self._wanted()[key]:
                self._discard(spare)  # it is not wanted any more
            else:
                self._kept.setdefault(key, deque()).append(spare)

    async def _let_go_first(self, key: Key) -> None:
        """Who has just been given a VM is about to use it: unless others may come to nothing."""
        for _ in range(STEPS):
            if not self._kept.get(key) or time.monotonic() >= self._given_at + FIRST_USE_S:
                break
            await asyncio.sleep(STEP_S)

    async def _make(self, key: Key) -> Spare:
        vm_id = new_id("vm")
        record = VmRecord(
            id=f"{NEW}{vm_id}",
            name=vm_id,
            agent_id=key.agent_id or NOBODY,
            vm_type=key.vm_type,
            driver=self._driver(key.vm_type),
            created_at=utc_now(),
            image=self._images.of_type(key.vm_type).digest,
        )
        layers = self._stores.layers
        family = layers.prepare(record.id) if key.agent_id is None else None
        directory = family or layers.family(record.agent_id)
        spare = Spare(self._build(record, directory, vm_id), vm_id, family)
        try:
            await asyncio.to_thread(self._stores.vms.prepare, record.id)
            await spare.vm.start()
            await self._rehearse(spare.vm)
        except BaseException:
            self._discard(spare)
            raise
        return spare

    async def _rehearse(self, vm: Vm) -> None:
        """Runs a program that does nothing: what the first one costs more has been paid then.

        Raises:
            ExecutionFailed: it did not run.
        """
        connection = vm.connection
        if connection is None:
            raise ExecutionFailed("it ended as soon as it was up")
        result = await connection.run(rehearsal(vm.spec.image))
        if result.reason != "exit" or result.status != 0:
            why = result.message or f"{result.reason}, status {result.status:#x}"
            raise ExecutionFailed(f"it does not run a program: {why}")

    def _discard(self, spare: Spare) -> None:
        task = asyncio.create_task(self._remove(spare), context=contextvars.Context())
        self._discards.add(task)
        task.add_done_callback(self._discards.discard)

    async def _remove(self, spare: Spare) -> None:
        await spare.vm.close()
        try:
            await asyncio.to_thread(self._stores.vms.discard, spare.vm.record.id)
            if spare.family is not None:
                await asyncio.to_thread(self._stores.layers.discard, spare.family)
        except OSError as error:
            log.warning("spare_vm_not_removed", vm_id=spare.vm_id, error=str(error))

    # Giving

    async def lease(
        self,
        record: VmRecord,
        give: Give,
        *,
        first: Callable[[], bool],
    ) -> Vm | None:
        """A spare VM that is up and answers, as the one of a record; its id is another.

        Args:
            record: of the VM that is asked for; it has nothing that its type has not.
            give: makes a VM the one of a record, which is on disk by then.
            first: whether the record's agent has no VM.

        Returns:
            None where there is none for it.
        """
        found = await self._lease(record, give, first)
        count("pool", result="miss" if found is None else "hit")
        self._given_at = time.monotonic()
        self.tend()
        return found

    async def _lease(
        self,
        record: VmRecord,
        give: Give,
        first: Callable[[], bool],
    ) -> Vm | None:
        for key in (Key(record.vm_type, record.agent_id), Key(record.vm_type, None)):
            while spares := self._kept.get(key):
                spare = spares.popleft()
                if spare.vm.record.image != record.image or not await self._answers(spare):
                    self._discard(spare)
                    continue
                if self._closed:
                    self._discard(spare)
                    return None
                if spare.family is not None and not (
                    first()
                    and not self.giving[record.agent_id]
                    and self._stores.layers.adopt(spare.family, record.agent_id)
                ):
                    self._kept.setdefault(key, deque()).appendleft(spare)
                    break  # the agent has layers, which this one could not see
                try:
                    return await self._give(spare, record, give)
                except OSError as error:
                    log.warning("spare_vm_not_given", vm_id=spare.vm_id, error=str(error))
                    self._discard(spare)
        return None

    async def _answers(self, spare: Spare) -> bool:
        connection = spare.vm.connection
        try:
            if connection is not None:
                await connection.ping(self._settings.pool.ping_seconds)
                return True
            why = "it ended"
        except ExecutionFailed as error:
            why = str(error.detail)
        log.warning("spare_vm_replaced", vm_id=spare.vm_id, reason=why)
        return False

    async def _give(self, spare: Spare, record: VmRecord, give: Give) -> Vm:
        own = record.model_copy(update={"id": spare.vm_id})
        vms, name = self._stores.vms, spare.vm.record.id
        self.giving[own.agent_id] += 1
        try:
            if vms.quick:
                vms.adopt(name, own)
            else:
                await asyncio.to_thread(vms.adopt, name, own)
            give(spare, own)
        finally:
            self.giving[own.agent_id] -= 1
            self.giving += Counter()  # forgets those with none
        return spare.vm

    # Ending

    async def evict(self) -> bool:
        """Ends one that nobody has asked for, to make room; false where there is none."""
        for spares in self._kept.values():
            if spares:
                spare = spares.popleft()
                self._discard(spare)
                await spare.vm.stop()
                return True
        return False

    def forget(self, agent_id: str) -> None:
        """An agent has no VM any more: it needs no spare ones."""
        for key in [key for key in self._kept if key.agent_id == agent_id]:
            for spare in self._kept.pop(key):
                self._discard(spare)

    async def settle(self) -> None:
        """Waits until none is being made or removed."""
        while under_way := {
            each for each in (*self._discards, self._task) if each and not each.done()
        }:
            await asyncio.wait(under_way)

    async def close(self) -> None:
        """Ends all of them, and the making of more."""
        self._closed = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
        for spares in self._kept.values():
            for spare in spares:
                self._discard(spare)
        self._kept.clear()
        while self._discards:
            await asyncio.wait(self._discards)


def cores() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0))
