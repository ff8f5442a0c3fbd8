"""What goes on in the background: old layers become one, and what nobody needs is removed."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from pathlib import Path

from mulligan.drivers.interface import BootSpec, Driver
from mulligan.engine.vms.connection import AgentConnection
from mulligan.engine.vms.disk import disk_size, run_job
from mulligan.engine.vms.state import VmState
from mulligan.engine.vms.store import Stores, VmRecord, new_id
from mulligan.engine.vms.vm import Vm
from mulligan.errors import VmExecutionError
from mulligan.guest.root import LAYERS
from mulligan.history import HistoryStore
from mulligan.images.host import HostImage
from mulligan.layers.sizes import TREE
from mulligan.layers.stacks import DamagedLayer, Merge
from mulligan.layers.store import MERGING
from mulligan.log import get_logger
from mulligan.models import utc_now

log = get_logger()

BOOT_TIMEOUT_S = 30.0
GATHER_S = 0.2
NOBODY = ""  # no agent is called so
STUCK_S = 900.0  # a merge of the largest stacks takes minutes


def layers_of(history: HistoryStore, agent_id: str) -> set[str]:
    """The layers of an agent's snapshots."""
    return {layer for owner, layer in history.referenced_layers() if owner == agent_id}


class Maintenance:
    """Looks after the layers of every agent, one agent at a time.

    Work on trees that programs made is done in a VM in which no program runs, never by the server.

    Args:
        driver, image, stores: as for the VMs of users.
        kept, used: of an agent, the layers of its snapshots, and those its VMs are stacked on with
            the trees they have mounted; as ``LayerStore.collect`` takes them.
        forgotten: removes what is left of an agent that has nothing.
    """

    def __init__(
        self,
        driver: Driver,
        image: HostImage,
        stores: Stores,
        kept: Callable[[str], set[str]],
        used: Callable[[str], tuple[set[str], set[str]]],
        forgotten: Callable[[str], None],
    ) -> None:
        self._driver = driver
        self._image = image
        self._stores = stores
        self._kept = kept
        self._used = used
        self._forgotten = forgotten
        self._wanted: dict[str, dict[str, str]] = {}
        self._task: asyncio.Task[None] | None = None
        self._merging = asyncio.Lock()
        self._busy_since: float | None = None  # by the loop's clock: with one agent's layers
        self._closed = False

    def look_at(self, agent_id: str, vm_id: str = "", top: str | None = None) -> None:
        """Has an agent's layers looked at soon.

        Args:
            agent_id: whose.
            vm_id, top: a VM whose stack may have become deep, and the layer at the top of it.
        """
        if self._closed:
            return
        tops = self._wanted.setdefault(agent_id, {})
        if top is not None:
            tops[vm_id] = top
        if self._task is None or self._task.done():
            # In a context of its own: it belongs to nobody's request.
            self._task = asyncio.create_task(self._work(), context=contextvars.Context())

    @property
    def failure(self) -> str | None:
        """What is wrong with the work in the background, in one line; None if nothing is."""
        task = self._task
        if task is None or not task.done() or task.cancelled():
            since = self._busy_since
            busy_s = asyncio.get_running_loop().time() - since if since is not None else 0.0
            return f"it has been at one agent for {busy_s:.0f} s" if busy_s > STUCK_S else None
        error = task.exception()
        return f"it ended with {type(error).__name__}" if error is not None else None

    async def try_boot(self) -> None:
        """Boots a VM without a disk, and ends it.

        Raises:
            VmExecutionError: it did not come up.
        """
        vm = self._vm(NOBODY)
        try:
            await vm.start()
        finally:
            await asyncio.shield(asyncio.create_task(vm.close()))

    async def settle(self) -> None:
        """Waits until nothing is left to do."""
        while self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    async def close(self) -> None:
        """Ends the work; what is half-way is removed by the next start."""
        self._closed = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _work(self) -> None:
        while self._wanted:
            await asyncio.sleep(GATHER_S)  # many snapshots in a row are one piece of work
            agent_id, tops = self._wanted.popitem()
            self._busy_since = asyncio.get_running_loop().time()
            try:
                for top in tops.values():
                    await self.flatten(agent_id, top)
                collect = self._stores.layers.collect
                kept = functools.partial(self._kept, agent_id)
                used = functools.partial(self._used, agent_id)
                removed = await asyncio.to_thread(collect, agent_id, kept, used)
                self._forgotten(agent_id)
                if removed:
                    log.info("layers_removed", agent_id=agent_id, count=removed)
            except (OSError, VmExecutionError) as error:
                log.error(  # noqa: TRY400  (where from is no news)
                    "layers_not_tidied", agent_id=agent_id, error=str(error)
                )
            finally:
                self._busy_since = None

    async def flatten(self, agent_id: str, top: str) -> None:
        """Merges what is worth it of a stack.

        Raises:
            VmExecutionError, OSError: it could not be done; the stack is as it was.
        """
        async with self._merging:
            try:
                merge = self._stores.layers.mergeable(agent_id, top)
            except DamagedLayer:
                return  # its VM says so when it is needed
            if merge is not None:
                await self._flatten(agent_id, top, merge)

    async def squash(self, agent_id: str, top: str) -> None:
        """Makes one tree of all of a stack, in which only what is to be seen takes room.

        Raises:
            VmExecutionError, OSError: it could not be done; the stack is as it was.
        """
        async with self._merging:
            merge = self._stores.layers.squashable(agent_id, top)
            if merge is None:
                return
            vm = self._vm(agent_id)
            try:
                await self._merge(vm, agent_id, merge)
            finally:
                await asyncio.shield(asyncio.create_task(vm.close()))
        self.look_at(agent_id)

    async def copied(self, agent_id: str, layer: str, target: Path) -> None:
        """Copies what is in a layer, as programs of a VM may go on with it.

        Args:
            agent_id: whose it is.
            layer: its name.
            target: a path to be, on the same file system.

        Raises:
            VmExecutionError, OSError: it could not be done.
        """
        async with self._merging:
            layers = self._stores.layers
            vm = self._vm(agent_id)
            try:
                async with vm.steady():
                    connection = await vm.up()
                await asyncio.to_thread(layers.clear_merging, agent_id, layer)
                merging = f"{layer}/{MERGING}"
                source = f"{LAYERS}/{layer}/{TREE}"
                arguments: dict[str, object] = {"op": "copy", "source": source}
                await run_job(connection, arguments | {"target": f"{LAYERS}/{merging}"})
                await asyncio.to_thread((layers.family(agent_id) / merging).rename, target)
            finally:
                await asyncio.shield(asyncio.create_task(vm.close()))

    async def measure(self, agent_id: str, trees: list[str]) -> None:
        """Counts what trees take that were not counted yet; those that are gone are passed over.

        Raises:
            VmExecutionError, OSError: it could not be done.
        """
        async with self._merging:
            layers = self._stores.layers
            family = layers.family(agent_id)
            wanted = [
                tree
                for tree in dict.fromkeys(trees)
                if layers.sizes.get(agent_id, tree) is None and (family / tree).is_dir()
            ]
            if not wanted:
                return
            vm = self._vm(agent_id)
            try:
                async with vm.steady():
                    connection = await vm.up()
                await self._count(connection, agent_id, wanted)
            finally:
                await asyncio.shield(asyncio.create_task(vm.close()))

    async def _count(self, connection: AgentConnection, agent_id: str, trees: list[str]) -> None:
        sizes = self._stores.layers.sizes
        for tree in trees:
            if sizes.get(agent_id, tree) is None:
                size = await disk_size(connection, [f"{LAYERS}/{tree}"])
                await asyncio.to_thread(sizes.set, agent_id, tree, size)

    async def _flatten(self, agent_id: str, top: str, first: Merge) -> None:
        merge: Merge | None = first
        vm = self._vm(agent_id)
        try:
            while merge is not None:
                await self._merge(vm, agent_id, merge)
                merge = self._stores.layers.mergeable(agent_id, top)
        finally:
            await asyncio.shield(asyncio.create_task(vm.close()))

    async def _merge(self, vm: Vm, agent_id: str, merge: Merge) -> None:
        async with vm.steady():
            connection = await vm.up()
        arguments: dict[str, object] = {
            "op": "merge",
            "trees": [f"{LAYERS}/{tree}" for tree in merge.trees],
            "target": f"{LAYERS}/{merge.layer}/{MERGING}",
        }
        await asyncio.to_thread(self._stores.layers.clear_merging, agent_id, merge.layer)
        await self._count(connection, agent_id, list(merge.trees))  # they may be gone soon
        await run_job(connection, arguments)
        await asyncio.to_thread(self._stores.layers.add_merged, agent_id, merge)
        await self._count(connection, agent_id, [f"{merge.layer}/{merge.directory}"])

    def _vm(self, agent_id: str) -> Vm:
        record = VmRecord(
            id=new_id("maintenance"),
            name="maintenance",
            agent_id=agent_id,
            vm_type="",
            driver=self._driver.name,
            created_at=utc_now(),
        )
        layers = self._stores.layers.family(agent_id)
        spec = BootSpec(vm_id=record.id, image=self._image, layers=layers, disk=None)
        return Vm(record, VmState(), self._driver, spec, self._stores, BOOT_TIMEOUT_S)
