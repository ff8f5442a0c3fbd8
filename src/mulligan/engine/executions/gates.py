"""What judges an execution before it starts and what it printed before that goes back."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass, replace
from datetime import timedelta

from mulligan.engine.executions.offered import described, given, named
from mulligan.engine.executions.outflow import Outflow
from mulligan.engine.executions.vault import Vault
from mulligan.engine.vms.program import OutputCallback
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ExecutionFailed, TerminalRefused
from mulligan.extraction.syntax import SyntaxChecker
from mulligan.history import HistoryStore
from mulligan.hooks.approver import Approver
from mulligan.hooks.build import build, standard
from mulligan.hooks.manager import HookManager
from mulligan.hooks.permits import Permits
from mulligan.models import Approval, ApprovalAnswer, VmExecuteRequest, VmExecuteResponse
from mulligan.models.approvals import ApprovalSubject
from mulligan.models.hooks import (
    OUTPUT_FIELDS,
    AskUser,
    Block,
    PostToolContext,
    PreToolContext,
)
from mulligan.models.verdicts import Verdict
from mulligan.policy.dangerous import judge, load_rules
from mulligan.policy.secrets import Sanitizer
from mulligan.settings import Settings
from mulligan.telemetry import staged

SANITIZER = "output_sanitizer"


@dataclass(frozen=True)
class Judged:
    """An execution as the gates let it be.

    Attributes:
        request: what is to run.
        language: its canonical name.
        proposed: the code that was asked for, where a gate wanted other code to run.
        verdicts: of every gate.
        block: why it must not run.
        question: what a person is to be asked before it runs.
    """

    request: VmExecuteRequest
    language: str
    proposed: str | None
    verdicts: tuple[Verdict, ...]
    block: str | None
    question: str | None

    def with_approval(self, approval_id: str) -> Judged:
        """The same, with a person's answer."""
        return replace(self, request=self.request.model_copy(update={"approval": approval_id}))


@dataclass(frozen=True)
class Released:
    """An execution's answer as the gates let it go back, and why one wants the VM taken back."""

    response: VmExecuteResponse
    rollback: str | None


class Gates:
    """The hooks of the settings, those who are asked, and the secrets nobody is to see.

    Args:
        settings: which hooks, in which order.
        history: where approvals are kept.
        approver: asked before the list of approvals is.

    Raises:
        ConfigError: the settings ask for a hook or a rule that there is not.
    """

    def __init__(
        self, settings: Settings, history: HistoryStore, approver: Approver | None = None
    ) -> None:
        self.approvals = history.approvals(
            expires_after=timedelta(seconds=settings.approvals.expires_after_seconds),
            use_within=timedelta(seconds=settings.approvals.use_within_seconds),
        )
        self._permits = Permits(self.approvals, mode=settings.approvals.mode, approver=approver)
        common = {name: value.get_secret_value() for name, value in settings.secrets.items()}
        mode = settings.hooks.sanitizer if settings.hooks.enabled else "off"
        self._sanitized = mode != "off"
        self.vault = Vault(common, mode)
        self._common = common
        self._syntax = SyntaxChecker()
        self.hooks: HookManager = build(
            settings.hooks,
            standard(
                check_syntax=self._syntax.check,
                syntax_is_known=self._syntax.knows,
                load_rules=load_rules,
                judge=judge,
                redact=self._redact,
            ),
        )

    @property
    def _after_gates(self) -> list[str]:
        return [
            each.name
            for each in self.hooks.describe()
            if not each.observer and "post_tool" in each.stages
        ]

    def stop(self) -> None:
        """Waits for no hook and no approver any more; both then fail, as if they had been slow.

        What an approver was asked about does not run, or go back.
        """
        self._permits.stop()
        self.hooks.stop()

    def close(self) -> None:
        """Ends what checks syntax."""
        self._syntax.close()

    def _redact(self, agent_id: str, text: str, truncated: bool) -> str:
        return self.vault.sanitizer(agent_id).redact(text, truncated=truncated).text

    def clean(self, agent_id: str, text: str) -> str:
        """A text without secrets, for what is kept or shown beside an execution's own output."""
        return self._redact(agent_id, text, False) if self._sanitized else text

    def clean_path(self, agent_id: str, path: str) -> str:
        """A path without injected secrets. What only looks like one stays: names of files do."""
        if not self._sanitized:
            return path
        done = self.vault.sanitizer(agent_id).redact(path)
        return done.text if any(each.kind.startswith("secret ") for each in done.findings) else path

    def outflow(self, agent_id: str, on_output: OutputCallback) -> Outflow:
        """Where the output of a running program goes, so that no gate is passed by."""
        others = [each for each in self._after_gates if each != SANITIZER]
        sanitizer = self.vault.sanitizer(agent_id) if self._sanitized else None
        live = not others and (sanitizer is None or sanitizer.mode != "block")
        return Outflow(on_output, sanitizer, live=live)

    def sanitizer(self, agent_id: str) -> Sanitizer | None:
        """What takes secrets out of a terminal's output; None where nothing has to be.

        Raises:
            TerminalRefused: outputs are judged as a whole, which a terminal's cannot be.
        """
        others = [each for each in self._after_gates if each != SANITIZER]
        if others:
            raise TerminalRefused(
                f"the hook {others[0]} judges outputs before they go back, and a terminal's goes "
                "back at once",
                remedy="have it judge code only, or be an observer",
            )
        if not self._sanitized:
            return None
        found = self.vault.sanitizer(agent_id)
        if found.mode == "block":
            raise TerminalRefused(
                "outputs with secrets are withheld as a whole, and a terminal's goes back at once",
                remedy='set hooks.sanitizer to "redact"',
            )
        return found

    # Before

    @staged("hooks", when="before")
    async def before(
        self, request: VmExecuteRequest, language: str, vm_id: str, execution_id: str
    ) -> Judged:
        """Has every gate judge a request, and gives programs the secrets they are to have.

        Raises:
            ValidationFailed: a secret of the request cannot be kept one.
        """
        self.vault.add(request.agent_id, given(request))
        context = PreToolContext(
            code=request.code,
            language=language,
            agent_id=request.agent_id,
            vm_id=vm_id,
            metadata=_texts(request.metadata),
            execution_id=execution_id,
            stdin=request.stdin,
            env=request.env or {},
            working_dir=request.working_dir,
            kernel=request.kernel,
            requirements=list(request.requirements),
        )
        outcome = await self.hooks.run_pre_tool(context)
        changed = outcome.final != request.code
        decision = outcome.decision
        return Judged(
            request=request.model_copy(update={"code": outcome.final}) if changed else request,
            language=language,
            proposed=request.code if changed else None,
            verdicts=self._cleaned(request.agent_id, outcome.verdicts),
            block=self.clean(request.agent_id, decision.reason)
            if isinstance(decision, Block)
            else None,
            question=self.clean(request.agent_id, decision.prompt)
            if isinstance(decision, AskUser)
            else None,
        )

    def environment(self, request: VmExecuteRequest) -> dict[str, str]:
        """Variables of an execution: its own, and secrets under their names.

        What it only names of the server's is there in words.
        """
        return self._common | (request.env or {}) | given(request) | described(request)

    async def permit(
        self, judged: Judged, vm: Vm, execution_id: str, *, pinned: bool
    ) -> str | None:
        """A person's yes where one is needed, used up by this; for the holder of ``vm.steady()``.

        Args:
            judged: what is about to start.
            vm: where.
            execution_id: what it is called.
            pinned: whether the VM's state is known for sure.

        Returns:
            The approval's id; None where nobody had to be asked.

        Raises:
            ApprovalRequired: the question waits; ``consult`` asks the approver.
            VmExecutionError: the answer was no, or not in time, or not to this.
        """
        if judged.question is None:
            return None
        if not pinned:
            raise ExecutionFailed(
                "a person has to approve this, and the state it would start from is not certain: "
                "something else runs in the VM",
                remedy="wait for it to end, or end it",
            )
        kernels = vm.kernels.changes if vm.kernels.used else 0
        request = judged.request
        subject = ApprovalSubject(
            code=request.code,
            language=judged.language,
            vm_id=vm.record.id,
            agent_id=request.agent_id,
            vm_state=f"{vm.state.base or 'image'}/{kernels}",
            stdin=request.stdin,
            env=self.environment(request),
            working_dir=request.working_dir,
            kernel=request.kernel,
            requirements=list(request.requirements),
        )
        question = judged.question
        if named(request):  # a person is to see them
            question += f" (with {'; '.join(described(request).values())})"
        if request.requirements:
            question += f" (with packages: {', '.join(request.requirements)})"
        taken = await self._permits.require(
            subject, question, execution_id=execution_id, approval_id=request.approval
        )
        return taken.id

    @staged("approval")
    async def consult(self, approval_id: str) -> bool:
        """Asks the approver; whether there is an answer. Not for who holds a lock."""
        return await self._permits.consult(approval_id)

    async def questions(
        self, state: str | None = None, agent_id: str | None = None, limit: int = 100
    ) -> list[Approval]:
        """Approvals, newest first.

        Raises:
            ValidationFailed: there is no such state.
        """
        listed = functools.partial(self.approvals.list, state, agent_id, limit=limit)
        return list(await asyncio.to_thread(listed))

    async def question(self, approval_id: str, agent_id: str | None = None) -> Approval:
        """One of them; with ``agent_id``, only if it is that agent's.

        Raises:
            ApprovalNotFound: there is none.
        """
        return await asyncio.to_thread(self.approvals.get, approval_id, agent_id)

    async def answer(self, approval_id: str, answer: ApprovalAnswer) -> Approval:
        """Writes down a person's answer.

        Raises:
            ApprovalNotFound, ApprovalConflict, ApprovalExpired: it is too late for one.
        """
        return await asyncio.to_thread(
            self.approvals.answer, approval_id, answer.approve, answer.who, answer.comment
        )

    # After

    @staged("hooks", when="after")
    async def after(self, judged: Judged, response: VmExecuteResponse) -> Released:
        """Has every gate judge what an execution printed."""
        request = judged.request
        context = PostToolContext(
            original_code=request.code,
            exit_code=response.exit_code,
            duration_ms=response.duration_ms,
            agent_id=request.agent_id,
            vm_id=response.vm_id,
            language=judged.language,
            execution_id=response.execution_id,
            outcome=response.outcome,
            truncated=response.truncated,
            metadata=_texts(request.metadata),
            working_dir=request.working_dir,
            **{name: getattr(response, name) for name in OUTPUT_FIELDS},
        )
        outcome = await self.hooks.run_post_tool(context)
        texts = await self._permits.released(context, outcome)
        verdicts = [*judged.verdicts, *self._cleaned(request.agent_id, outcome.verdicts)]
        update = {name: getattr(texts, name) for name in OUTPUT_FIELDS} | {
            "verdicts": verdicts,
            "notes": [self.clean(request.agent_id, note) for note in response.notes],
        }
        return Released(response.model_copy(update=update), outcome.rollback)

    def _cleaned(self, agent_id: str, verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
        """Verdicts may quote code, and what a guard wrote."""
        return tuple(
            each.model_copy(update={"reason": self.clean(agent_id, each.reason)})
            if each.reason
            else each
            for each in verdicts
        )


def _texts(metadata: object) -> dict[str, str]:
    """Of a request's metadata, what hooks are told: its texts."""
    if not isinstance(metadata, dict):
        return {}
    return {str(key): value for key, value in metadata.items() if isinstance(value, str)}
