"""The time machine against a plain model in memory: whatever is done, in whatever order.

Programs change files at random; states are kept, gone back to, branched from, merged and
forgotten; the server is restarted. After every step the files of the VM are those of the model.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import os
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, event, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.errors import RollbackFailed, SnapshotNotFound, VmNotAvailable
from mulligan.images import toolchains
from mulligan.layers import stacks
from mulligan.models import (
    ForkRequest,
    HistoryQueryRequest,
    RollbackTo,
    SnapshotCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)
from support import host, trees
from support.guest_programs import DUMP, OPERATE

AGENT = "tester"
MOST_VMS = 4
CHECKED_AT_THE_END = 5
Result = TypeVar("Result")


@dataclass
class State:
    """What a snapshot keeps of a VM: its files, and the variables of its kernel if it has one."""

    tree: trees.Tree = field(default_factory=trees.Tree)
    variables: dict[str, int] | None = None

    def kept(self) -> State:
        """This state as a snapshot has it."""
        return State(self.tree.copy(), copy.copy(self.variables))

    def returned(self, memory: str = "lost") -> State:
        """This state as a VM finds it that goes back to it; ``memory`` as `KernelState` has it."""
        kept = copy.copy(self.variables) if memory == "kept" else None
        return State(self.tree.copy(lower=True), kept)


@dataclass
class Execution:
    """An execution; ``before`` is what it started from, if that was kept."""

    id: str
    snapshot: str | None
    before: State


@dataclass
class Vm:
    """What the model knows of a VM. ``background``: a program runs that was left there."""

    id: str
    state: State = field(default_factory=State)
    snapshots: dict[str, State] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    executions: list[Execution] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    background: bool = False


class TimeMachine(RuleBasedStateMachine):
    """Engine and model side by side; ``pick`` and ``which`` choose among what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.before = host.descendants(os.getpid())
        self.place = host.data_directory()
        self.directory = self.place.__enter__() / "data"
        self.settings = settings_module.load(
            data_dir=self.directory, history={"max_history_entries": 10_000}
        )
        self.engine = Engine(self.settings)
        self.vms: list[Vm] = []

    def do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    @initialize()
    def open(self) -> None:
        self.do(self.engine.open())
        vm_id = self.do(self.engine.fleet.vm_for(AGENT, None)).record.id
        self.vms.append(Vm(vm_id))

    # What is done to files

    def execute(
        self, vm: Vm, language: str, code: str, stdin: str = "", kernel: str | None = None
    ) -> VmExecuteResponse:
        """Runs a program, and keeps book of it."""
        before = vm.state.kept()
        if not vm.background:
            vm.state.tree.freeze()
        request = VmExecuteRequest(
            agent_id=AGENT,
            vm_id=vm.id,
            language=language,
            code=code,
            stdin=stdin if kernel is None else None,
            kernel=kernel,
        )
        response = self.do(self.engine.execute(request))
        assert response.snapshot_before is not None or vm.background, response.notes
        vm.rows.append(response.execution_id)
        vm.executions.append(Execution(response.execution_id, response.snapshot_before, before))
        return response

    def change(self, vm: Vm, wanted: list[trees.Operation], status: int) -> None:
        """Has a program do what the model decides about, in both places."""
        before, told, doable = vm.state.tree.copy(), [], []
        tree = vm.state.tree
        if not vm.background:
            tree.freeze()
        for operation in wanted:
            try:
                told.append(tree.apply(operation))
            except trees.Undecided:
                continue
            doable.append(operation)
            event(f"{operation['op']}: {told[-1]}")
        after, vm.state.tree = vm.state.tree, before
        body = json.dumps({"operations": doable, "exit": status})
        response = self.execute(vm, "python", OPERATE, body)
        vm.state.tree = after
        assert (response.exit_code, response.stderr) == (status, ""), response
        each = zip(doable, told, json.loads(response.stdout), strict=True)
        wrong = [f"{operation}: {got}, not {due}" for operation, due, got in each if got != due]
        assert not wrong, wrong
        if status:
            assert response.snapshot_after is not None, response.notes
            vm.snapshots[response.snapshot_after] = vm.state.kept()

    def look(self, vm: Vm) -> None:
        """The files of the VM are those of the model."""
        response = self.execute(vm, "python", DUMP)
        assert response.exit_code == 0, response.stderr
        vm.state.tree.compare(json.loads(response.stdout))
        if vm.state.variables is not None:
            self.remember(vm)

    @rule(pick=st.randoms(use_true_random=False), wanted=trees.batches)
    def work(self, pick: random.Random, wanted: list[trees.Operation]) -> None:
        vm = pick.choice(self.vms)
        self.change(vm, wanted, 0)
        self.look(vm)

    @rule(pick=st.randoms(use_true_random=False), wanted=trees.batches)
    def fail(self, pick: random.Random, wanted: list[trees.Operation]) -> None:
        vm = pick.choice(self.vms)
        self.change(vm, wanted, 3)
        self.look(vm)

    @rule(
        pick=st.randoms(use_true_random=False),
        name=st.sampled_from(["x", "y"]),
        value=st.integers(0, 10**6),
    )
    def assign(self, pick: random.Random, name: str, value: int) -> None:
        vm = pick.choice(self.vms)
        variables = {**(vm.state.variables or {}), name: value}
        self.execute(vm, "python", f"{name} = {value}", kernel="main")
        vm.state.variables = variables
        self.look(vm)

    def remember(self, vm: Vm) -> None:
        """The kernel has the variables of the model, and no others."""
        tell = "print({name: globals()[name] for name in ('x', 'y') if name in globals()})"
        variables = dict(sorted(vm.state.variables.items()))
        response = self.execute(vm, "python", tell, kernel="main")
        assert (response.stdout, response.stderr) == (f"{variables}\n", ""), response.notes

    @rule(pick=st.randoms(use_true_random=False))
    def leave_a_program_running(self, pick: random.Random) -> None:
        vm = pick.choice(self.vms)
        response = self.execute(vm, "bash", "nohup sleep 1000 > /dev/null 2>&1 &")
        assert response.background_processes == 1
        vm.background = True

    # Going back

    def back(self, vm: Vm, to: RollbackTo, state: State, *, latest: bool = False) -> None:
        """Goes back; of the ``latest`` snapshot, memory must have been kept."""
        present = vm.state.kept()
        done = self.do(self.engine.past.rollback(vm.id, to))
        if done.pre_rollback_snapshot_id is not None:
            vm.snapshots[done.pre_rollback_snapshot_id] = present
        told = {kernel.name: kernel.memory for kernel in done.kernels}
        assert told.keys() == ({"main"} if state.variables is not None else set()), told
        assert not latest or set(told.values()) <= {"kept"}, told
        event(f"memory: {told.get('main')}")
        vm.state, vm.background = state.returned(told.get("main", "lost")), False
        self.look(vm)

    @rule(pick=st.randoms(use_true_random=False))
    def keep(self, pick: random.Random) -> None:
        vm = pick.choice(self.vms)
        made = self.do(self.engine.past.snapshot(vm.id, SnapshotCreateRequest()))
        vm.snapshots[made.id] = vm.state.kept()
        event("snapshot by copying" if vm.background else "snapshot")

    @precondition(lambda self: any(vm.snapshots for vm in self.vms))
    @rule(pick=st.randoms(use_true_random=False), keep=st.booleans())
    def go_to_snapshot(self, pick: random.Random, keep: bool) -> None:
        vm = pick.choice([vm for vm in self.vms if vm.snapshots])
        snapshot = pick.choice(list(vm.snapshots))
        to = RollbackTo(snapshot_id=snapshot, create_pre_rollback_snapshot=keep)
        self.back(vm, to, vm.snapshots[snapshot])

    @precondition(lambda self: any(vm.executions for vm in self.vms))
    @rule(pick=st.randoms(use_true_random=False), keep=st.booleans())
    def go_before_execution(self, pick: random.Random, keep: bool) -> None:
        vm = pick.choice([vm for vm in self.vms if vm.executions])
        execution = pick.choice(vm.executions)
        to = RollbackTo(execution_id=execution.id, create_pre_rollback_snapshot=keep)
        if execution.snapshot is None:
            with pytest.raises(RollbackFailed, match="has no state it started from"):
                self.do(self.engine.past.rollback(vm.id, to))
        elif execution.snapshot in vm.deleted:
            with pytest.raises(SnapshotNotFound):
                self.do(self.engine.past.rollback(vm.id, to))
        else:
            self.back(vm, to, execution.before)

    @rule(pick=st.randoms(use_true_random=False), wanted=trees.batches)
    def go_to_last_success(self, pick: random.Random, wanted: list[trees.Operation]) -> None:
        vm = pick.choice(self.vms)
        self.look(vm)
        good = vm.state.kept()
        self.change(vm, wanted, 3)
        if vm.executions[-1].snapshot is None:
            with pytest.raises(RollbackFailed, match="has no state it started from"):
                self.do(self.engine.past.rollback(vm.id, RollbackTo(last_success=True)))
        else:
            self.back(vm, RollbackTo(last_success=True), good, latest=True)

    @precondition(lambda self: any(vm.snapshots for vm in self.vms))
    @rule(pick=st.randoms(use_true_random=False))
    def forget(self, pick: random.Random) -> None:
        vm = pick.choice([vm for vm in self.vms if vm.snapshots])
        snapshot = pick.choice(list(vm.snapshots))
        self.do(self.engine.past.delete_snapshot(vm.id, snapshot))
        del vm.snapshots[snapshot]
        vm.deleted.add(snapshot)
        with pytest.raises(SnapshotNotFound):
            self.do(self.engine.past.rollback(vm.id, RollbackTo(snapshot_id=snapshot)))

    # Looking into

    @precondition(lambda self: any(vm.snapshots for vm in self.vms))
    @rule(pick=st.randoms(use_true_random=False))
    def compare(self, pick: random.Random) -> None:
        vm = pick.choice([vm for vm in self.vms if vm.snapshots])
        old = pick.choice(list(vm.snapshots))
        new = pick.choice([None, *vm.snapshots])
        found = self.do(self.engine.past.diff(vm.id, old, new))
        newer = vm.state if new is None else vm.snapshots[new]
        assert not found.truncated
        changes = {entry.path: entry.change for entry in found.entries}
        expected = vm.snapshots[old].tree.differences(newer.tree)
        assert changes == {f"/workspace/{path}": change for path, change in expected.items()}

    # Branching, and what goes on around it

    @precondition(lambda self: len(self.vms) < MOST_VMS)
    @rule(pick=st.randoms(use_true_random=False), past=st.booleans())
    def fork(self, pick: random.Random, past: bool) -> None:
        vm = pick.choice(self.vms)
        snapshot = pick.choice(list(vm.snapshots)) if past and vm.snapshots else None
        state = vm.state if snapshot is None else vm.snapshots[snapshot]
        made = self.do(self.engine.past.fork(vm.id, ForkRequest(snapshot_id=snapshot)))
        vm.snapshots[made.snapshot_id] = state.kept()
        self.vms.append(Vm(made.vms[0].id, state.returned()))
        self.look(self.vms[-1])

    @precondition(lambda self: len(self.vms) > 1)
    @rule(pick=st.randoms(use_true_random=False))
    def delete(self, pick: random.Random) -> None:
        vm = pick.choice(self.vms)
        self.vms.remove(vm)
        self.do(self.engine.delete_vm(vm.id))
        with pytest.raises(VmNotAvailable):
            self.engine.get_vm(vm.id)

    @rule()
    def merge(self) -> None:
        self.do(self.engine.settle())

    @rule(settled=st.booleans())
    def restart(self, settled: bool) -> None:
        if settled:
            self.do(self.engine.settle())
        self.do(self.engine.close())
        self.engine = Engine(self.settings)
        self.do(self.engine.open())
        for vm in self.vms:
            vm.background, vm.state.variables = False, None
            whole = HistoryQueryRequest(vm_id=vm.id, limit=1000)
            rows = self.do(self.engine.past.history(whole))
            assert [entry.id for entry in rows.entries] == vm.rows[::-1]
            self.look(vm)

    def teardown(self) -> None:
        """Everything that was kept is there; then nothing is left of it."""
        try:
            if self.vms:
                self.check_all()
        finally:
            self.do(self.engine.close())
            self.runner.close()
            self.place.__exit__(None, None, None)
        assert not host.descendants(os.getpid()) - self.before

    def check_all(self) -> None:
        for vm in self.vms:
            note(f"everything of {vm.id}")
            self.look(vm)
            for snapshot, state in list(vm.snapshots.items())[-CHECKED_AT_THE_END:]:
                self.back(vm, RollbackTo(snapshot_id=snapshot), state)
        self.do(self.engine.settle())
        for vm in self.vms:
            self.do(self.engine.delete_vm(vm.id))
        self.do(self.engine.settle())
        left = list((self.directory / "layers").glob("*/*"))
        assert not left, "layers nobody needs"


def play(monkeypatch: pytest.MonkeyPatch, examples: int, steps: int, *, same: bool) -> None:
    """Merges come early and often, so that short runs have them; this host is looked at once."""
    monkeypatch.setattr(stacks, "FANOUT", 3)
    monkeypatch.setattr(toolchains, "find_all", functools.cache(toolchains.find_all))
    run_machine(
        TimeMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=same,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(600)
def test_whatever_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, examples=8, steps=20, same=True)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_whatever_is_done_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, examples=300, steps=60, same=False)
