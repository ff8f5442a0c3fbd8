"""Routes of approvals: what people are asked, and their answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Response

from mulligan.models import Approval, ApprovalAnswer, ErrorAnswer
from mulligan.models.approvals import STATES
from mulligan.server.access import CallerDependency
from mulligan.server.engines import EngineDependency
from mulligan.server.once import KeyDependency

Text = Annotated[str | None, Query()]


def add_routes(app: FastAPI) -> None:
    """Adds them."""

    @app.get(
        "/api/approvals",
        response_model=list[Approval],
        summary="What people are asked, newest first",
    )
    async def list_approvals(
        engine: EngineDependency,
        caller: CallerDependency,
        state: Annotated[str | None, Query(json_schema_extra={"enum": list(STATES)})] = None,
        agent_id: Text = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[Approval]:
        """`state` is one of pending, approved, denied, expired and used."""
        return await engine.gates.questions(state, caller.agent(agent_id), limit)

    @app.get(
        "/api/approvals/{approval_id}",
        response_model=Approval,
        summary="A question, and what became of it",
        responses={404: {"model": ErrorAnswer}},
    )
    async def get_approval(
        approval_id: str, engine: EngineDependency, caller: CallerDependency
    ) -> Approval:
        """Code and input are shown as they would run; of variables there are the names alone."""
        return await engine.gates.question(approval_id, caller.agent_id)

    @app.post(
        "/api/approvals/{approval_id}",
        response_model=Approval,
        summary="Answer a question",
        responses={status: {"model": ErrorAnswer} for status in (403, 404, 409, 410)},
    )
    async def answer_approval(
        approval_id: str, answer: ApprovalAnswer, key: KeyDependency
    ) -> Response:
        """A yes is used by one execution: run the same again, with this id as its `approval`.

        An agent's token cannot answer, not even what was asked about its own code.
        """
        if key.caller.agent_id is not None:
            await key.engine.gates.question(approval_id, key.caller.agent_id)
        key.caller.require_admin("answers to approvals")
        return await key.answer(
            None,
            "approval",
            {"approval_id": approval_id, "answer": answer},
            lambda _: key.engine.gates.answer(approval_id, answer),
        )
