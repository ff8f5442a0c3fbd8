"""Kernels of a VM as the host knows them: what of their memory is kept under which snapshot."""

from __future__ import annotations

from collections.abc import Callable

from mulligan.engine.vms.connection import AgentConnection
from mulligan.engine.vms.replies import KernelMemory
from mulligan.errors import ExecutionFailed
from mulligan.models import KernelState, Snapshot

MOST_KEPT = 16
KEPT, LOST = "kept", "lost"


class Kernels:
    """What one VM's kernels have been asked for since it booted.

    Attributes:
        changes: grows whenever a cell is started: memory may be another one from then on.
        used: whether there may be kernels since the VM booted.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.used = False

    def cell_started(self) -> None:
        """A kernel was given something to run."""
        self.changes += 1
        self.used = True

    def lost(self) -> None:
        """The VM is down, and all memory with it."""
        self.changes += 1
        self.used = False

    async def checkpoint(self, connection: AgentConnection | None, key: str) -> list[KernelState]:
        """Keeps the memory of all kernels under a snapshot's id.

        Raises:
            ExecutionFailed: the VM ended under it.
        """
        if connection is None or not self.used:
            return []
        return [_state(each) for each in await connection.kernels("checkpoint", key, MOST_KEPT)]

    async def revive(
        self, connection: AgentConnection | None, key: str, then: list[KernelState]
    ) -> list[KernelState]:
        """Brings back the memory that was kept under a snapshot's id.

        Args:
            connection: to the VM's agent, where the VM is up.
            key: the snapshot.
            then: the kernels there were at that time.

        Returns:
            What became of each of those. Kernels there were not then are not there any more.

        Raises:
            ExecutionFailed: the VM ended under it.
        """
        found: dict[str, KernelMemory] = {}
        if connection is not None and self.used:
            found = {each.name: each for each in await connection.kernels("revive", key)}
        self.changes += 1
        return [_state(found[was.name]) if was.name in found else _gone(was) for was in then]

    async def drop(self, connection: AgentConnection | None, keys: list[str]) -> None:
        """Lets go of memories.

        Raises:
            ExecutionFailed: the VM ended under it.
        """
        if connection is not None and self.used:
            await connection.kernels("drop", " ".join(keys))

    async def present(
        self, connection: AgentConnection | None, snapshots: list[Snapshot]
    ) -> list[Snapshot]:
        """Snapshots with their kernels as they are by now: memory once kept may be no more."""
        held: dict[str, tuple[str, ...]] = {}
        if connection is not None and self.used:
            try:
                held = {each.name: each.keys for each in await connection.kernels("list", "")}
            except ExecutionFailed:
                held = {}  # it has just gone down, and all memory with it
        return [
            snapshot.model_copy(
                update={
                    "kernels": [
                        state if snapshot.id in held.get(state.name, ()) else _gone(state)
                        for state in snapshot.kernels
                    ]
                }
            )
            for snapshot in snapshots
        ]


def without_secrets(
    agent_id: str, states: list[KernelState], clean: Callable[[str, str], str]
) -> list[KernelState]:
    """The same, where notes quote what programs named: threads, files, directories."""
    return [
        each.model_copy(update={"notes": [clean(agent_id, note) for note in each.notes]})
        for each in states
    ]


def _state(memory: KernelMemory) -> KernelState:
    return KernelState(
        name=memory.name,
        language=memory.language,
        memory=memory.memory,
        notes=list(memory.notes),
    )


def _gone(state: KernelState) -> KernelState:
    return state.model_copy(update={"memory": LOST}) if state.memory == KEPT else state
