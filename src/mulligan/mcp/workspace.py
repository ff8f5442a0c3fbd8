"""Where the tools of a client work: an agent and its VMs."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from datetime import datetime

from mulligan.client.backends import Backend
from mulligan.client.direct import DirectBackend
from mulligan.errors import ExecutionNotFound, VmExecutionError, VmNotAvailable
from mulligan.log import get_logger
from mulligan.models import DEFAULT_VM_TYPE, ExecutionStatus, VmCreateRequest, VmInstance

log = get_logger()

TEMPORARY = "mcp-session-"  # agents of connections that named none


def temporary_agent() -> str:
    """An agent for a connection that named none; its VMs go when the connection does."""
    return TEMPORARY + secrets.token_hex(8)


class Workspace:
    """An agent's VMs, and nobody else's.

    Args:
        backend: where the VMs are.
        agent_id: the agent.
        vm_type: of a VM that is made.
    """

    def __init__(self, backend: Backend, agent_id: str, vm_type: str = DEFAULT_VM_TYPE) -> None:
        self.backend = backend
        self.agent_id = agent_id
        self._vm_type = vm_type
        self._finding = asyncio.Lock()

    async def vms(self) -> list[VmInstance]:
        """Its VMs, oldest first."""
        return await self.backend.list_vms(self.agent_id)

    async def vm(self, vm_id: str | None = None) -> str:
        """The id of a VM of this agent; by default of its first, which is made if there is none.

        Raises:
            VmNotAvailable: there is no such VM, or it is another agent's.
        """
        async with self._finding:
            own = await self.vms()
            if vm_id is None:
                return (own[0] if own else await self._make()).id
        if vm_id not in (each.id for each in own):
            raise VmNotAvailable(
                vm_id[:100], field="vm_id", remedy="the tool vms lists those there are"
            )
        return vm_id

    async def _make(self) -> VmInstance:
        name = f"agent-{self.agent_id}-vm"
        return await self.backend.create_vm(
            VmCreateRequest(vm_type=self._vm_type, vm_name=name, agent_id=self.agent_id)
        )

    async def execution(self, execution_id: str) -> ExecutionStatus:
        """An execution of this agent.

        Raises:
            ExecutionNotFound: there is none.
        """
        unknown = ExecutionNotFound(
            f"no execution {execution_id[:100]}",
            field="execution_id",
            remedy="the tool history lists those there are",
        )
        try:
            status = await self.backend.execution(execution_id)
        except ExecutionNotFound:
            raise unknown from None
        if status.agent_id != self.agent_id:
            raise unknown  # in the same words: nobody learns what others have
        return status

    async def cleaned(self, text: str) -> str:
        """A text from a file without the agent's secrets.

        That is done where the engine is in this process; a server gives files as they are.
        """
        if not isinstance(self.backend, DirectBackend):
            return text
        gates = (await self.backend.open()).gates
        return await asyncio.to_thread(gates.clean, self.agent_id, text)

    async def remove(self) -> None:
        """Removes all its VMs; for an agent that nobody will be again."""
        for each in await self.vms():
            with contextlib.suppress(VmNotAvailable):
                await self.backend.delete_vm(each.id)


async def sweep(backend: Backend, opened: datetime) -> None:
    """Removes the VMs of connections that a crash ended.

    Args:
        backend: of whoever has the data directory.
        opened: since when he has it; no connection of before is there any more.
    """
    for each in await backend.list_vms(None):
        if (each.agent_id or "").startswith(TEMPORARY) and each.created_at < opened:
            try:
                await backend.delete_vm(each.id)
            except VmExecutionError as error:
                log.warning("vm_not_removed", vm_id=each.id, error=str(error))
