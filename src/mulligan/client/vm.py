"""A VM as an object: what runs in it, its past, its forks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Self

from mulligan.client.client import VmExecutionClient
from mulligan.client.vm_files import VmFiles
from mulligan.errors import ConfigError, ConnectionFailed, VmNotAvailable
from mulligan.hooks.approver import Approver
from mulligan.hooks.manager import HookManager
from mulligan.models import (
    CommandHistoryEntry,
    DiffResponse,
    ExecutionEvent,
    ExecutionStatus,
    HistoryQueryRequest,
    HistoryQueryResponse,
    RollbackResponse,
    RollbackTo,
    Snapshot,
    VmExecuteRequest,
    VmExecuteResponse,
    VmExecutionConfig,
)
from mulligan.settings import Settings
from mulligan.settings import load as load_settings

DEFAULT_AGENT = "default"
LAST_SUCCESS = "last_success"
EXECUTION_PREFIX = "exec-"

Ran = VmExecuteResponse | CommandHistoryEntry | ExecutionStatus | ExecutionEvent


class AsyncVm(VmFiles):
    """One VM. Use as an async context manager, or call ``close``.

    Without a server it runs in this process: VMs on one data directory share one engine, on one
    event loop. The VM's disk stays when this is closed.

    Args:
        agent_id: whose VM it is.
        vm_id: an existing VM, then of its agent where ``agent_id`` is not given; by default the
            agent's first, which is made where there is none.
        server: URL of a Mulligan server; None for an engine in this process.
        settings: of that engine, in place of those in force on this machine.
        config: bounds, as of ``VmExecutionClient``; where it points to does not count.
        auth_token: for the server; by default that of MULLIGAN_TOKEN or MULLIGAN_TOKEN_FILE.
        approver: asked where a hook wants a person asked; see ``mulligan.hooks.approver``.
        hook_manager: hooks in this process; see ``VmExecutionClient.with_hook_manager``.

    Raises:
        ConfigError: settings were given for a server, which has its own.
    """

    def __init__(
        self,
        agent_id: str = DEFAULT_AGENT,
        *,
        vm_id: str | None = None,
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
        if self._id is None:
            own = await self._client.list_vms(self._agent_id)
            self._id = (own[0] if own else await self._client.provision_vm(self._agent_id)).id
            return
        owner = (await self._client.get_vm(self._id)).agent_id or self._agent_id
        if self._agent_id not in (DEFAULT_AGENT, owner):
            raise VmNotAvailable(self._id[:100], field="vm_id")
        self._agent_id = owner

    # Running

    async def run(
        self,
        code: str,
        language: str = "python",
        *,
        kernel: str | None = None,
        timeout_seconds: int | None = None,
        working_dir: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        requirements: Sequence[str] = (),
    ) -> VmExecuteResponse:
        """Runs code and returns what came of it.

        Args:
            code: the program.
            language: "python", "javascript", "bash" or "rust".
            kernel: runs it as a cell of the kernel of that name, whose variables stay.
            timeout_seconds: of the language's multiple, such as 1.5 for Bash.
            working_dir: absolute path in the VM.
            env: added to the VM's environment.
            stdin: what it reads.
            requirements: packages it needs, such as "numpy" or "lodash@^4".

        Raises:
            VmExecutionError: it was refused, or could not be run. A program that fails or is
                stopped by its time limit is no error.
        """
        request = await self._request(
            code, language, kernel, timeout_seconds, working_dir, env, stdin, requirements
        )
        return await self._client.execute_code(request)

    async def stream(
        self,
        code: str,
        language: str = "python",
        *,
        kernel: str | None = None,
        timeout_seconds: int | None = None,
        working_dir: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        requirements: Sequence[str] = (),
        cancel_on_disconnect: bool = False,
    ) -> AsyncGenerator[ExecutionEvent, None]:
        """``run`` that gives output as it comes; see ``VmExecutionClient.stream``.

        Closing the iterator early ends the listening, and with ``cancel_on_disconnect`` the
        execution.
        """
        request = await self._request(
            code, language, kernel, timeout_seconds, working_dir, env, stdin, requirements
        )
        source = self._client.stream(request, cancel_on_disconnect=cancel_on_disconnect)
        async with aclosing(source) as events:
            async for event in events:
                yield event

    async def _request(
        self,
        code: str,
        language: str,
        kernel: str | None,
        timeout_seconds: int | None,
        working_dir: str | None,
        env: Mapping[str, str] | None,
        stdin: str | None,
        requirements: Sequence[str],
    ) -> VmExecuteRequest:
        return VmExecuteRequest(
            agent_id=self._agent_id,
            vm_id=await self._vm_id(),
            language=language,
            code=code,
            kernel=kernel,
            timeout_seconds=timeout_seconds,
            working_dir=working_dir,
            env=dict(env) if env is not None else None,
            stdin=stdin,
            requirements=list(requirements),
        )

    async def cancel(self, execution: str | Ran) -> ExecutionStatus:
        """Ends an execution, and returns when it has ended.

        Raises:
            ExecutionNotFound: there is none.
        """
        return await self._client.cancel_execution(_execution_id(execution))

    # The past

    async def snapshot(self, name: str | None = None, description: str | None = None) -> Snapshot:
        """Keeps the state the VM is in.

        Raises:
            SnapshotFailed: the VM is as it was.
        """
        return await self._client.create_snapshot(await self._vm_id(), name, description)

    async def snapshots(self) -> list[Snapshot]:
        """The VM's snapshots, newest first."""
        return await self._client.list_snapshots(await self._vm_id())

    async def rollback(
        self, to: str | Snapshot | Ran | None = None, *, keep: bool = False
    ) -> RollbackResponse:
        """Takes the VM back; what runs in it is cancelled.

        Args:
            to: a snapshot or its id; an execution or its id, to go to before it; "last_success";
                None for before the last execution that changed something.
            keep: whether the present is kept as a snapshot first.

        Raises:
            SnapshotNotFound, RollbackFailed: the VM is as it was.
        """
        target: dict[str, Any] = {}
        if isinstance(to, Snapshot):
            target["snapshot_id"] = to.id
        elif to == LAST_SUCCESS:
            target["last_success"] = True
        elif isinstance(to, str) and not to.startswith(EXECUTION_PREFIX):
            target["snapshot_id"] = to
        elif to is not None:
            target["execution_id"] = _execution_id(to)
        wanted = RollbackTo(create_pre_rollback_snapshot=keep, **target)
        return await self._client.rollback(await self._vm_id(), wanted)

    async def fork(
        self,
        count: int = 1,
        *,
        snapshot: str | Snapshot | None = None,
        before: str | Ran | None = None,
    ) -> list[AsyncVm]:
        """VMs that go on from here; they share this one's connection and are closed with it.

        Args:
            count: how many.
            snapshot: from there, in place of the present.
            before: from before this execution.

        Raises:
            ValidationFailed: ``count`` is out of range.
            SnapshotNotFound: the VM has no such snapshot.
        """
        made = await self._client.fork(
            await self._vm_id(),
            count,
            snapshot_id=_snapshot_id(snapshot),
            execution_id=_execution_id(before) if before is not None else None,
        )
        return [_Fork(self._client, self._agent_id, each.id) for each in made.vms]

    async def diff(
        self, old: str | Snapshot | None = None, new: str | Snapshot | None = None
    ) -> DiffResponse:
        """What differs between two snapshots; by default, what the last execution changed.

        Raises:
            SnapshotNotFound: the VM has no such snapshot.
        """
        return await self._client.diff(await self._vm_id(), _snapshot_id(old), _snapshot_id(new))

    async def history(
        self,
        limit: int | None = None,
        *,
        offset: int = 0,
        failures_only: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        search: str | None = None,
        language: str | None = None,
    ) -> HistoryQueryResponse:
        """What was executed, newest first; ``total`` counts all that match.

        Raises:
            HistoryError: history is off, or cannot be read.
        """
        request = HistoryQueryRequest(
            vm_id=await self._vm_id(),
            limit=limit,
            offset=offset,
            failures_only=failures_only,
            start_date=start_date,
            end_date=end_date,
            search=search,
            language=language,
        )
        return await self._client.query_history(request)

    async def delete(self) -> None:
        """Stops the VM and removes everything it wrote. Its forks stay.

        Raises:
            VmNotAvailable: it is gone already.
        """
        await self._client.delete_vm(await self._vm_id())


class _Fork(AsyncVm):
    """A VM that shares the client of the one it was forked from."""

    def __init__(self, client: VmExecutionClient, agent_id: str, vm_id: str) -> None:
        self._client = client
        self._agent_id = agent_id
        self._id = vm_id
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


def _execution_id(execution: str | Ran) -> str:
    if isinstance(execution, str):
        return execution
    return execution.id if isinstance(execution, CommandHistoryEntry) else execution.execution_id


def _snapshot_id(snapshot: str | Snapshot | None) -> str | None:
    return snapshot.id if isinstance(snapshot, Snapshot) else snapshot
