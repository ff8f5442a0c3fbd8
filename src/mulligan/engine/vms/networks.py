"""The networks of all VMs: who has one, and what is known only after an execution's end."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

from mulligan.engine.executions.gates import Gates
from mulligan.engine.vms.network import Policy, VmNetwork
from mulligan.engine.vms.store import VmRecord
from mulligan.errors import VmExecutionError
from mulligan.history import HistoryStore
from mulligan.log import get_logger
from mulligan.models import NetworkConnection
from mulligan.network.notes import cleaned, enter
from mulligan.network.resolving import Resolver, SystemResolver
from mulligan.network.rules import meet
from mulligan.settings import Settings

log = get_logger()


class Networks:
    """Makes the networks of VMs.

    Args:
        settings: what VMs of which type may reach.
        history: where it is kept what was reached.
        gates: told the secrets an agent's programs have placeholders of, and takes them out of
            what is kept.
        resolver: turns names into addresses; None for this machine's own.
    """

    def __init__(
        self,
        settings: Settings,
        history: HistoryStore,
        gates: Gates,
        resolver: Resolver | None = None,
    ) -> None:
        self._settings = settings
        self._history = history
        self._gates = gates
        self._own = SystemResolver() if resolver is None else None
        self._resolver: Resolver = resolver or self._own  # type: ignore[assignment]
        self._pending: dict[str, list[NetworkConnection]] = {}
        self._writing: asyncio.Task[None] | None = None

    def of(self, record: VmRecord, trust: Path) -> VmNetwork | None:
        """The network of a VM; None where it has none.

        Args:
            record: of the VM.
            trust: where it may keep the certificates its programs trust.
        """
        of_type = self._settings.vm_types.get(record.vm_type)
        if of_type is None or "none" in (of_type.network, record.network):
            return None
        offers = any(
            meet(secret.hosts, of_type.allow) for secret in self._settings.offered_secrets.values()
        )
        policy = Policy(
            record.vm_type, of_type, record.allow, self._settings.network, trust, offers
        )
        agent_id = record.agent_id
        return VmNetwork(policy, agent_id, self._resolver, self._gates.vault.add, self._late)

    def _late(self, agent_id: str, execution_id: str, note: NetworkConnection) -> None:
        """Something that an execution left, or a kernel, has reached somebody after its end."""
        if not self._settings.history.enabled:
            return
        clean = functools.partial(self._gates.clean, agent_id)
        enter(self._pending.setdefault(execution_id, []), cleaned(note, clean))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._pending:
                execution_id = next(iter(self._pending))
                notes = self._pending.pop(execution_id)
                try:
                    await asyncio.to_thread(self._history.add_network, execution_id, notes)
                except VmExecutionError as error:
                    log.error(  # noqa: TRY400  (where from is no news)
                        "history_not_written", execution_id=execution_id, error=str(error)
                    )
        finally:
            self._writing = None

    async def close(self) -> None:
        """Waits until all of it is written; after the VMs have ended."""
        if self._writing is not None:
            await self._writing
        if self._own is not None:
            self._own.close()
