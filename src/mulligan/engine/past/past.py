"""What users do with the past of VMs: history, snapshots, rollback, fork, diff."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from mulligan.engine.past.maintenance import Maintenance
from mulligan.engine.past.sizes import Sizes
from mulligan.engine.past.timemachine import MANUAL, TimeMachine
from mulligan.engine.requests.allowance import Allowance
from mulligan.engine.vms.vm import Vm
from mulligan.errors import HistoryError, SnapshotNotFound, ValidationFailed, VmExecutionError
from mulligan.history import HistoryStore
from mulligan.log import get_logger
from mulligan.models import (
    DiffResponse,
    ForkRequest,
    ForkResponse,
    HistoryQueryRequest,
    HistoryQueryResponse,
    RollbackResponse,
    RollbackTo,
    Snapshot,
    SnapshotCreateRequest,
    VmInstance,
)

log = get_logger()

MAX_FORKS = 1000
MAX_TEXT = 1000
Result = TypeVar("Result")


class Owner(Protocol):
    """Does something to its end, even if whoever asked for it is cancelled meanwhile."""

    async def __call__(self, work: Coroutine[Any, Any, Result]) -> Result: ...


class Past:
    """The time machine as users meet it; ``agent_id`` restricts a call to that agent's VMs."""

    def __init__(
        self,
        history: HistoryStore,
        machine: TimeMachine,
        maintenance: Maintenance,
        find: Callable[[str, str | None], Vm],
        owned: Owner,
        add: Callable[[Vm, str, str | None], Coroutine[Any, Any, Vm]],
        remove: Callable[[Vm], Coroutine[Any, Any, None]],
        clean: Callable[[str, str], str],
        clean_path: Callable[[str, str], str],
        enabled: Callable[[], bool],
        vms: Callable[[], Iterable[Vm]],
        allowance: Allowance,
    ) -> None:
        self._history = history
        self._machine = machine
        self._maintenance = maintenance
        self._find = find
        self._owned = owned
        self._add = add
        self._remove = remove
        self._clean = clean
        self._clean_path = clean_path
        self._enabled = enabled
        self._sizes = Sizes(history, maintenance, vms)
        self._vms = vms
        self._allowance = allowance

    async def check_stored(self, agent_id: str) -> None:
        """Refuses what would store more where an agent has all it may.

        Raises:
            TooManyRequests: it has.
        """
        if self._allowance.bounds_bytes:
            await self._owned(self._allowance.stored(agent_id, self._sizes.of_agent))

    @property
    def enabled(self) -> bool:
        """Whether there is a history."""
        return self._enabled()

    async def vm(self, vm_id: str, agent_id: str | None = None) -> VmInstance:
        """A VM, with what it takes on disk.

        Raises:
            VmNotAvailable: there is no such VM.
        """
        return await self._owned(self._sizes.of_vm(self._find(vm_id, agent_id)))

    async def history(
        self, request: HistoryQueryRequest, agent_id: str | None = None
    ) -> HistoryQueryResponse:
        """Executions of a VM, newest first.

        Raises:
            VmNotAvailable: there is no such VM.
            HistoryError: history is off, or cannot be read.
        """
        vm = self._find(request.vm_id, agent_id)
        if not self._enabled():
            raise HistoryError("history is off", remedy="set MULLIGAN_HISTORY__ENABLED=true")
        found = await asyncio.to_thread(self._history.query, request)
        entries = await self._owned(self._sizes.of_executions(vm, found.entries))
        return found.model_copy(update={"entries": entries})

    async def snapshots(self, vm_id: str, agent_id: str | None = None) -> list[Snapshot]:
        """Snapshots of a VM, newest first.

        Raises:
            VmNotAvailable: there is no such VM.
        """
        vm = self._find(vm_id, agent_id)
        found = await asyncio.to_thread(self._history.list_snapshots, vm.record.id)
        found = await vm.kernels.present(vm.connection, found)
        found = await self._machine.moments.present(vm, found)
        return await self._owned(self._sizes.of_snapshots(vm, found))

    async def snapshot(
        self, vm_id: str, request: SnapshotCreateRequest, agent_id: str | None = None
    ) -> Snapshot:
        """Keeps the state a VM is in.

        Raises:
            VmNotAvailable: there is no such VM.
            SnapshotFailed: it could not be made; the VM is as it was.
        """
        vm = self._find(vm_id, agent_id)
        for name in ("name", "description"):
            text = getattr(request, name)
            if text is not None and (len(text) > MAX_TEXT or not text.isprintable()):
                raise ValidationFailed(
                    f"{name} must be up to {MAX_TEXT} printable characters", field=name
                )
        await self.check_stored(vm.record.agent_id)
        return await self._owned(self._snapshot(vm, request))

    async def _snapshot(self, vm: Vm, request: SnapshotCreateRequest | None = None) -> Snapshot:
        async with vm.steady():
            return await self._machine.snapshot(vm, MANUAL, request)

    async def delete_snapshot(
        self, vm_id: str, snapshot_id: str, agent_id: str | None = None
    ) -> None:
        """Forgets a snapshot. What others are built on stays.

        Raises:
            VmNotAvailable, SnapshotNotFound: there is no such VM, or no such snapshot of it.
        """
        vm = self._find(vm_id, agent_id)
        await self._owned(self._delete_snapshot(vm, snapshot_id))

    async def _delete_snapshot(self, vm: Vm, snapshot_id: str) -> None:
        async with vm.steady():  # nothing is about to start from it, or to go back to it
            snapshot, _ = await self._machine.find(vm, snapshot_id)
            await asyncio.to_thread(self._history.delete_snapshot, snapshot.id)
            await self._machine.let_go(vm, [snapshot.id])
        self._maintenance.look_at(vm.record.agent_id)

    async def rollback(
        self, vm_id: str, to: RollbackTo, agent_id: str | None = None
    ) -> RollbackResponse:
        """Takes a VM back; what runs in it is cancelled.

        Raises:
            VmNotAvailable, SnapshotNotFound: there is no such VM, or no such snapshot of it.
            RollbackFailed: it could not be done; the VM is as it was.
        """
        vm = self._find(vm_id, agent_id)
        return await self._owned(self._rollback(vm, to))

    async def _rollback(self, vm: Vm, to: RollbackTo) -> RollbackResponse:
        async with vm.steady():
            done = await self._machine.rollback(vm, to)
            try:
                await vm.up()  # a stopped VM goes on from there at once
            except VmExecutionError as error:
                log.warning("vm_not_booted", vm_id=vm.record.id, error=str(error))
            return done

    async def fork(
        self, vm_id: str, request: ForkRequest, agent_id: str | None = None
    ) -> ForkResponse:
        """Makes VMs that go on from a VM's present or past; they share what is on their disks.

        Raises:
            VmNotAvailable, SnapshotNotFound: there is no such VM, or no such snapshot of it.
            ValidationFailed: ``count`` is out of range.
        """
        vm = self._find(vm_id, agent_id)
        if not 1 <= request.count <= MAX_FORKS:
            raise ValidationFailed(f"count must be between 1 and {MAX_FORKS}", field="count")
        await self.check_stored(vm.record.agent_id)
        return await self._owned(self._fork(vm, request))

    async def _fork(self, vm: Vm, request: ForkRequest) -> ForkResponse:
        agent_id = vm.record.agent_id
        have = sum(other.record.agent_id == agent_id for other in self._vms())
        with self._allowance.vms(agent_id, have, request.count):
            return await self._forked(vm, request)

    async def _forked(self, vm: Vm, request: ForkRequest) -> ForkResponse:
        snapshot_id = request.snapshot_id
        if request.execution_id is not None:
            snapshot_id = await self._machine.before(vm, request.execution_id)
        if snapshot_id is None:
            snapshot_id = (await self._snapshot(vm)).id
        async with vm.steady():
            snapshot, layer = await self._machine.find(vm, snapshot_id)
            with vm.stores.layers.held(vm.record.agent_id) as stack_of:
                stack_of(layer)  # so that it cannot go before the first stands on it
                made = await self._made(vm, layer, request.count)
                planted = [
                    await self._machine.moments.plant(each, vm, snapshot_id) for each in made
                ]
        names = ", ".join(each.name for each in snapshot.kernels)
        behind = names and not all(planted)
        notes = [f"forks have the files; memory of kernels stays behind: {names}"] if behind else []
        vms = [each.instance() for each in made]
        return ForkResponse(vm_id=vm.record.id, snapshot_id=snapshot_id, vms=vms, notes=notes)

    async def _made(self, vm: Vm, layer: str | None, count: int) -> list[Vm]:
        """So many forks, or none."""
        made: list[Vm] = []
        try:
            for number in range(1, count + 1):
                name = f"{vm.record.name}-fork-{number}"[:200]
                made.append(await self._add(vm, name, layer))
        except BaseException:
            for each in made:
                await self._remove(each)
            raise
        return made

    async def diff(
        self,
        vm_id: str,
        old: str | None = None,
        new: str | None = None,
        agent_id: str | None = None,
    ) -> DiffResponse:
        """What differs between two snapshots, or since one.

        Args:
            vm_id: the VM.
            old: a snapshot; by default the state its last execution started from.
            new: a snapshot; by default the present.
            agent_id: see the class.

        Raises:
            VmNotAvailable, SnapshotNotFound: there is no such VM, or no such snapshot of it.
        """
        vm = self._find(vm_id, agent_id)
        return await self._owned(self._diff(vm, old, new))

    async def _diff(self, vm: Vm, old: str | None, new: str | None) -> DiffResponse:
        if old is None:
            last = await asyncio.to_thread(self._history.last, vm.record.id)
            if last is None or last.snapshot_before is None:
                raise SnapshotNotFound(
                    "there is no state before the last execution to compare with",
                    field="from",
                    remedy="name a snapshot",
                )
            old = last.snapshot_before
        async with vm.steady():
            _, older = await self._machine.find(vm, old)
            if new is None:
                point = await self._machine.restore_point(vm)
                if point is not None:
                    await self._machine.record(vm, point)
                    newer_id = point.snapshot_id
                else:
                    newer_id = (await self._machine.snapshot(vm, "restore_point")).id
            else:
                newer_id = new
            _, newer = await self._machine.find(vm, newer_id)
            found = await self._machine.diff(vm, (old, older), (newer_id, newer))
        return await asyncio.to_thread(self._cleaned, vm.record.agent_id, found)

    def _cleaned(self, agent_id: str, found: DiffResponse) -> DiffResponse:
        """A diff without the secrets that may be in the files."""
        entries = []
        for each in found.entries:
            update = {"path": self._clean_path(agent_id, each.path)}
            if each.text_diff:
                update["text_diff"] = self._clean(agent_id, each.text_diff)
            entries.append(each.model_copy(update=update))
        return found.model_copy(update={"entries": entries})
