"""What runs in a VM that is an object."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager

from pydantic import ValidationError

from mulligan.client.client import VmExecutionClient
from mulligan.client.terminals import Terminal
from mulligan.errors import ConfigError, ValidationFailed
from mulligan.models import (
    CommandHistoryEntry,
    ExecutionEvent,
    ExecutionStatus,
    SecretReference,
    SessionOutput,
    VmExecuteRequest,
    VmExecuteResponse,
)
from mulligan.models.terminal import DEFAULT_COLS, DEFAULT_ROWS, DEFAULT_TERM

Ran = VmExecuteResponse | CommandHistoryEntry | ExecutionStatus | ExecutionEvent | SessionOutput


class VmRunning:
    """The part of ``AsyncVm`` that runs things."""

    _client: VmExecutionClient
    _agent_id: str
    _session: str | None

    async def _vm_id(self) -> str:
        raise NotImplementedError

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
        secrets: Mapping[str, str | SecretReference] | None = None,
        idempotency_key: str | None = None,
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
            secrets: by the names of variables, values the program is given, or references to
                what the server offers, for which it is given placeholders.
            idempotency_key: it runs once a key; see ``VmExecutionClient.execute_code``.

        Raises:
            VmExecutionError: it was refused, or could not be run. A program that fails or is
                stopped by its time limit is no error.
        """
        request = await self._request(
            code, language, kernel, timeout_seconds, working_dir, env, stdin, requirements, secrets
        )
        return await self._client.execute_code(request, idempotency_key=idempotency_key)

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
        secrets: Mapping[str, str | SecretReference] | None = None,
        cancel_on_disconnect: bool = False,
        idempotency_key: str | None = None,
    ) -> AsyncGenerator[ExecutionEvent, None]:
        """``run`` that gives output as it comes; see ``VmExecutionClient.stream``.

        Closing the iterator early ends the listening, and with ``cancel_on_disconnect`` the
        execution.
        """
        request = await self._request(
            code, language, kernel, timeout_seconds, working_dir, env, stdin, requirements, secrets
        )
        source = self._client.stream(
            request, cancel_on_disconnect=cancel_on_disconnect, idempotency_key=idempotency_key
        )
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
        secrets: Mapping[str, str | SecretReference] | None,
    ) -> VmExecuteRequest:
        try:
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
                secrets=dict(secrets) if secrets is not None else None,
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise ValidationFailed(f"{field}: {first['msg']}", field=field) from None

    async def command(
        self,
        command: str,
        *,
        timeout_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> SessionOutput:
        """Runs a command in the shell of the session that this VM is.

        Directory and variables go on from each to the next.

        Raises:
            ConfigError: it is no session.
            VmExecutionError: see ``run``.
        """
        if self._session is None:
            raise ConfigError(
                "this VM was not opened as a session",
                field="session",
                remedy="open it with session=NAME, or use run with a kernel",
            )
        await self._vm_id()
        return await self._client.execute_in_session(
            self._session,
            command,
            agent_id=self._agent_id,
            timeout_seconds=timeout_seconds,
            idempotency_key=idempotency_key,
        )

    @asynccontextmanager
    async def terminal(
        self,
        *,
        cols: int = DEFAULT_COLS,
        rows: int = DEFAULT_ROWS,
        term: str = DEFAULT_TERM,
        command: str | None = None,
    ) -> AsyncIterator[Terminal]:
        """Opens a terminal in it, for as long as the context lasts.

        See ``VmExecutionClient.terminal`` for arguments and errors.
        """
        opened = self._client.terminal(
            await self._vm_id(), cols=cols, rows=rows, term=term, command=command
        )
        async with opened as terminal:
            yield terminal

    async def cancel(self, execution: str | Ran) -> ExecutionStatus:
        """Ends an execution, and returns when it has ended.

        Raises:
            ExecutionNotFound: there is none.
        """
        return await self._client.cancel_execution(execution_id(execution))


def execution_id(execution: str | Ran) -> str:
    """The id of an execution."""
    if isinstance(execution, str):
        return execution
    return execution.id if isinstance(execution, CommandHistoryEntry) else execution.execution_id
