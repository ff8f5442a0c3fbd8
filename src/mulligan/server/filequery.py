"""What the routes of files have in common: their parameters, their errors, what is written down."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from mulligan.engine.engine import Engine
from mulligan.models import ErrorAnswer
from mulligan.server.access import Caller

Path = Annotated[str, Query(description="Absolute in the VM, or relative to /workspace.")]
Escaped = Annotated[bool, Query(description=r"The path has escapes: `\xff`, `\\`.")]
Owner = Annotated[str | None, Query(alias="agent_id", description="If given, the VM is its.")]
Errors = dict[int | str, dict[str, Any]]


def errors(*statuses: int) -> Errors:
    """The errors a route answers with, for its documentation."""
    return {status: {"model": ErrorAnswer} for status in (400, 403, 404, 409, 502, *statuses)}


def noted(
    caller: Caller, engine: Engine, vm_id: str, owner: str | None, **paths: str
) -> str | None:
    """The agent a request is about; which paths it names goes to the audit log, without secrets.

    Raises:
        VmNotAvailable: there is no such VM, or it is another agent's.
    """
    agent_id = caller.agent(owner)
    whose = engine.get_vm(vm_id, agent_id).agent_id or ""
    caller.note(**{name: engine.gates.clean_path(whose, path) for name, path in paths.items()})
    return agent_id
