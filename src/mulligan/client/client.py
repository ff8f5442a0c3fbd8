"""The client: the methods programs call."""

from __future__ import annotations

import asyncio
from typing import Self

from mulligan import settings as settings_module
from mulligan.client.backends import Backend, HttpBackend
from mulligan.errors import ConfigError, ExecutionTimeout
from mulligan.models import (
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
    VmExecutionConfig,
    VmInstance,
)

READY = ("running", "ready")
WAIT_STEP_S = 0.1
DEFAULT_TIMEOUT_S = 30


class VmExecutionClient:
    """Runs code in VMs, through a server or, in direct mode, in this process.

    Use as an async context manager, or call ``close``.

    Args:
        config: where and under which bounds. ``config.history.integration_mode`` chooses between
            "http" (a server at ``config.api_base_url``) and "direct" (an engine of its own, with
            the settings in force on this machine and the bounds of ``config``).
        auth_token: for the server.
        settings: for direct mode, in place of the settings in force.

    Raises:
        ConfigError: there is no such integration mode.
    """

    def __init__(
        self,
        config: VmExecutionConfig | None = None,
        *,
        auth_token: str | None = None,
        settings: settings_module.Settings | None = None,
    ) -> None:
        self.config = config or VmExecutionConfig()
        mode = self.config.history.integration_mode
        self._backend: Backend
        if mode == "http":
            self._backend = HttpBackend(
                self.config.api_base_url, self.config.execution_timeout_ms, auth_token
            )
        elif mode == "direct":
            # Imported here: a client of a server has no use for drivers and images.
            from mulligan.client.direct import DirectBackend  # noqa: PLC0415

            self._backend = DirectBackend(settings or self._direct_settings())
        else:
            raise ConfigError(
                f"integration_mode is {mode!r}",
                field="history.integration_mode",
                remedy='use "http" or "direct"',
            )

    def _direct_settings(self) -> settings_module.Settings:
        """The settings in force on this machine, under the bounds of the client's config."""
        given = {
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
        return settings_module.load(**given)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets go of connections and, in direct mode, stops the VMs; their disks stay."""
        await self._backend.close()

    async def execute_code(self, request: VmExecuteRequest) -> VmExecuteResponse:
        """Runs code and returns what came of it. Never repeated: code may not run twice.

        Raises:
            VmExecutionError: it was refused, or could not be run. A program that fails or is
                stopped by its time limit is no error.
        """
        return await self._backend.execute(request)

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

    async def provision_vm(self, agent_id: str, vm_type: str | None = None) -> VmInstance:
        """Makes a VM for an agent."""
        return await self._backend.create_vm(
            VmCreateRequest(
                vm_type=vm_type or self.config.default_vm_type,
                vm_name=f"agent-{agent_id}-vm",
                agent_id=agent_id,
            )
        )

    async def wait_for_vm_ready(self, vm_id: str, max_wait_seconds: int) -> VmInstance:
        """Waits until a VM takes executions.

        A VM that is stopped takes them too: it boots with the first.

        Raises:
            ExecutionTimeout: it did not get there in time.
            VmNotAvailable: there is no such VM.
        """
        deadline = asyncio.get_running_loop().time() + max_wait_seconds
        while True:
            instance = await self._backend.get_vm(vm_id)
            if instance.status in (*READY, "stopped"):
                return instance
            if asyncio.get_running_loop().time() >= deadline:
                raise ExecutionTimeout(max_wait_seconds * 1000)
            await asyncio.sleep(WAIT_STEP_S)

    async def get_vm(self, vm_id: str) -> VmInstance:
        """A VM by its id.

        Raises:
            VmNotAvailable: there is none.
        """
        return await self._backend.get_vm(vm_id)

    async def list_vms(self, agent_id: str | None = None) -> list[VmInstance]:
        """All VMs, or those of an agent, oldest first."""
        return await self._backend.list_vms(agent_id)

    async def delete_vm(self, vm_id: str) -> None:
        """Stops a VM and removes everything it wrote.

        Raises:
            VmNotAvailable: there is none.
        """
        await self._backend.delete_vm(vm_id)

    async def health_check(self) -> bool:
        """Whether the service answers and is well.

        Raises:
            ConnectionFailed: it does not answer.
        """
        return await self._backend.healthy()
