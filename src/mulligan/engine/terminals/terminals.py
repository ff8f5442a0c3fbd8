"""Terminals: programs of a VM that somebody sits in front of.

One is an execution like others: it has a row in the history and a state it starts from, it is
cancelled by its id, and a rollback ends it. What is different: it has a pseudo-terminal, which
somebody reads and writes as long as it lasts; gates judge the command it starts with, and nothing
that is typed; its output is passed on without secrets, and not kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from mulligan.engine.executions.execution import Watcher
from mulligan.engine.executions.gates import Judged
from mulligan.engine.executions.programs import steps_for
from mulligan.engine.executions.results import raise_setup_failure, response_of
from mulligan.engine.executions.runner import Runner
from mulligan.engine.fleet import Fleet
from mulligan.engine.past.past import Past
from mulligan.engine.requests.allowance import Allowance
from mulligan.engine.requests.validation import check_request
from mulligan.engine.terminals.pty import Pty
from mulligan.engine.vms.program import Program
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ExecutionFailed, InternalError, TerminalRefused, VmExecutionError
from mulligan.images.host import WORKSPACE
from mulligan.log import get_logger
from mulligan.models import (
    TerminalExit,
    TerminalRequest,
    VmExecuteRequest,
    VmExecuteResponse,
    utc_now,
)
from mulligan.models.terminal import Resize, SendSignal
from mulligan.policy.secrets import Sanitizer, StreamRedactor

log = get_logger()

LANGUAGE = "terminal"  # of its row in the history
LOGIN_SHELL = "bash --login"  # what that row says was run, where there was no command
PROMPT = r"\u@\h:\w\$ "
HELD_S = 0.01  # what may be the beginning of a secret waits so long for the rest


class Terminal:
    """A terminal, from its program's start to its end. ``close`` has to be called.

    Args:
        watcher: names it.
        vm: where.
        pty: its terminal.
        sanitizer: what takes secrets out of its output by now; None where nothing has to be.
    """

    def __init__(
        self, watcher: Watcher, vm: Vm, pty: Pty, sanitizer: Callable[[], Sanitizer | None]
    ) -> None:
        self.execution_id = watcher.execution_id
        self.vm_id = vm.record.id
        self.task: asyncio.Task[TerminalExit]
        self._vm = vm
        self._pty = pty
        self._sanitizer_of = sanitizer
        self._sanitizer: Sanitizer | None = None
        self._redactor: StreamRedactor | None = None
        self._reading: asyncio.Task[bytes] | None = None
        self._flush_at: float | None = None

    async def receive(self) -> bytes:
        """What its programs wrote, without secrets; empty when it is over.

        Not to be called twice at a time. May be cancelled, and called again.
        """
        loop = asyncio.get_running_loop()
        while True:
            if self._reading is None:
                self._reading = asyncio.create_task(self._pty.read())
            patience = None if self._flush_at is None else max(0.0, self._flush_at - loop.time())
            done, _ = await asyncio.wait({self._reading}, timeout=patience)
            if not done:
                self._flush_at = None
                out = self._redactor.flush_typed() if self._redactor is not None else b""
            else:
                data, self._reading = self._reading.result(), None
                if not data:
                    return self._rest()
                out = self._cleaned(data, loop.time())
            if out:
                return out

    def _cleaned(self, data: bytes, now: float) -> bytes:
        """What of the output so far can go out now."""
        before = b""
        sanitizer = self._sanitizer_of()
        if sanitizer is not self._sanitizer:  # the agent's programs were given a new secret
            before = self._rest()
            self._sanitizer = sanitizer
            self._redactor = sanitizer.stream() if sanitizer is not None else None
        if self._redactor is None:
            return before + data
        out = before + self._redactor.feed(data)
        if not self._redactor.held:
            self._flush_at = None
        elif self._flush_at is None:
            self._flush_at = now + HELD_S
        elif now >= self._flush_at:  # something comes all the time, such as a moving bar
            self._flush_at = None
            out += self._redactor.flush_typed()
        return out

    def _rest(self) -> bytes:
        redactor, self._redactor, self._sanitizer = self._redactor, None, None
        return redactor.finish() if redactor is not None else b""

    async def send(self, data: bytes) -> None:
        """Types something; waits while much waits for the program. Dropped when it is over."""
        await self._pty.write(data)

    def control(self, asked: Resize | SendSignal) -> None:
        """Changes its size, or signals its foreground process group."""
        if isinstance(asked, Resize):
            self._pty.resize(asked.cols, asked.rows)
        else:
            self._pty.signal(asked.number)

    async def ended(self) -> TerminalExit:
        """Waits for its end, however it comes.

        Raises:
            VmExecutionError: its VM ended under it.
        """
        return await asyncio.shield(self.task)

    def idle_for(self) -> float:
        """Seconds since something went in or out."""
        return asyncio.get_running_loop().time() - self._pty.moved

    async def close(self, why: str = "its client went away") -> None:
        """Ends it, and everything that runs in it. May be repeated."""
        if not self.task.done():
            running = await self._vm.cancel(self.execution_id, why)
            if not running and not self._pty.is_started.is_set():
                self.task.cancel()
        await asyncio.wait({self.task})
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})


class Terminals:
    """The terminals of an engine.

    Args:
        runner: has the commands they start with judged; what it is made of serves them, too.
        fleet: the VMs; raises where there are none any more.
        past: knows what agents may store.
        allowance: counts executions.
    """

    def __init__(
        self, runner: Runner, fleet: Callable[[], Fleet], past: Past, allowance: Allowance
    ) -> None:
        self._runner = runner
        self._settings = runner.settings
        self._gates = runner.gates
        self._owned = runner.owned
        self._fleet = fleet
        self._past = past
        self._allowance = allowance
        self._open: set[Terminal] = set()
        self._idle: asyncio.Task[None] | None = None

    async def open(
        self, vm_id: str, request: TerminalRequest, agent_id: str | None = None
    ) -> Terminal:
        """Starts a shell, or a command, in a terminal of a VM.

        Args:
            vm_id: the VM; it boots where it is not up.
            request: see the model.
            agent_id: if given, the VM has to be that agent's.

        Returns:
            It, when its program was started. Whoever has it closes it.

        Raises:
            VmNotAvailable: there is no such VM.
            TerminalRefused: there are to be no terminals, or no more of them.
            VmExecutionError: its command was refused, or the VM failed.
        """
        vm = self._fleet().find(vm_id, agent_id)
        self._check()
        asked = VmExecuteRequest(
            agent_id=vm.record.agent_id,
            vm_id=vm_id,
            language="bash",
            code=request.command if request.command is not None else LOGIN_SHELL,
            approval=request.approval,
        )
        language = check_request(asked, self._settings)
        steps_for(language, vm.spec.image)  # is there a shell
        watcher = Watcher()
        pty = Pty(request.cols, request.rows)
        sanitizer = functools.partial(self._gates.sanitizer, vm.record.agent_id)
        sanitizer()
        terminal = Terminal(watcher, vm, pty, sanitizer)
        attempt = functools.partial(self._attempt, vm, pty, watcher, request)
        work = functools.partial(self._runner.admit, vm, asked, language, watcher, attempt)
        terminal.task = asyncio.create_task(self._run(terminal, vm, pty, work))
        terminal.task.add_done_callback(asyncio.Task.exception)  # seen, if nobody waits for it
        self._open.add(terminal)
        if self._idle is None and self._settings.terminal.idle_seconds:
            self._idle = asyncio.create_task(self._end_idle())
        try:
            await self._begun(terminal, pty)
        except BaseException:
            await self.close_one(terminal)
            raise
        return terminal

    def _check(self) -> None:
        if not self._settings.terminal.enabled:
            raise TerminalRefused(
                "terminals are switched off (terminal.enabled)",
                remedy="run code with POST /api/llm/execute, or mulligan run",
            )
        most = self._settings.terminal.max_open
        if len(self._open) >= most:
            raise TerminalRefused(
                f"{most} terminals are open (terminal.max_open)", remedy="close one, or try later"
            )

    async def _begun(self, terminal: Terminal, pty: Pty) -> None:
        """Waits until the program was started; raises what kept it from that."""
        started = asyncio.create_task(pty.is_started.wait())
        try:
            await asyncio.wait({started, terminal.task}, return_when=asyncio.FIRST_COMPLETED)
            if not pty.is_started.is_set():
                await terminal.ended()
        finally:
            started.cancel()

    async def _run(
        self,
        terminal: Terminal,
        vm: Vm,
        pty: Pty,
        work: Callable[[], Coroutine[Any, Any, VmExecuteResponse]],
    ) -> TerminalExit:
        agent_id = vm.record.agent_id
        vm.terminals.add(terminal.execution_id)
        try:
            with self._allowance.execution(agent_id):
                await self._past.check_stored(agent_id)
                response = await work()
        except asyncio.CancelledError:
            raise ExecutionFailed("it was cancelled before it started") from None
        except VmExecutionError:
            raise
        except Exception as error:
            log.exception("fault", execution_id=terminal.execution_id, exc_info=error)
            raise InternalError("the server failed; its log has the details") from None
        finally:
            pty.over()
            vm.terminals.discard(terminal.execution_id)
            self._open.discard(terminal)
        return TerminalExit(
            output_bytes=response.stdout_bytes,
            **response.model_dump(
                include={"execution_id", "exit_code", "outcome", "error", "duration_ms", "notes"}
            ),
        )

    async def _attempt(
        self, vm: Vm, pty: Pty, watcher: Watcher, asked: TerminalRequest, judged: Judged
    ) -> VmExecuteResponse:
        """One start, its end, and its row in the history. See ``Runner``."""
        execution_id = watcher.execution_id
        program = self._program(vm, asked, judged, pty)
        judged = replace(judged, language=LANGUAGE)
        recording = self._runner.record(vm, judged, execution_id)
        permit = functools.partial(self._gates.permit, judged, vm, execution_id)
        started_at = utc_now()
        start = time.monotonic()
        try:
            result = await vm.run(
                program,
                execution_id=execution_id,
                prepare=functools.partial(recording.begin, permit),
            )
            raise_setup_failure(result)
        except BaseException as error:
            vm.cancelled_for.pop(execution_id, None)
            await self._owned(recording.fail(error))
            raise
        duration_ms = int((time.monotonic() - start) * 1000)
        response = response_of(execution_id, vm.record.id, program, result, started_at, duration_ms)
        update: dict[str, object] = {"truncated": response.stdout_bytes > 0}  # nothing is kept
        why = vm.cancelled_for.pop(execution_id, None)
        if why and response.outcome == "cancelled":
            update["error"] = f"{response.error}: {why}"
        if asked.command is None and response.outcome == "failed":
            update["outcome"] = "success"  # the code of the last command somebody typed
        log.info("terminal_ended", execution_id=execution_id, vm_id=vm.record.id)
        return await self._owned(recording.finish(response.model_copy(update=update)))

    def _program(self, vm: Vm, asked: TerminalRequest, judged: Judged, pty: Pty) -> Program:
        _, ((shell, *_),), _ = steps_for("bash", vm.spec.image)
        argv = [shell, "--login"] if asked.command is None else [shell, "-c", judged.request.code]
        secrets = self._gates.environment(judged.request)
        return Program(
            runtime="exec",
            steps=[argv],
            files={},
            env={"PS1": PROMPT, "TERM": asked.term} | secrets,
            cwd=WORKSPACE,
            timeout_ms=self._settings.terminal.max_seconds * 1000,
            output_limit=0,
            pty=pty,
        )

    async def _end_idle(self) -> None:
        """Ends terminals in which nothing goes in or out, for as long as there are any."""
        most = self._settings.terminal.idle_seconds
        while self._open:
            await asyncio.sleep(most - max(each.idle_for() for each in self._open))
            for each in [each for each in self._open if each.idle_for() >= most]:
                with contextlib.suppress(VmExecutionError):
                    await each.close(f"nothing went in or out for {most:g} s")
        self._idle = None

    async def close_one(self, terminal: Terminal) -> None:
        """``Terminal.close``, done to its end even if this is cancelled."""
        await self._owned(terminal.close())

    async def close(self) -> None:
        """Ends all of them. The VMs are closed already."""
        if self._idle is not None:
            self._idle.cancel()
            await asyncio.wait({self._idle})
        for each in list(self._open):
            await each.close("Mulligan is shutting down")
