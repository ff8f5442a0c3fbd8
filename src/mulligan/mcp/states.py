"""The tools of the time machine: snapshots, rollback, fork, diff, history; and VMs."""

from __future__ import annotations

from mulligan.client.latest import latest
from mulligan.errors import VmExecutionError
from mulligan.mcp import reports
from mulligan.mcp.calls import Answer, Call, told
from mulligan.mcp.inputs import Diff, Fork, History, NoInput, OfVm, RemoveVm, Rollback, TakeSnapshot
from mulligan.mcp.outputs import (
    Change,
    Changes,
    Forked,
    HistoryPage,
    Kernel,
    Past,
    Removed,
    RolledBack,
    Snapshots,
    SnapshotTaken,
    VmInfo,
    Vms,
)
from mulligan.mcp.text import clean, counted, fenced, first_line, last_line
from mulligan.models import (
    CommandHistoryEntry,
    DiffEntry,
    DiffResponse,
    ForkRequest,
    HistoryQueryRequest,
    KernelState,
    RollbackResponse,
    RollbackTo,
    Snapshot,
    SnapshotCreateRequest,
    VmInstance,
)

MOST_SNAPSHOTS = 50
MOST_CHANGES = 100
MOST_DIFF = 4000  # characters of one file's diff
MOST_DIFFS = 12_000  # of all of them
MOST_CODE = 500
MOST_TAIL = 300
SIGNS = {"added": "+", "removed": "-", "changed": "~"}


async def snapshot(call: Call, given: TakeSnapshot) -> Answer:
    """Keeps the present."""
    vm_id = await call.workspace.vm(given.vm_id)
    asked = SnapshotCreateRequest(name=given.name, description=given.description)
    taken = await call.workspace.backend.snapshot(vm_id, asked)
    data = _snapshot(taken)
    lines = [f'{taken.id} of {vm_id} taken; rollback(snapshot_id="{taken.id}") goes back to it.']
    lines += _of_kernels(data.kernels)
    return told("\n".join(lines), data)


async def snapshots(call: Call, given: OfVm) -> Answer:
    """Lists snapshots."""
    vm_id = await call.workspace.vm(given.vm_id)
    found = await call.workspace.backend.snapshots(vm_id)
    listed = [_snapshot(each) for each in found[:MOST_SNAPSHOTS]]
    left_out = len(found) - len(listed)
    ran = await latest(call.workspace.backend, vm_id)
    starts = {each.snapshot_before: each.id for each in reversed(ran)}
    lines = [f"{counted(len(found), 'snapshot')} of {vm_id}, newest first."]
    for each in listed:
        of = f" after {each.execution_id}" if each.execution_id else ""
        of += f" before {starts[each.snapshot_id]}" if each.snapshot_id in starts else ""
        named = f" {each.name!r}" if each.name else ""
        lines.append(f"{each.snapshot_id}{named} {each.kind}{of}, {each.created_at}")
    if left_out:
        lines.append(f"… and {left_out} older")
    return told("\n".join(lines), Snapshots(vm_id=vm_id, snapshots=listed, left_out=left_out))


def _snapshot(taken: Snapshot) -> SnapshotTaken:
    return SnapshotTaken(
        snapshot_id=taken.id,
        vm_id=taken.vm_id,
        name=taken.name,
        description=taken.description,
        kind=taken.kind,
        created_at=taken.created_at.isoformat(timespec="seconds"),
        execution_id=taken.execution_id,
        kernels=_kernels(taken.kernels),
    )


def _kernels(states: list[KernelState]) -> list[Kernel]:
    return [
        Kernel(
            name=each.name,
            language=each.language,
            memory=each.memory,
            notes=[clean(note) for note in each.notes],
        )
        for each in states
    ]


def _of_kernels(kernels: list[Kernel]) -> list[str]:
    lines = []
    for each in kernels:
        notes = f" ({'; '.join(each.notes)})" if each.notes else ""
        lines.append(f"Variables of {each.language} interpreter {each.name}: {each.memory}{notes}.")
    return lines


# Going back


async def rollback(call: Call, given: Rollback) -> Answer:
    """Takes a VM back, and says what that undid."""
    workspace = call.workspace
    vm_id = await workspace.vm(given.vm_id)
    entries = await latest(workspace.backend, vm_id)
    to = RollbackTo(
        snapshot_id=given.snapshot_id,
        execution_id=given.execution_id,
        last_success=given.last_success,
        create_pre_rollback_snapshot=given.keep,
    )
    done = await workspace.backend.rollback(vm_id, to)
    undone = set(done.undone_executions)
    gone = [each for each in entries if each.id in undone]
    changes, remark = await _changed(call, done)
    data = RolledBack(
        vm_id=vm_id,
        restored_snapshot_id=done.restored_snapshot_id,
        kept_snapshot_id=done.pre_rollback_snapshot_id,
        undone_executions=done.undone_executions,
        cancelled_executions=done.cancelled_executions,
        kernels=_kernels(done.kernels),
        file_changes=changes,
    )
    return told("\n".join([*_rolled_back(data, gone), *remark]), data)


async def _changed(call: Call, done: RollbackResponse) -> tuple[list[Change], list[str]]:
    """What a rollback did to files, and what there is to say about that."""
    kept = done.pre_rollback_snapshot_id
    if kept is None:
        return [], []
    try:
        found = await call.workspace.backend.diff(done.vm_id, kept, done.restored_snapshot_id)
    except VmExecutionError as error:
        return [], [f"Which files that changed could not be found out: {reports.of_error(error)}"]
    changes = _changes(found)
    lines = [f"What that did to files ({counted(len(found.entries), 'path')}):"]
    lines += [_change_line(each) for each in changes]
    if len(found.entries) > len(changes) or found.truncated:
        lines.append("… and more")
    return changes, lines if changes else ["No file differs."]


def _rolled_back(data: RolledBack, gone: list[CommandHistoryEntry]) -> list[str]:
    lines = [f"{data.vm_id} is in the state of {data.restored_snapshot_id} again."]
    if gone:
        count = counted(len(data.undone_executions), "execution")
        lines.append(f"Undone, newest first ({count}):")
        lines += [f"- {each.id} {each.language}: {first_line(each.command)}" for each in gone]
        if len(gone) < len(data.undone_executions):
            lines.append("… and older ones")
    if data.cancelled_executions:
        lines.append(f"Cancelled, for they still ran: {', '.join(data.cancelled_executions)}.")
    lines += _of_kernels(data.kernels)
    kept = data.kept_snapshot_id
    if kept is not None:
        lines.append(f'The state before is kept: rollback(snapshot_id="{kept}") undoes this.')
    return lines


# Looking


async def diff(call: Call, given: Diff) -> Answer:
    """What differs between two states."""
    vm_id = await call.workspace.vm(given.vm_id)
    found = await call.workspace.backend.diff(vm_id, given.old, given.new)
    changes = _changes(found)
    more = found.truncated or len(changes) < len(found.entries)
    data = Changes(
        vm_id=vm_id,
        old_snapshot_id=found.old_snapshot_id,
        new_snapshot_id=found.new_snapshot_id,
        changes=changes,
        truncated=more,
    )
    start = f"{counted(len(found.entries), 'path')} of {vm_id} differ between "
    lines = [f"{start}{found.old_snapshot_id} and {found.new_snapshot_id or 'the present'}."]
    for each in changes:
        lines.append(_change_line(each))
        if each.text_diff:
            lines.append(fenced(each.text_diff))
    if more:
        lines.append("… and more; compare nearer states, or run diff on some files.")
    return told("\n".join(lines), data)


def _changes(found: DiffResponse) -> list[Change]:
    room = MOST_DIFFS
    changes = []
    for each in found.entries[:MOST_CHANGES]:
        text = clean(each.text_diff)[: min(MOST_DIFF, room)] if each.text_diff else None
        room -= len(text or "")
        changes.append(_change(each, text or None))
    return changes


def _change(entry: DiffEntry, text_diff: str | None) -> Change:
    return Change(
        path=clean(entry.path),
        change=entry.change,
        kind=entry.kind,
        old_size=entry.old_size,
        new_size=entry.new_size,
        text_diff=text_diff,
    )


def _change_line(change: Change) -> str:
    size = change.new_size if change.change != "removed" else change.old_size
    sized = f", {size} bytes" if size is not None and change.kind == "file" else ""
    return f"{SIGNS.get(change.change, '?')} {change.path} ({change.kind} {change.change}{sized})"


async def history(call: Call, given: History) -> Answer:
    """What was executed."""
    vm_id = await call.workspace.vm(given.vm_id)
    request = HistoryQueryRequest(
        vm_id=vm_id,
        limit=given.limit,
        offset=given.offset,
        failures_only=given.failures_only,
        search=given.search,
        language=given.language,
    )
    found = await call.workspace.backend.history(request)
    after = given.offset + len(found.entries)
    data = HistoryPage(
        vm_id=vm_id,
        executions=[_past(each) for each in found.entries],
        total=found.total,
        next_offset=after if after < found.total and found.entries else None,
    )
    lines = [f"{counted(found.total, 'execution')} of {vm_id}, newest first."]
    for each in data.executions:
        kernel = f" in kernel {each.kernel}" if each.kernel else ""
        lines.append(
            f"{each.execution_id} {each.executed_at} {each.language}{kernel}: {each.outcome}, "
            f"exit code {each.exit_code}, {each.duration_ms} ms"
        )
        lines += [f"  code: {first_line(each.code)}", f"  output ends: {last_line(each.output)}"]
    if data.next_offset is not None:
        lines.append(f"Older ones: offset={data.next_offset}.")
    return told("\n".join(lines), data)


def _past(entry: CommandHistoryEntry) -> Past:
    output = entry.stderr if entry.stderr and not entry.success else entry.stdout
    return Past(
        execution_id=entry.id,
        language=entry.language,
        kernel=entry.kernel,
        outcome=entry.outcome,
        exit_code=entry.exit_code,
        executed_at=entry.executed_at.isoformat(timespec="seconds"),
        duration_ms=entry.duration_ms,
        code=clean(entry.command[:MOST_CODE]),
        output=clean(output[-MOST_TAIL:]),
        error=clean(entry.error) if entry.error else None,
        snapshot_before=entry.snapshot_before,
    )


# VMs


async def fork(call: Call, given: Fork) -> Answer:
    """Makes VMs that go on from a state."""
    vm_id = await call.workspace.vm(given.vm_id)
    asked = ForkRequest(
        count=given.count, snapshot_id=given.snapshot_id, execution_id=given.execution_id
    )
    done = await call.workspace.backend.fork(vm_id, asked)
    notes = [clean(each) for each in done.notes]
    data = Forked(
        source_vm_id=vm_id,
        snapshot_id=done.snapshot_id,
        vms=[_info(each, None) for each in done.vms],
        notes=notes,
    )
    lines = [f"{counted(len(done.vms), 'VM')} made that go on from {done.snapshot_id} of {vm_id}."]
    lines += [f"- {each.vm_id} ({each.name})" for each in data.vms]
    lines += ["Name one with vm_id in other tools; remove_vm removes it.", *notes]
    return told("\n".join(lines), data)


async def vms(call: Call, _: NoInput) -> Answer:
    """Lists the VMs."""
    current = await call.workspace.vm()
    data = Vms(
        agent_id=call.workspace.agent_id,
        vms=[_info(each, current) for each in await call.workspace.vms()],
    )
    lines = [f"{counted(len(data.vms), 'VM')} of agent {data.agent_id}, oldest first."]
    for each in data.vms:
        used = ", used where no vm_id is given" if each.current else ""
        lines.append(f"- {each.vm_id} ({each.name}): {each.status}{used}")
    return told("\n".join(lines), data)


def _info(instance: VmInstance, current: str | None) -> VmInfo:
    return VmInfo(
        vm_id=instance.id,
        name=clean(instance.name),
        status=instance.status,
        created_at=instance.created_at.isoformat(timespec="seconds"),
        current=instance.id == current,
    )


async def remove_vm(call: Call, given: RemoveVm) -> Answer:
    """Removes a VM."""
    vm_id = await call.workspace.vm(given.vm_id)
    await call.workspace.backend.delete_vm(vm_id)
    return told(f"{vm_id}, its files, snapshots and history are gone.", Removed(vm_id=vm_id))
