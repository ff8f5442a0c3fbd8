"""A VM as an object: what runs in it, its past, its forks."""

from __future__ import annotations

import asyncio
from typing import Self

from mulligan.client.client import VmExecutionClient
from mulligan.client.vm_files import VmFiles
from mulligan.client.vm_past import VmPast, snapshot_id_of
from mulligan.client.vm_running import Ran, VmRunning, execution_id
from mulligan.errors import ConfigError, ConnectionFailed, VmNotAvailable
from mulligan.hooks.approver import Approver
from mulligan.hooks.manager import HookManager
from mulligan.models import Snapshot, VmExecutionConfig, VmInstance
from mulligan.settings import Settings
from mulligan.settings import load as load_settings

DEFAULT_AGENT = "default"


class AsyncVm(VmRunning, VmPast, VmFiles):
    """One VM. Use as an async context manager, or call ``close``.

    Without a server it runs in this process: VMs on one data directory share one engine, on one
    event loop. The VM's disk stays when this is closed.

    Args:
        agent_id: whose VM it is.
        vm_id: an existing VM, then of its agent where ``agent_id`` is not given; by default the
            agent's first, which is made where there is none.
        session: in place of ``vm_id``, the name of a session of the agent, made where there is
            none; ``command`` then runs things in its shell.
        server: URL of a Mulligan server; None for an engine in this process.
        settings: of that engine, in place of those in force on this machine.
        config: bounds, as of ``VmExecutionClient``; where it points to does not count.
        auth_token: for the server; by default that of MULLIGAN_TOKEN or MULLIGAN_TOKEN_FILE.
        approver: asked where a hook wants a person asked; see ``mulligan.hooks.approver``.
        hook_manager: hooks in this process; see ``VmExecutionClient.with_hook_manager``.

    Raises:
        ConfigError: settings were given for a server, which has its own; or a VM and a session.
    """

    def __init__(
        self,
        agent_id: str = DEFAULT_AGENT,
        *,
        vm_id: str | None = None,
        session: str | None = None,
        server: str | None = None,
        settings: Settings | None = None,
        config: VmExecutionConfig | None = None,
        auth_token: str | None = None,
        approver: Approver | None = None,
        hook_manager: HookManager | None = None,
    ) -> None:
        if server is not None and settings is not None:
            raise ConfigError(
                "settings are for an engine in this process; a server has its own",
                field="settings",
                remedy="leave out server or settings",
            )
        if vm_id is not None and session is not None:
            raise ConfigError(
                "a session is a VM already", field="session", remedy="leave out vm_id or session"
            )
        if server is None and settings is None and config is None:
            settings = load_settings()
        self._client = VmExecutionClient(
            _config(config or VmExecutionConfig(), server),
            auth_token=auth_token,
            settings=settings,
            approver=approver,
            hook_manager=hook_manager,
        )
        self._agent_id = agent_id
        self._id = vm_id
        self._session = session
        self._found = False
        self._finding = asyncio.Lock()

    async def __aenter__(self) -> Self:
        try:
            return await self.open()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncVm {self._id or 'not opened'} of {self._agent_id}>"

    async def open(self) -> Self:
        """Finds the VM, or makes it. Every method does so itself where it was not done.

        Raises:
            VmNotAvailable: there is no VM of that id, or it is another agent's.
        """
        await self._vm_id()
        return self

    async def close(self) -> None:
        """Lets go of the VM; its disk stays. Its forks are closed with it, not by themselves."""
        await self._client.close()

    @property
    def id(self) -> str:
        """The VM's id.

        Raises:
            ConnectionFailed: the VM was not looked for yet.
        """
        if self._id is None:
            raise ConnectionFailed("the VM is not opened", remedy="await its open() first")
        return self._id

    @property
    def agent_id(self) -> str:
        """Whose VM it is."""
        return self._agent_id

    async def _vm_id(self) -> str:
        async with self._finding:
            if not self._found:
                await self._find()
                self._found = True
        return self.id

    async def _find(self) -> None:
        if self._session is not None:
            made = await self._client.get_or_create_session(self._session, agent_id=self._agent_id)
            self._id = made.vm_id
            return
        if self._id is None:
            own = await self._client.list_vms(self._agent_id)
            self._id = (own[0] if own else await self._client.provision_vm(self._agent_id)).id
            return
        owner = (await self._client.get_vm(self._id)).agent_id or self._agent_id
        if self._agent_id not in (DEFAULT_AGENT, owner):
            raise VmNotAvailable(self._id[:100], field="vm_id")
        self._agent_id = owner

    async def fork(
        self,
        count: int = 1,
        *,
        snapshot: str | Snapshot | None = None,
        before: str | Ran | None = None,
        idempotency_key: str | None = None,
    ) -> list[AsyncVm]:
        """VMs that go on from here; they share this one's connection and are closed with it.

        Args:
            count: how many.
            snapshot: from there, in place of the present.
            before: from before this execution.
            idempotency_key: as of ``VmExecutionClient.execute_code``.

        Raises:
            ValidationFailed: ``count`` is out of range.
            SnapshotNotFound: the VM has no such snapshot.
        """
        made = await self._client.fork(
            await self._vm_id(),
            count,
            snapshot_id=snapshot_id_of(snapshot),
            execution_id=execution_id(before) if before is not None else None,
            idempotency_key=idempotency_key,
        )
        return [_Fork(self._client, self._agent_id, each.id) for each in made.vms]

    async def stop(self, *, idempotency_key: str | None = None) -> VmInstance:
        """Ends the VM's processes until it is used again, which wakes it; its disk stays.

        Live interpreters and programs in the background end with it, unless its type keeps memory.

        Raises:
            VmBusy: an execution or a terminal is in it.
            VmNotAvailable: it is gone.
        """
        return await self._client.stop_vm(await self._vm_id(), idempotency_key=idempotency_key)

    async def delete(self, *, idempotency_key: str | None = None) -> None:
        """Stops the VM and removes everything it wrote. Its forks stay.

        Raises:
            VmNotAvailable: it is gone already.
        """
        await self._client.delete_vm(await self._vm_id(), idempotency_key=idempotency_key)


class _Fork(AsyncVm):
    """A VM that shares the client of the one it was forked from."""

    def __init__(self, client: VmExecutionClient, agent_id: str, vm_id: str) -> None:
        self._client = client
        self._agent_id = agent_id
        self._id = vm_id
        self._session = None  # a fork of a session is a VM like any other
        self._found = True
        self._finding = asyncio.Lock()

    async def close(self) -> None:
        """Leaves the client to the VM it was forked from."""


def _config(config: VmExecutionConfig, server: str | None) -> VmExecutionConfig:
    """A client's config, for a server or for an engine in this process."""
    mode = "direct" if server is None else "http"
    history = config.history.model_copy(update={"integration_mode": mode})
    update: dict[str, object] = {"history": history}
    if server is not None:
        update["api_base_url"] = server
    return config.model_copy(update=update)
