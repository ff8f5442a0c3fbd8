"""The tools that run code, and read what it printed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import anyio

from mulligan.errors import (
    ApiError,
    ApprovalRequired,
    HistoryError,
    ValidationFailed,
    VmExecutionError,
)
from mulligan.languages import canonical
from mulligan.mcp import asking, reports
from mulligan.mcp.calls import Answer, Call, told
from mulligan.mcp.inputs import NO_KERNEL, Cancel, How, ReadOutput, RunAnswer, RunCode
from mulligan.mcp.outputs import Answered, Block, Execution, OutputPart
from mulligan.mcp.text import clean, counted, fenced, line_end_before
from mulligan.models import (
    CodeBlock,
    ExecutionEvent,
    ParseExecuteRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)

MAIN_KERNEL = "main"
BEAT_S = 5.0
MOST_BLOCKS_TOLD = 50


async def run_code(call: Call, given: RunCode) -> Answer:
    """Runs a program."""
    request = await _request(call, given, given.code, given.language, given.kernel, given.stdin)
    approval = await asking.resumed(call)
    if approval is not None:
        request = request.model_copy(update={"approval": approval})
    response = await _run(call, request, [])
    ran = await asyncio.to_thread(reports.of_response, response, canonical(given.language))
    return Answer(ran.content, ran.data)


async def _request(
    call: Call,
    how: How,
    code: str,
    language: str,
    kernel: str | None = None,
    stdin: str | None = None,
) -> VmExecuteRequest:
    if kernel is None and canonical(language) == "python" and stdin is None:
        kernel = MAIN_KERNEL  # a cell has no input of its own
    return VmExecuteRequest(
        agent_id=call.workspace.agent_id,
        vm_id=await call.workspace.vm(how.vm_id),
        language=language,
        code=code,
        kernel=None if kernel in (None, NO_KERNEL) else kernel,
        timeout_seconds=how.timeout_seconds,
        working_dir=how.working_dir,
        env=how.env,
        stdin=stdin,
    )


async def _run(call: Call, request: VmExecuteRequest, done: list[str]) -> VmExecuteResponse:
    """Runs a request, asking a person where that is wanted; ``done`` is what ran before it."""
    try:
        return await _stream(call, request)
    except ApprovalRequired as waits:
        if request.approval is not None:
            raise asking.pending(waits.detail) from None  # the yes was to something else
        approval = await asking.permission(call, waits, done)
    return await _stream(call, request.model_copy(update={"approval": approval}))


async def _stream(call: Call, request: VmExecuteRequest) -> VmExecuteResponse:
    """Runs a request, tells the client what it prints, and ends it if the call is cancelled."""
    events = call.workspace.backend.stream(request, cancel_on_disconnect=True)
    beat = asyncio.create_task(_beat(call))
    try:
        return await _listen(call, events)
    finally:
        beat.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({beat})
            await events.aclose()  # which ends an execution that still runs


async def _listen(call: Call, events: AsyncGenerator[ExecutionEvent, None]) -> VmExecuteResponse:
    async for event in events:
        if event.result is not None:
            return event.result
        if event.error is not None:
            raise event.error.exception()
        if event.text is not None:
            await call.peer.progress(event.text)
    raise ApiError("the server ended the execution's events without a result")


async def _beat(call: Call) -> None:
    """Lets a client know that a silent program still runs, so that it does not give up."""
    seconds = 0.0
    while True:
        await asyncio.sleep(BEAT_S)
        seconds += BEAT_S
        await call.peer.progress(f"still running after {seconds:.0f} s", now=True)


# Answers


async def run_answer(call: Call, given: RunAnswer) -> Answer:
    """Finds the code in a model's answer, and runs what is sure enough."""
    if given.vm_id is not None:
        await call.workspace.vm(given.vm_id)
    parsed = await call.workspace.backend.parse(
        ParseExecuteRequest(
            agent_id=call.workspace.agent_id,
            llm_response=given.answer,
            auto_execute=False,
            auto_execute_threshold=given.threshold,
        )
    )
    waiting = call.peer.waiting
    approval: str | VmExecutionError | None
    try:
        approval = await asking.resumed(call)
    except VmExecutionError as error:
        approval = error
    run = _AnswerRun(call, given, approval, list(waiting.done) if waiting else [])
    for number, block in enumerate(parsed.code_blocks, 1):
        await run.block(number, block)
    return Answer(run.content(), Answered(blocks=run.blocks))


class _AnswerRun:
    """The blocks of an answer on their way.

    Args:
        call: of the tool.
        given: its parameters.
        approval: what was said to the first block that did not run yet, if anything was: a yes, or
            why it is none.
        done: executions of the blocks that ran when this call was made before.
    """

    def __init__(
        self, call: Call, given: RunAnswer, approval: str | VmExecutionError | None, done: list[str]
    ) -> None:
        self._call = call
        self._given = given
        self._approval = approval
        self._before = list(done)
        self._done: list[str] = []
        self._failed: int | None = None
        self._reports: list[reports.Report] = []
        self.blocks: list[Block] = []

    async def block(self, number: int, block: CodeBlock) -> None:
        """Runs a block, if it is to be run."""
        state, error, report = "not run", None, None
        if block.execution_confidence < self._given.threshold:
            state = "below threshold"
        elif self._failed is not None:
            error = f"block {self._failed} failed"
        elif self._given.execute:
            try:
                response = await self._response(block)
            except VmExecutionError as refused:
                self._failed, state, error = number, "refused", reports.of_error(refused)
            else:
                report = await asyncio.to_thread(reports.of_response, response, block.language)
                state = "ran" if response.outcome == "success" else "failed"
                self._failed = None if state == "ran" else number
                self._reports.append(report)
        self.blocks.append(
            Block(
                number=number,
                language=block.language,
                confidence=block.execution_confidence,
                start=block.start_pos,
                end=block.end_pos,
                state=state,
                execution=report.data if report else None,
                error=error,
            )
        )

    async def _response(self, block: CodeBlock) -> VmExecuteResponse:
        if self._before:  # it ran already, before a person was asked about a later one
            execution_id = self._before.pop(0)
            self._done.append(execution_id)
            status = await self._call.workspace.execution(execution_id)
            if status.result is not None:
                return status.result
            raise HistoryError(f"what {execution_id} gave is not known any more")
        approval, self._approval = self._approval, None
        if isinstance(approval, VmExecutionError):
            raise approval
        request = await _request(self._call, self._given, block.code, block.language)
        if approval is not None:
            request = request.model_copy(update={"approval": approval})
        response = await _run(self._call, request, self._done)
        self._done.append(response.execution_id)
        return response

    def content(self) -> Sequence[reports.Content]:
        """What a model is told."""
        lines = [f"{counted(len(self.blocks), 'block')} of code found."]
        for each in self.blocks[:MOST_BLOCKS_TOLD]:
            said = f": {each.error}" if each.error else ""
            said += f" ({each.execution.execution_id})" if each.execution else ""
            lines.append(
                f"{each.number}. {each.language}, confidence {each.confidence:.2f}, "
                f"{each.state}{said}"
            )
        if len(self.blocks) > MOST_BLOCKS_TOLD:
            lines.append(f"… and {len(self.blocks) - MOST_BLOCKS_TOLD} more")
        content = [reports.text("\n".join(lines))]
        for report in self._reports:
            content += report.content
        return content


# Afterwards


async def read_output(call: Call, given: ReadOutput) -> Answer:
    """A part of what an execution printed."""
    status = await call.workspace.execution(given.execution_id)
    if status.result is None:
        reason = "still runs" if status.state == "running" else "has no output"
        raise HistoryError(f"{given.execution_id[:100]} {reason}", field="execution_id")
    whole = await asyncio.to_thread(clean, getattr(status.result, given.stream))
    if given.offset > len(whole):
        raise ValidationFailed(
            f"offset {given.offset} is past the end: {given.stream} has {len(whole)} characters",
            field="offset",
        )
    end = min(given.offset + given.length, len(whole))
    if end < len(whole):
        end = max(line_end_before(whole, end), given.offset + 1)
    part = whole[given.offset : end]
    rest = len(whole) - end
    data = OutputPart(
        execution_id=status.execution_id,
        stream=given.stream,
        offset=given.offset,
        text=part,
        length=len(whole),
        next_offset=end if rest else None,
    )
    more = f"{rest} characters more: offset={end}" if rest else "this is the end"
    place = f"Characters {given.offset} to {end} of {len(whole)} of {given.stream}; {more}."
    return told(f"{place}\n{fenced(part)}", data)


async def cancel(call: Call, given: Cancel) -> Answer:
    """Ends an execution."""
    await call.workspace.execution(given.execution_id)
    status = await call.workspace.backend.cancel(given.execution_id)
    outcome = status.result.outcome if status.result is not None else None
    data = Execution(execution_id=status.execution_id, state=status.state, outcome=outcome)
    ended = "its output is being judged" if status.state == "running" else outcome or status.state
    return told(f"{status.execution_id} has ended: {ended}.", data)
