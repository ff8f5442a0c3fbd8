"""The client: the methods programs call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Self

from mulligan import settings as settings_module
from mulligan.client.backends import Backend
from mulligan.client.files import Files
from mulligan.client.images import Images
from mulligan.client.options import Options
from mulligan.client.past import Past
from mulligan.client.sessions import Sessions
from mulligan.client.terminals import Terminals
from mulligan.errors import ConfigError, ExecutionTimeout
from mulligan.hooks.approver import Approver
from mulligan.hooks.manager import HookManager
from mulligan.models import (
    BatchResponse,
    ExecutionEvent,
    ExecutionStatus,
    Identity,
    ParseExecuteRequest,
    ParseExecuteResponse,
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
    VmExecutionConfig,
    VmInstance,
    VmPoolResponse,
)
from mulligan.settings import Settings

ENGINES = {"enabled", "max_history_entries", "persist_history", "integration_mode"}
READY = ("running", "ready", "stopped", "hibernated")
LONGEST_WAIT_S = 20.0  # of one request
WAIT_STEP_S = 0.1
DEFAULT_TIMEOUT_S = 30


class VmExecutionClient(Sessions, Past, Files, Terminals, Images):
    """Runs code in VMs, through a server or, in direct mode, in this process.

    Use as an async context manager, or call ``close``.

    Args:
        config: where and under which bounds. ``config.history.integration_mode`` chooses between
            "http" (a server at ``config.api_base_url``) and "direct" (an engine of its own, with
            the settings in force on this machine and the bounds of ``config``).
        auth_token: for the server; by default that of MULLIGAN_TOKEN or MULLIGAN_TOKEN_FILE.
        settings: for direct mode, in place of the settings in force.
        approver: asked where a hook wants a person asked; see ``mulligan.hooks.approver``.
        hook_manager: hooks of the client's own; see ``with_hook_manager``.

    What ``config.history`` gives of ``snapshot_on_execution``, ``snapshot_on_failure`` and
    ``auto_rollback_on_failure`` holds for this client's executions, in both modes; what it does not
    give is as the server, or this machine, has it set. With ``enabled`` false the client keeps
    and undoes nothing, and asks for no history. ``max_history_entries`` and ``persist_history`` are
    an engine's: over HTTP the first is how many entries a query gives, the second must be true.

    Raises:
        ConfigError: there is no such integration mode, or the config asks for what a server's
            own settings decide.
    """

    def __init__(
        self,
        config: VmExecutionConfig | None = None,
        *,
        auth_token: str | None = None,
        settings: Settings | None = None,
        approver: Approver | None = None,
        hook_manager: HookManager | None = None,
    ) -> None:
        self._approver = approver
        self._hooks = hook_manager
        self.config = config or VmExecutionConfig()
        mode = self.config.history.integration_mode
        self._options = Options(self.config, served=mode == "http")
        self._backend: Backend
        # Imported where they are used: a client of a server has no use for drivers and images, and
        # one with an engine of its own none for HTTP.
        if mode == "http":
            from mulligan.client.http import HttpBackend  # noqa: PLC0415

            self._backend = HttpBackend(
                self.config.api_base_url, self.config.execution_timeout_ms, auth_token
            )
        elif mode == "direct":
            from mulligan.client.direct import DirectBackend  # noqa: PLC0415

            self._backend = DirectBackend(settings or self._direct_settings())
        else:
            raise ConfigError(
                f"integration_mode is {mode!r}",
                field="history.integration_mode",
                remedy='use "http" or "direct"',
            )

    def with_auth_token(self, token: str) -> Self:
        """Shows a server another token from now on; returns the client."""
        self._backend.use_token(token)
        return self

    def _direct_settings(self) -> Settings:
        """The settings in force on this machine, under the bounds of the client's config."""
        given: dict[str, object] = {
            name: getattr(self.config, name)
            for name in (
                "allowed_languages",
                "auto_provision",
                "default_vm_type",
                "execution_timeout_ms",
                "max_code_length",
            )
            if name in self.config.model_fields_set
        }
        history = self.config.history
        given["history"] = history.model_dump(include=ENGINES & history.model_fields_set)
        return settings_module.load(**given)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets go of connections and, in direct mode, stops the VMs; their disks stay."""
        await self._backend.close()

    async def execute_code(
        self, request: VmExecuteRequest, *, idempotency_key: str | None = None
    ) -> VmExecuteResponse:
        """Runs code and returns what came of it. Never repeated: code may not run twice.

        With ``idempotency_key`` it runs once, however often it is asked for with that key; each
        time there is the first answer. Only then is it sent again where the connection is lost.
        All methods that take a key mean this by it; see docs/http-api.md.

        Raises:
            IdempotencyKeyReused: the key came with another request before.
            IdempotencyKeyLost: it was begun once, and nobody knows what came of it.
            VmExecutionError: it was refused, or could not be run. A program that fails or is
                stopped by its time limit is no error.
        """
        return await self._execute_judged(self._options.execution(request), idempotency_key)

    async def execute_batch(
        self, requests: list[VmExecuteRequest], *, idempotency_key: str | None = None
    ) -> BatchResponse:
        """Runs several requests; the answers are in their order, each with a result or an error.

        Those to one VM run one after the other, those to different VMs beside each other.

        Raises:
            ValidationFailed: there are too many.
        """
        asked = [self._options.execution(each) for each in requests]
        return await self._batch_judged(asked, idempotency_key)

    async def stream(
        self,
        request: VmExecuteRequest,
        *,
        cancel_on_disconnect: bool = False,
        idempotency_key: str | None = None,
    ) -> AsyncGenerator[ExecutionEvent, None]:
        """Runs code and gives what happens as it happens, up to its result.

        A lost connection is made again, and goes on after the last event that came; the code runs
        once. Closing the iterator early ends the listening. The execution goes on
        (``follow_execution`` listens again), unless ``cancel_on_disconnect``.

        Where a person has to say yes first, the client's approver is asked, and what it lets run
        is an execution of its own, with a "started" of its own.

        Raises:
            VmExecutionError: it was refused. What goes wrong later is the last event, "error".
            ConnectionFailed: the connection was lost for good.
        """
        asked = self._options.execution(request)
        source = self._stream_judged(
            asked, cancel_on_disconnect=cancel_on_disconnect, key=idempotency_key
        )
        async with aclosing(source) as events:
            async for event in events:
                yield event

    async def follow_execution(
        self, execution_id: str, after: int = 0
    ) -> AsyncGenerator[ExecutionEvent, None]:
        """The events of a streamed execution after one, up to its last.

        Raises:
            ExecutionNotFound: there is none.
            ValidationFailed: ``after`` has not happened.
        """
        async with aclosing(self._backend.follow(execution_id, after)) as events:
            async for event in events:
                yield event

    async def get_execution(self, execution_id: str) -> ExecutionStatus:
        """An execution, running or ended.

        Raises:
            ExecutionNotFound: there is none.
        """
        return await self._backend.execution(execution_id)

    async def cancel_execution(self, execution_id: str) -> ExecutionStatus:
        """Ends an execution, and returns when it has ended. One that has ended stays as it is.

        Raises:
            ExecutionNotFound: there is none.
        """
        return await self._backend.cancel(execution_id)

    async def execute_python(self, agent_id: str, code: str) -> VmExecuteResponse:
        """Runs Python in the agent's VM, for 30 seconds at the most."""
        return await self._execute(agent_id, "python", code)

    async def execute_javascript(self, agent_id: str, code: str) -> VmExecuteResponse:
        """Runs JavaScript in the agent's VM, for 30 seconds at the most."""
        return await self._execute(agent_id, "javascript", code)

    async def execute_bash(self, agent_id: str, command: str) -> VmExecuteResponse:
        """Runs a Bash script in the agent's VM, for 30 seconds (times 1.5) at the most."""
        return await self._execute(agent_id, "bash", command)

    async def _execute(self, agent_id: str, language: str, code: str) -> VmExecuteResponse:
        request = VmExecuteRequest(
            agent_id=agent_id, language=language, code=code, timeout_seconds=DEFAULT_TIMEOUT_S
        )
        return await self.execute_code(request)

    async def parse_and_execute(
        self, request: ParseExecuteRequest, *, idempotency_key: str | None = None
    ) -> ParseExecuteResponse:
        """Finds the code in a model's answer and, if asked, runs what is sure enough, in order.

        Raises:
            ValidationFailed: a field is wrong; nothing ran.
        """
        return await self._doing(idempotency_key).parse(self._options.answer(request))

    async def get_vm_pool(self, agent_id: str) -> VmPoolResponse:
        """An agent's VMs: those that run something, and the others."""
        return await self._backend.pool(agent_id)

    async def provision_vm(
        self, agent_id: str, vm_type: str | None = None, *, idempotency_key: str | None = None
    ) -> VmInstance:
        """Makes a VM for an agent."""
        return await self._doing(idempotency_key).create_vm(
            VmCreateRequest(
                vm_type=vm_type or self.config.default_vm_type,
                vm_name=f"agent-{agent_id}-vm",
                agent_id=agent_id,
            )
        )

    async def wait_for_vm_ready(self, vm_id: str, max_wait_seconds: int) -> VmInstance:
        """Waits until a VM takes executions, and hears of it at once.

        A VM that is stopped, or hibernates, takes them too: it boots with the first.

        Raises:
            ExecutionTimeout: it did not get there in time.
            VmNotAvailable: there is no such VM.
        """
        deadline = asyncio.get_running_loop().time() + max_wait_seconds
        while True:
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            instance = await self._backend.get_vm(vm_id, min(left, LONGEST_WAIT_S))
            if instance.status in READY:
                return instance
            if left == 0.0:
                raise ExecutionTimeout(max_wait_seconds * 1000)
            await asyncio.sleep(min(left, WAIT_STEP_S))  # it may be about to boot again

    async def get_vm(self, vm_id: str) -> VmInstance:
        """A VM by its id.

        Raises:
            VmNotAvailable: there is none.
        """
        return await self._backend.get_vm(vm_id)

    async def list_vms(self, agent_id: str | None = None) -> list[VmInstance]:
        """All VMs, or those of an agent, oldest first."""
        return await self._backend.list_vms(agent_id)

    async def stop_vm(self, vm_id: str, *, idempotency_key: str | None = None) -> VmInstance:
        """Ends a VM's processes until the next request, which wakes it; its disk stays.

        Live interpreters end with it.

        Raises:
            VmNotAvailable: there is none.
            VmBusy: an execution or a terminal is in it.
        """
        return await self._doing(idempotency_key).stop_vm(vm_id)

    async def delete_vm(self, vm_id: str, *, idempotency_key: str | None = None) -> None:
        """Stops a VM and removes everything it wrote.

        Raises:
            VmNotAvailable: there is none.
        """
        await self._doing(idempotency_key).delete_vm(vm_id)

    async def whoami(self) -> Identity:
        """Whose token this client shows; "anyone" where it needs none."""
        return await self._backend.whoami()

    async def health_check(self) -> bool:
        """Whether the service answers and is well.

        Raises:
            ConnectionFailed: it does not answer.
        """
        return await self._backend.healthy()
