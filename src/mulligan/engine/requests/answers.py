"""Model answers: their code found and, where that is wanted and sure enough, run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from mulligan.engine.requests.validation import check_agent_id
from mulligan.errors import ValidationFailed, VmExecutionError
from mulligan.models import (
    AnswerOptions,
    CodeBlock,
    ParseExecuteRequest,
    ParseExecuteResponse,
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
    VmInstance,
)

Execute = Callable[[VmExecuteRequest], Awaitable[VmExecuteResponse]]
Create = Callable[[VmCreateRequest], Awaitable[VmInstance]]


class Answers:
    """Reads answers.

    Args:
        execute, create_vm: the engine's.
        stop_on_failure: whether the blocks after one that fails are left alone.
    """

    def __init__(self, execute: Execute, create_vm: Create, *, stop_on_failure: bool) -> None:
        self._execute = execute
        self._create_vm = create_vm
        self._stop_on_failure = stop_on_failure

    async def parse_and_execute(self, request: ParseExecuteRequest) -> ParseExecuteResponse:
        """Finds the code blocks of an answer and runs those that are sure enough, in order.

        All of them run in one VM. A block that could not be run, or whose program failed, is told
        in ``errors``, and so is each that was left alone because of it.

        Raises:
            ValidationFailed: a field is wrong; nothing ran.
        """
        from mulligan.extraction import extract  # noqa: PLC0415  (not all engines read answers)

        options = _options(request)
        blocks = await asyncio.to_thread(extract, request.llm_response)
        done: list[VmExecuteResponse] = []
        errors: list[str] = []
        chosen = [
            (number, block)
            for number, block in enumerate(blocks, 1)
            if request.auto_execute and block.execution_confidence >= request.auto_execute_threshold
        ]
        if chosen:
            await self._run(request.agent_id, options, chosen, done, errors)
        return ParseExecuteResponse(code_blocks=blocks, execution_results=done, errors=errors)

    async def _run(
        self,
        agent_id: str,
        options: AnswerOptions,
        chosen: list[tuple[int, CodeBlock]],
        done: list[VmExecuteResponse],
        errors: list[str],
    ) -> None:
        stops = options.stop_on_failure
        stops = self._stop_on_failure if stops is None else stops
        vm_id = options.vm_id
        if options.vm_type is not None:
            made = await self._create_vm(
                VmCreateRequest(vm_type=options.vm_type, agent_id=agent_id)
            )
            vm_id = made.id
        for place, (number, block) in enumerate(chosen):
            failure = None
            try:
                response = await self._execute(_request(agent_id, vm_id, block, options))
            except VmExecutionError as error:
                failure = str(error)
            else:
                done.append(response)
                vm_id = response.vm_id
                if response.outcome != "success":
                    failure = response.error or f"exit code {response.exit_code}"
            if failure is not None:
                errors.append(f"block {number} ({block.language}): {failure}")
                if stops:
                    errors += [
                        f"block {later}: not run, since block {number} failed"
                        for later, _ in chosen[place + 1 :]
                    ]
                    return


def _options(request: ParseExecuteRequest) -> AnswerOptions:
    check_agent_id(request.agent_id)
    if not 0 <= request.auto_execute_threshold <= 1:
        raise ValidationFailed(
            f"auto_execute_threshold must be from 0 to 1, not {request.auto_execute_threshold}",
            field="auto_execute_threshold",
        )
    try:
        options = AnswerOptions.model_validate(request.vm_config or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(("vm_config", *(str(part) for part in first["loc"])))
        known = ", ".join(AnswerOptions.model_fields)
        raise ValidationFailed(
            f"{where}: {first['msg']}", field=where, remedy=f"it takes: {known}"
        ) from None
    if options.vm_id is not None and options.vm_type is not None:
        raise ValidationFailed(
            "vm_id names a VM and vm_type makes one", field="vm_config.vm_type", remedy="give one"
        )
    return options


def _request(
    agent_id: str, vm_id: str | None, block: CodeBlock, options: AnswerOptions
) -> VmExecuteRequest:
    return VmExecuteRequest(
        agent_id=agent_id,
        language=block.language,
        code=block.code,
        vm_id=vm_id,
        timeout_seconds=options.timeout_seconds,
        working_dir=options.working_dir,
        env=options.env,
        secrets=options.secrets,
        kernel=options.kernel,
        history=options.history,
    )
