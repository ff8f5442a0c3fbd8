"""The memory of whole VMs beside snapshots: all that ran goes on from there, also in forks.

::

    <data_dir>/vms/<id>/moments/<snapshot>/moment.json  what it belongs to
    <data_dir>/vms/<id>/moments/<snapshot>/             and what the driver wrote of it

Of VMs whose type keeps memory, where the driver can have another VM go on from it. It is of the
snapshots that are asked for, and not of those before every execution: it is all there is in the
VM's machine. Going on from it is going on from memory that was kept (``engine.vms.kept``), on a
disk that is made to be what it was.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr, ValidationError

from mulligan.engine.past.maintenance import Maintenance
from mulligan.engine.pool.rest import is_quiet
from mulligan.engine.vms import disk
from mulligan.engine.vms.kept import OTHERS, Note
from mulligan.engine.vms.kernels import KEPT
from mulligan.engine.vms.state import Scratch, VmState, scratch_of
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ExecutionFailed, VmExecutionError
from mulligan.layers.directories import remove_tree, replace_file
from mulligan.layers.stacks import DamagedLayer
from mulligan.log import get_logger
from mulligan.models import Snapshot

log = get_logger()

DIRECTORY, NOTE = "moments", "moment.json"
MOST_KEPT = 8  # of a VM; each may take as much of the disk as its machine has memory
ALL = "all"
VOID = "layers it was on were merged since, or part of it is gone"


class Moment(BaseModel):
    """What the memory of a snapshot belongs to.

    Attributes:
        note: as of memory that is kept.
        upper: the layer that is a copy of what the VM wrote above ``note.base``; None: nothing.
        scratch: what was in its overlay's scratch directory.
        files: what the driver wrote, with their sizes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    note: Note
    upper: StrictStr | None = None
    scratch: list[Scratch]
    files: dict[StrictStr, StrictInt] = {}


class Went(NamedTuple):
    """A VM went to a moment; these executions were cancelled."""

    cancelled: list[str]


class Moments:
    """Keeps and brings back memory. All of it is for the holder of ``vm.steady()``.

    Args:
        maintenance: copies trees that programs made.
    """

    def __init__(self, maintenance: Maintenance) -> None:
        self._maintenance = maintenance

    async def save(self, vm: Vm, *, paused: bool) -> Moment | None:
        """Keeps the memory of a VM on the disk as it is, for ``attach``.

        Args:
            vm: the VM.
            paused: whether its agent has brought its programs to a halt.

        Returns:
            It; None where nothing lives in the VM, or memory is not to be kept, or could not.
        """
        if vm.kept is None or vm.driver.capabilities.memory != ALL or vm.machine is None:
            return None
        if vm.running or (not paused and await is_quiet(vm)):
            return None  # an execution's end would be told to nobody
        try:
            place = vm.stores.vms.disk(vm.record.id) / str(vm.state.generation)
            scratch = await asyncio.to_thread(scratch_of, place)
            return Moment(note=await vm.kept.save(paused=paused), scratch=scratch)
        except (ExecutionFailed, OSError) as error:
            log.warning("memory_not_kept", vm_id=vm.record.id, reason=str(error))
            return None

    async def copied(self, vm: Vm) -> tuple[str | None, Moment | None]:
        """A layer that is a copy of the disk, with the memory of that moment.

        Raises:
            SnapshotFailed: it could not be copied.
        """
        moments: list[Moment | None] = []

        async def save() -> None:
            moments.append(await self.save(vm, paused=True))

        layer = await disk.copy(vm, meanwhile=save)
        return layer, next(iter(moments), None)

    async def attach(
        self, vm: Vm, moment: Moment | None, snapshot: Snapshot, upper: str | None
    ) -> Snapshot:
        """Has a snapshot keep the memory that was saved with it; ``upper`` as for ``Moment``.

        Returns:
            The snapshot, as it is then.
        """
        if moment is None:
            return snapshot
        moment = moment.model_copy(update={"upper": upper})
        try:
            await asyncio.to_thread(self._attach, vm, moment, snapshot.id)
        except OSError as error:
            log.warning("memory_not_kept", vm_id=vm.record.id, reason=str(error))
            return snapshot
        return with_memory(snapshot)

    def _attach(self, vm: Vm, moment: Moment, snapshot_id: str) -> None:
        assert vm.kept is not None
        place = _place(vm)
        place.mkdir(0o700, exist_ok=True)
        target = place / snapshot_id
        (vm.kept.directory() / moment.note.name).rename(target)
        files = {each.name: each.stat().st_size for each in target.iterdir()}
        moment = moment.model_copy(update={"files": files})
        replace_file(target / NOTE, moment.model_dump_json(), durable=False)
        found = sorted(place.iterdir(), key=lambda each: each.stat().st_mtime_ns)
        of_use = [each for each in found if _of(vm, each.name) is not None]
        for each in set(found) - set(of_use[-MOST_KEPT:]):
            remove_tree(each)

    async def drop(self, vm: Vm, snapshots: Iterable[str]) -> None:
        """Snapshots are gone, and with them their memory, whatever the VM's type is now."""
        for each in snapshots:
            path = _place(vm) / each
            if await asyncio.to_thread(path.exists):
                await asyncio.to_thread(remove_tree, path)

    async def go_to(self, vm: Vm, snapshot_id: str) -> Went | None:
        """Has a VM go on from the memory of one of its snapshots.

        Returns:
            None where there is none, or it could not: the VM is as it was, but it may be down.
        """
        if vm.kept is None or await asyncio.to_thread(_usable, vm, snapshot_id) is None:
            return None
        cancelled = await vm.cancel_all("the VM was rolled back")
        if not await self.plant(vm, vm, snapshot_id, vm.down):
            return None
        try:
            await vm.up()
        except VmExecutionError as error:
            log.warning("memory_not_restored", vm_id=vm.record.id, reason=str(error))
            return None
        return Went(cancelled) if vm.kept.restored else None

    async def present(self, vm: Vm, snapshots: list[Snapshot]) -> list[Snapshot]:
        """Snapshots of a VM, with what there is of memory by now."""
        if vm.kept is None:
            return snapshots
        there = await asyncio.to_thread(_all_there, vm)
        return [with_memory(each) if each.id in there else each for each in snapshots]

    async def plant(
        self,
        vm: Vm,
        owner: Vm,
        snapshot_id: str,
        down: Callable[[], Awaitable[None]] | None = None,
    ) -> bool:
        """Has a VM boot from the memory of a snapshot, its own or its parent's.

        Args:
            vm: the VM.
            owner: whose snapshot it is.
            snapshot_id: of it.
            down: brings the VM down, where it is up; that goes on beside what else takes time.

        Returns:
            Whether there is such memory, and it could be done; else the VM is as it was, or down.
        """
        if vm.kept is None:
            return False
        moment = await asyncio.to_thread(_usable, owner, snapshot_id)
        if moment is None:
            return False
        note, stores = moment.note, vm.stores
        content: Path | None = None
        try:
            with stores.layers.held(vm.record.agent_id) as stack_of:
                if stack_of(note.base) != note.layers:
                    raise ExecutionFailed(VOID)
                steps = [down()] if down is not None else []
                if moment.upper is not None:
                    content = _place(owner) / f".{secrets.token_hex(4)}"
                    agent_id = vm.record.agent_id
                    steps.append(self._maintenance.copied(agent_id, moment.upper, content))
                await _all(steps)
                state = VmState(
                    base=note.base, generation=note.generation, line=secrets.token_hex(4)
                )
                left = vm.state.generation
                await asyncio.to_thread(
                    stores.vms.rewind, vm.record.id, left, state, content, moment.scratch
                )
                vm.state = state
            vm.writing.restored()
            note = note.model_copy(update={"forked": vm is not owner})
            await asyncio.to_thread(vm.kept.plant, _place(owner) / snapshot_id, NOTE, note)
        except (OSError, VmExecutionError, DamagedLayer) as error:
            log.warning("memory_not_restored", vm_id=vm.record.id, reason=str(error))
            return False
        finally:
            if content is not None and content.exists():
                await asyncio.to_thread(remove_tree, content)
        return True


async def _all(steps: list[Awaitable[None]]) -> None:
    """Does all of it beside each other, each to its end; then raises what went wrong."""
    for each in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(each, BaseException):
            raise each


def _place(vm: Vm) -> Path:
    return vm.stores.vms.disk(vm.record.id).parent / DIRECTORY


def with_memory(snapshot: Snapshot) -> Snapshot:
    """A snapshot that has the memory of its whole VM."""
    kernels = [each.model_copy(update={"memory": KEPT}) for each in snapshot.kernels]
    return snapshot.model_copy(update={"whole_memory": True, "kernels": kernels})


def _all_there(vm: Vm) -> set[str]:
    """The snapshots whose memory can be gone on from."""
    try:
        found = [each.name for each in _place(vm).iterdir()]
    except FileNotFoundError:
        return set()
    return {each for each in found if _is_there(vm, each)}


def _usable(vm: Vm, snapshot_id: str) -> Moment | None:
    """The memory of a snapshot; where it is void by now that is said."""
    moment = _of(vm, snapshot_id)
    if moment is not None and _is_there(vm, snapshot_id):
        return moment
    if (_place(vm) / snapshot_id).exists():
        reason = VOID if moment is not None else OTHERS
        log.warning("memory_not_restored", vm_id=vm.record.id, reason=reason)
    return None


def _is_there(vm: Vm, snapshot_id: str) -> bool:
    """Whether memory is whole, and what it belongs to is as it was then."""
    moment = _of(vm, snapshot_id)
    if moment is None:
        return False
    place, agent_id, layers = _place(vm) / snapshot_id, vm.record.agent_id, vm.stores.layers
    try:
        if any((place / name).stat().st_size != size for name, size in moment.files.items()):
            return False
        if moment.upper is not None and not layers.has(agent_id, moment.upper):
            return False
        return layers.stack(agent_id, moment.note.base) == moment.note.layers
    except (OSError, DamagedLayer):
        return False


def _of(vm: Vm, snapshot_id: str) -> Moment | None:
    """The memory of a snapshot, where it can be gone on from."""
    if vm.kept is None:
        return None
    try:
        moment = Moment.model_validate_json((_place(vm) / snapshot_id / NOTE).read_bytes())
    except (OSError, ValidationError):
        return None
    return moment if vm.kept.fits(moment.note) else None
