"""The time machine: states of VMs kept, gone back to, and branched from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple

from mulligan.engine.past.entries import after_last_success, start_of, when
from mulligan.engine.past.lineage import Lineage
from mulligan.engine.past.maintenance import Maintenance
from mulligan.engine.past.moments import Moments, with_memory
from mulligan.engine.past.undone import taken_back
from mulligan.engine.vms import disk
from mulligan.engine.vms.kernels import without_secrets
from mulligan.engine.vms.replies import read_diff
from mulligan.engine.vms.room import make_room, recall_writer
from mulligan.engine.vms.store import new_id
from mulligan.engine.vms.vm import Vm
from mulligan.errors import (
    ExecutionFailed,
    ExecutionNotFound,
    HistoryError,
    InternalError,
    RollbackFailed,
    SnapshotFailed,
    SnapshotNotFound,
    ValidationFailed,
    VmExecutionError,
)
from mulligan.guest.root import IMAGE, LAYERS
from mulligan.history import HistoryStore
from mulligan.history.records import REFUSED
from mulligan.models import (
    CommandHistoryEntry,
    DiffResponse,
    HistoryQueryRequest,
    KernelState,
    RollbackResponse,
    RollbackTo,
    Snapshot,
    SnapshotCreateRequest,
    utc_now,
)
from mulligan.telemetry import staged

LOOK_BACK = 1000
DEEPEST, MOST_RECENT = 64, 256
MANUAL, EXECUTION = "manual", "execution"
RESTORE_POINT, PRE_ROLLBACK, FILES = "restore_point", "pre_rollback", "files"


class Point(NamedTuple):
    """A restore point: a snapshot, and where history does not list it yet, all of it."""

    snapshot_id: str
    unrecorded: tuple[Snapshot, str | None] | None


class TimeMachine:
    """Keeps and restores states. Methods marked *steady* are for the holder of ``vm.steady()``.

    None of them may be cancelled half-way: callers run them as tasks of their own.

    Args:
        history: where snapshots are listed.
        maintenance: told of stacks that grow.
        clean: takes an agent's secrets out of a text.
    """

    def __init__(
        self, history: HistoryStore, maintenance: Maintenance, clean: Callable[[str, str], str]
    ) -> None:
        self._history = history
        self._clean = clean
        self._maintenance = maintenance
        self.moments = Moments(maintenance)
        self._lineage = Lineage()
        self._recent: dict[str, tuple[Snapshot, str | None]] = {}  # as they are in the history

    # Keeping

    @staged("restore_point")
    async def restore_point(self, vm: Vm, kind: str = RESTORE_POINT) -> Point | None:
        """*Steady.* A snapshot of the present, for an execution that is about to start.

        With the kind ``FILES`` it is for files that are about to be changed.

        Returns:
            It; the caller has it recorded, or calls ``let_go``. None where something runs in the VM
            already and it would take too long to copy what was written since the last one.

        Raises:
            SnapshotFailed: it could not be made.
        """
        await self._flatten_deep(vm)
        await recall_writer(self._history, vm)
        if not await disk.freeze(vm):
            with vm.stores.layers.held(vm.record.agent_id):  # until its row is there
                attended = vm.terminals.issuperset(vm.running)  # somebody sits there, and waits
                copied = await disk.copy(vm, small=True) if attended else None
                if copied is None:
                    return None
                return Point((await self._add(vm, copied, kind, None, None)).id, None)
        await make_room(self._maintenance, vm)
        present = self._lineage.present(vm)
        if present is not None and kind == RESTORE_POINT:
            return Point(present, None)
        layer = vm.state.base
        snapshot = await self._take(vm, layer, kind, None, None)
        return Point(snapshot.id, (snapshot, layer))

    async def pin(self, vm: Vm) -> bool:
        """*Steady.* Makes sure of the state a VM is in, without keeping it; false where it cannot.

        Raises:
            SnapshotFailed: it could not be done.
        """
        await self._flatten_deep(vm)
        return await disk.freeze(vm)

    async def record(self, vm: Vm, point: Point) -> None:
        """*Steady.* Lists the snapshot of a restore point, if it is not listed yet.

        Raises:
            SnapshotFailed: it could not be done; the snapshot is let go.
        """
        if point.unrecorded is None:
            return
        try:
            await asyncio.to_thread(self._history.add_snapshot, *point.unrecorded)
        except HistoryError as error:
            await self.let_go(vm, [point.snapshot_id])
            detail = f"it could not be recorded: {error.detail}"
            raise SnapshotFailed(detail, remedy=error.remedy) from None

    @staged("snapshot")
    async def snapshot(
        self,
        vm: Vm,
        kind: str,
        request: SnapshotCreateRequest | None = None,
        execution_id: str | None = None,
    ) -> Snapshot:
        """*Steady.* Keeps the state a VM is in: at once where nothing runs, as a copy else.

        Raises:
            SnapshotFailed: it could not be made; the VM is as it was.
        """
        await self._flatten_deep(vm)
        await recall_writer(self._history, vm)
        if await disk.freeze(vm):
            snapshot = await self._add(vm, vm.state.base, kind, request, execution_id)
            moment = await self.moments.save(vm, paused=False)
            return await self.moments.attach(vm, moment, snapshot, None)
        with vm.stores.layers.held(vm.record.agent_id):  # until its row is there
            layer, moment = await self.moments.copied(vm)
            snapshot = await self._add(vm, layer, kind, request, execution_id)
            return await self.moments.attach(vm, moment, snapshot, layer)

    async def _add(
        self,
        vm: Vm,
        layer: str | None,
        kind: str,
        request: SnapshotCreateRequest | None,
        execution_id: str | None,
    ) -> Snapshot:
        snapshot = await self._take(vm, layer, kind, request, execution_id)
        await self.record(vm, Point(snapshot.id, (snapshot, layer)))
        return snapshot

    async def _take(
        self,
        vm: Vm,
        layer: str | None,
        kind: str,
        request: SnapshotCreateRequest | None,
        execution_id: str | None,
    ) -> Snapshot:
        """Keeps the memory of kernels beside a layer: with that it is a snapshot."""
        snapshot_id = new_id("snap")
        try:
            kernels = await vm.kernels.checkpoint(vm.connection, snapshot_id)
        except ExecutionFailed as error:
            raise SnapshotFailed(str(error.detail)) from None
        self._lineage.begins(vm, layer, snapshot_id)
        self._maintenance.look_at(vm.record.agent_id, vm.record.id, layer)
        snapshot = Snapshot(
            id=snapshot_id,
            vm_id=vm.record.id,
            agent_id=vm.record.agent_id,
            name=request.name if request else None,
            description=request.description if request else None,
            kind=kind,
            created_at=utc_now(),
            execution_id=execution_id,
            kernels=without_secrets(vm.record.agent_id, kernels, self._clean),
        )
        self._recent[snapshot_id] = (snapshot, layer)
        if len(self._recent) > MOST_RECENT:
            del self._recent[next(iter(self._recent))]
        return snapshot

    async def _flatten_deep(self, vm: Vm) -> None:
        """A stack must fit into the options of one mount, however busy the background is."""
        base = vm.state.base
        if base is None or len(vm.stores.layers.stack(vm.record.agent_id, base)) < DEEPEST:
            return
        try:
            await self._maintenance.flatten(vm.record.agent_id, base)
        except (VmExecutionError, OSError) as error:
            raise SnapshotFailed(f"old layers could not be merged: {error}") from None

    def forget(self, vm_id: str) -> None:
        """A VM is gone."""
        self._lineage.forget(vm_id)
        for each, (snapshot, _) in list(self._recent.items()):
            if snapshot.vm_id == vm_id:
                del self._recent[each]

    async def let_go(self, vm: Vm, snapshots: list[str]) -> None:
        """*Steady.* Snapshots of a VM are gone, and the memory of kernels kept for them."""
        self._lineage.forget(vm.record.id, snapshots)
        for each in snapshots:
            self._recent.pop(each, None)
        with contextlib.suppress(ExecutionFailed):  # the VM is gone, and all memory with it
            await vm.kernels.drop(vm.connection, snapshots)
        await self.moments.drop(vm, snapshots)

    # Finding

    async def find(self, vm: Vm, snapshot_id: str) -> tuple[Snapshot, str | None]:
        """A snapshot of a VM, and its layer.

        Raises:
            SnapshotNotFound: the VM has no such snapshot.
        """
        found = self._recent.get(snapshot_id)
        if found is None:
            found = await asyncio.to_thread(self._history.get_snapshot, snapshot_id[:200])
        if found is None or found[0].vm_id != vm.record.id:
            raise SnapshotNotFound(
                snapshot_id[:100],
                field="snapshot_id",
                remedy="mulligan snapshot ls shows those there are",
            )
        return found

    async def before(self, vm: Vm, execution_id: str) -> str:
        """The snapshot an execution of a VM started from.

        Raises:
            ExecutionNotFound: the VM has no such execution.
            RollbackFailed: it has none.
        """
        entry = await asyncio.to_thread(self._history.get, execution_id[:200])
        if entry is None or entry.vm_id != vm.record.id:
            raise ExecutionNotFound(
                f"no execution {execution_id[:100]} in that VM",
                field="execution_id",
                remedy="mulligan history shows those there are",
            )
        return start_of(entry)

    async def _target(self, vm: Vm, to: RollbackTo) -> str | None:
        """The snapshot a rollback goes to; None for the present."""
        named = [to.snapshot_id is not None, to.execution_id is not None, to.last_success]
        if sum(named) > 1:
            raise ValidationFailed(
                "more than one place to go back to is named",
                field="snapshot_id",
                remedy="name one of snapshot_id, execution_id and last_success",
            )
        if to.snapshot_id is not None:
            return to.snapshot_id
        if to.execution_id is not None:
            return await self.before(vm, to.execution_id)
        request = HistoryQueryRequest(vm_id=vm.record.id, limit=LOOK_BACK)
        found = await asyncio.to_thread(self._history.query, request)
        entries = [each for each in found.entries if each.outcome != REFUSED]
        if to.last_success:
            return after_last_success(entries)
        return await self._before_last_change(vm, entries)

    async def _before_last_change(self, vm: Vm, entries: list[CommandHistoryEntry]) -> str:
        """Before the last execution or change of files; or an earlier one, if it is there."""
        kept = await asyncio.to_thread(self._history.list_snapshots, vm.record.id)
        changes = [each for each in kept if each.kind == FILES]
        if not entries and not changes:
            raise RollbackFailed(
                f"{vm.record.id} has no history to go back in", remedy="name a snapshot"
            )
        unchanged = not await disk.changed(vm)
        every: list[CommandHistoryEntry | Snapshot] = [*entries, *changes]
        for each in sorted(every, key=when, reverse=True):
            start = each.id if isinstance(each, Snapshot) else start_of(each)
            found = await asyncio.to_thread(self._history.get_snapshot, start)
            if found is None or (unchanged and self._lineage.is_present(vm, *found)):
                continue
            if self._lineage.led_here(vm, *found):
                return start  # and not what an earlier rollback has undone already
        raise RollbackFailed(
            f"{vm.record.id} is as it was before its first execution that history has",
            remedy="to go somewhere else, name a snapshot: mulligan snapshot ls has them",
        )

    # Going back

    async def rollback(self, vm: Vm, to: RollbackTo) -> RollbackResponse:
        """*Steady.* Takes a VM back. What runs in it is cancelled.

        Raises:
            SnapshotNotFound, RollbackFailed: the VM is as it was.
        """
        target = await self._target(vm, to)
        if target is None:
            target = (await self.snapshot(vm, PRE_ROLLBACK)).id
        snapshot, layer = await self.find(vm, target)
        before = None
        if to.create_pre_rollback_snapshot:
            before = (await self.snapshot(vm, PRE_ROLLBACK)).id
        gone = await taken_back(self._history, vm, self._lineage, (snapshot, layer))
        done = await self.go_to(vm, snapshot, layer, before)
        return done.model_copy(update={"undone_executions": gone})

    @staged("rollback")
    async def go_to(
        self, vm: Vm, snapshot: Snapshot, layer: str | None, before: str | None = None
    ) -> RollbackResponse:
        """*Steady.* The step itself. See ``rollback``."""
        went = await self.moments.go_to(vm, snapshot.id)
        if went is not None:
            cancelled, layer = went.cancelled, vm.state.base
            kernels = with_memory(snapshot).kernels
        else:
            cancelled, kernels = await self._go_to_files(vm, snapshot, layer)
        self._lineage.stands(vm, layer, snapshot.id, kernels)
        self._maintenance.look_at(vm.record.agent_id)
        return RollbackResponse(
            vm_id=vm.record.id,
            restored_snapshot_id=snapshot.id,
            pre_rollback_snapshot_id=before,
            rolled_back_at=utc_now(),
            success=True,
            kernels=without_secrets(vm.record.agent_id, kernels, self._clean),
            cancelled_executions=cancelled,
        )

    async def _go_to_files(
        self, vm: Vm, snapshot: Snapshot, layer: str | None
    ) -> tuple[list[str], list[KernelState]]:
        """And to the kernels in the VM: who was cancelled, and what became of each."""
        old = vm.state.generation
        try:
            cancelled = await disk.restore(vm, layer)
        except (OSError, InternalError) as error:
            raise RollbackFailed(str(error)) from None
        except ExecutionFailed:
            cancelled = []  # its processes are gone; it boots with the disk that was asked for
        try:
            kernels = await vm.kernels.revive(vm.connection, snapshot.id, snapshot.kernels)
        except ExecutionFailed:
            kernels = (await vm.kernels.present(None, [snapshot]))[0].kernels
        vm.background.do(vm.stores.vms.discard_generation, vm.record.id, old)
        return cancelled, kernels

    # Looking into

    async def diff(
        self, vm: Vm, old: tuple[str, str | None], new: tuple[str, str | None]
    ) -> DiffResponse:
        """*Steady.* What differs between two snapshots, given as (id, layer).

        Raises:
            HistoryError: it could not be found out.
        """
        try:
            with vm.stores.layers.held(vm.record.agent_id) as stack_of:
                stacks = [[f"{LAYERS}/{tree}" for tree in stack_of(each[1])] for each in (old, new)]
                arguments: dict[str, object] = {"op": "diff", "image": IMAGE}
                arguments |= {"old": stacks[0], "new": stacks[1]}
                printed = await disk.run_job(await vm.up(), arguments)
            entries, truncated = await asyncio.to_thread(read_diff, printed)
        except (ExecutionFailed, ValueError) as error:
            raise HistoryError(f"what changed could not be found out: {error}") from None
        return DiffResponse(
            vm_id=vm.record.id,
            old_snapshot_id=old[0],
            new_snapshot_id=new[0],
            entries=entries,
            truncated=truncated,
        )
