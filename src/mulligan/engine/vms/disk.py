"""What can be done with a VM's disk: keep the state it is in, and have it go on from another.

Every function here is for the holder of ``vm.steady()``. None is left half-way by a cancel: the
engine runs them to their end. On an error the VM is as it was, or, where that is said, as asked;
at worst its processes are ended, and it boots again with its disk as it should be.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mulligan.engine.vms.connection import AgentConnection
from mulligan.engine.vms.program import Program
from mulligan.engine.vms.quota import check_room
from mulligan.engine.vms.replies import MOST_DISK_BYTES, json_object
from mulligan.engine.vms.state import VmState
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ExecutionFailed, SnapshotFailed
from mulligan.guest.root import DISK
from mulligan.layers.sizes import TREE
from mulligan.log import get_logger

log = get_logger()

Result = TypeVar("Result")
SMALL_BYTES = 4 * 1024 * 1024
SMALL_ENTRIES = 1000
JOB_TIMEOUT_MS = 600_000
JOB_OUTPUT = 64 * 1024 * 1024


async def changed(vm: Vm) -> bool:
    """Whether anything was written since the disk was last frozen."""
    return await asyncio.to_thread(vm.stores.vms.changed, vm.record.id, vm.state.generation)


async def freeze(vm: Vm) -> bool:
    """Makes a layer of what was written since the last one, without copying anything.

    Afterwards ``vm.state.base`` is the state the VM is in. Where nothing was written it is that
    already.

    Returns:
        Whether that is so; false where something runs in the VM, which then is as it was.

    Raises:
        SnapshotFailed: it could not be done.
    """
    running = bool(vm.running)
    try:
        if not await _here_or_there(vm, functools.partial(_prepare, vm, look=running)):
            vm.writing.unchanged()
            return True
        if running:
            return False
        with vm.stores.layers.held(vm.record.agent_id) as stack_of:
            return await _move_and_freeze(vm, stack_of)
    except (OSError, ExecutionFailed) as error:
        raise SnapshotFailed(_reason(error)) from None


async def _move_and_freeze(vm: Vm, stack_of: Callable[[str | None], list[str]]) -> bool:
    left = vm.state.generation
    connection = vm.connection
    below: list[str] = []
    if connection is not None:
        # The VM goes on in a new generation, above the upper that is about to be a layer.
        below = stack_of(vm.state.base)
        if not await connection.move([f"{DISK}/{left}/upper", *below], left + 1, end=False):
            await asyncio.to_thread(vm.stores.vms.discard_generation, vm.record.id, left + 1)
            return False
    try:
        await _here_or_there(vm, functools.partial(_freeze, vm))
    except OSError:
        await vm.down()  # it has moved above an upper that is no layer
        raise
    vm.background.do(vm.stores.vms.settle, vm.record.id, left)
    tree = f"{vm.state.base}/{TREE}"
    vm.background.do(vm.stores.layers.sizes.write, vm.record.agent_id, tree)
    if connection is not None:
        vm.stack_in_use = [tree, *below]
        if vm.kept is not None:
            await _name_anew(vm, connection)
    return True


async def _name_anew(vm: Vm, connection: AgentConnection) -> None:
    """Has a VM go on in yet another generation, above the layer under the name it has now.

    It would do without, but not from memory that was kept: there a layer is looked for under the
    name it was found by, and that was its upper's.
    """
    stores, vm_id, left = vm.stores.vms, vm.record.id, vm.state.generation
    state = vm.state.next(vm.state.base)
    await asyncio.to_thread(stores.make_generation, vm_id, state.generation, left)
    if await connection.move(vm.stack_in_use, state.generation, end=False):
        await asyncio.to_thread(stores.set_state, vm_id, state)
        vm.state = state
        vm.background.do(stores.settle, vm_id, left)
    else:
        await asyncio.to_thread(stores.discard_generation, vm_id, state.generation)


async def _here_or_there(vm: Vm, work: Callable[[], Result]) -> Result:
    """Does something in a thread where it may wait for a disk.

    Else it takes less than the way to a thread and back.
    """
    return work() if vm.stores.vms.quick else await asyncio.to_thread(work)


def _prepare(vm: Vm, *, look: bool) -> bool:
    """Whether anything was written; if so, and not only to ``look``, makes the next generation."""
    stores, vm_id, generation = vm.stores.vms, vm.record.id, vm.state.generation
    if not stores.changed(vm_id, generation):
        return False
    if not look:
        stores.make_generation(vm_id, generation + 1, generation)
    return True


def _freeze(vm: Vm) -> None:
    """The step after which it is done; what comes then could be done by the next start as well."""
    stores, record, state = vm.stores, vm.record, vm.state
    layer = state.layer(record.id)
    upper = stores.vms.upper(record.id, state.generation)
    writing = vm.writing
    stores.layers.freeze(record.agent_id, layer, state.base, upper, writing.execution, record.image)
    vm.state = state.next(layer)
    if writing.size is not None:
        stores.layers.sizes.note(record.agent_id, f"{layer}/{TREE}", writing.size)
    writing.frozen()
    stores.vms.follow(record.id, vm.state)


async def copy(
    vm: Vm, *, small: bool = False, meanwhile: Callable[[], Awaitable[None]] | None = None
) -> str | None:
    """Makes a layer of a copy, while everything that runs in the VM is stopped where it stands.

    Args:
        vm: the VM; it goes on as it was.
        meanwhile: awaited when it was copied, before anything goes on.
        small: whether only what is copied in no time is copied at all.

    Returns:
        The layer; None where ``small`` is asked for and there is more, or a program would not halt.

    Raises:
        SnapshotFailed: it could not be done.
    """
    stores, record = vm.stores, vm.record
    name = f"copy-{secrets.token_hex(4)}"
    place = stores.vms.disk(record.id) / name
    arguments: dict[str, object] = {
        "op": "copy",
        "source": f"{DISK}/{vm.state.generation}/upper",
        "target": f"{DISK}/{name}/upper",
    }
    if small:
        arguments |= {"most_bytes": SMALL_BYTES, "most_entries": SMALL_ENTRIES}
    try:
        if vm.bounds is not None:
            check_room(vm.bounds)
        connection = await vm.up()
        await asyncio.to_thread(stores.vms.make_place, record.id, name)
        try:
            printed = await _copy(connection, arguments, meanwhile)
            if json_object(printed or b"{}").get("too_large") is True:
                return None
            layer = f"{vm.state.layer(record.id)}-{name}"
            await asyncio.to_thread(
                stores.layers.freeze,
                record.agent_id,
                layer,
                vm.state.base,
                place / "upper",
                image=record.image,
            )
        finally:
            await asyncio.to_thread(stores.vms.discard_place, record.id, name)
    except _NotHalted as error:
        if small:
            return None
        raise SnapshotFailed(_reason(error)) from None
    except (OSError, ExecutionFailed) as error:
        raise SnapshotFailed(_reason(error)) from None
    except ValueError:
        raise SnapshotFailed("the VM's agent did not say what it copied") from None
    return layer


class _NotHalted(ExecutionFailed):
    """It may wait for a disk, which no signal ends."""


async def _copy(
    connection: AgentConnection,
    arguments: dict[str, object],
    meanwhile: Callable[[], Awaitable[None]] | None,
) -> bytes:
    try:
        if not await connection.pause():
            raise _NotHalted("a program of the VM could not be stopped for the moment it takes")
        printed = await run_job(connection, arguments)
        if meanwhile is not None:
            await meanwhile()
        return printed
    finally:
        connection.resume()


async def restore(vm: Vm, layer: str | None) -> list[str]:
    """Has a VM go on from a layer, or from the image. What runs in it is ended.

    Returns:
        The executions that were cancelled.

    Raises:
        OSError, DamagedLayer: it could not be done; the VM is as it was, and nothing was ended.
        ExecutionFailed: the VM's processes could not be moved; they were ended, and the VM boots
            with its disk as asked.
    """
    state = vm.state.next(layer)
    vm.stores.layers.check_image(vm.record.agent_id, layer, vm.record.image)
    with vm.stores.layers.held(vm.record.agent_id) as stack_of:
        stack = stack_of(layer)
        await asyncio.to_thread(_prepare_restore, vm, state)
        vm.state = state
        vm.writing.restored()
        if vm.connection is not None:
            vm.stack_in_use = [*vm.stack_in_use, *stack]
    cancelled = await vm.cancel_all("the VM was rolled back")
    if vm.connection is not None:
        await vm.connection.move(stack, state.generation, end=True)
        vm.stack_in_use = stack
    return cancelled


def _prepare_restore(vm: Vm, state: VmState) -> None:
    stores, record = vm.stores, vm.record
    stores.vms.make_generation(record.id, state.generation)
    try:
        stores.vms.set_state(record.id, state)
    except OSError:
        stores.vms.discard_generation(record.id, state.generation)
        raise


async def run_job(connection: AgentConnection, arguments: dict[str, object]) -> bytes:
    """Has the agent work on trees of files; see ``guest.jobs``. Returns what it printed.

    Raises:
        ExecutionFailed: it did not work; the text is what the job said.
    """
    program = Program(
        runtime="job",
        steps=[],
        files={},
        env={},
        cwd="/",
        timeout_ms=JOB_TIMEOUT_MS,
        output_limit=JOB_OUTPUT,
        job=arguments,
    )
    result = await connection.run(program)
    if result.reason != "exit" or result.status != 0:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        raise ExecutionFailed(said[-1][:500] if said else f"the work ended with {result.reason}")
    if result.truncated:
        raise ExecutionFailed(f"there is more to say than {JOB_OUTPUT} bytes")
    return result.stdout


async def disk_size(connection: AgentConnection, trees: list[str]) -> int:
    """Bytes trees take together, as the VM counts them; each an absolute path there.

    Raises:
        ExecutionFailed: they could not be counted.
    """
    printed = await run_job(connection, {"op": "size", "trees": trees})
    try:
        found = json_object(printed).get("bytes")
    except ValueError:
        found = None
    if type(found) is not int or not 0 <= found <= MOST_DISK_BYTES:
        raise ExecutionFailed("the VM did not say how large its disk is")
    return found


def _reason(error: OSError | ExecutionFailed) -> str:
    if isinstance(error, ExecutionFailed):
        return str(error.detail)
    return f"{error.strerror}: {error.filename}" if error.filename else str(error)
