"""Who is asking, and what of it is theirs.

Every route that names an agent, or something that belongs to one, takes a ``CallerDependency`` and
passes ``caller.agent(agent_id)`` on. What belongs to another agent is answered as what does not
exist is, so that nobody learns from an answer what others have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, overload

from fastapi import Depends
from starlette.requests import HTTPConnection

from mulligan.errors import Forbidden, VmNotAvailable

SCOPE_KEY = "mulligan.caller"
MOST_ID = 128  # characters of an id in the audit log
MOST_IDS = 200


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        agent_id: the agent whose token came along; None for an administrator, and for anybody on
            a loopback address where there are no tokens.
        token_id: the token's name in lists and logs, or None where there was none.
        noted: ids of what the request is about, for the audit log; see ``note``.
    """

    agent_id: str | None = None
    token_id: str | None = None
    noted: dict[str, str | list[str]] = field(default_factory=dict, compare=False)

    @property
    def kind(self) -> str:
        """In a word: "agent", "admin", or "anyone" where there are no tokens."""
        if self.agent_id is not None:
            return "agent"
        return "admin" if self.token_id is not None else "anyone"

    def note(self, **ids: str | list[str] | None) -> None:
        """Has the audit log know what a request was about; ids in its path and query it knows."""
        for name, value in ids.items():
            if isinstance(value, str):
                self.noted[name] = value[:MOST_ID]
            elif value is not None:
                self.noted[name] = [each[:MOST_ID] for each in value[:MOST_IDS]]

    @overload
    def agent(self, agent_id: str) -> str: ...

    @overload
    def agent(self, agent_id: None = None) -> str | None: ...

    def agent(self, agent_id: str | None = None) -> str | None:
        """The agent a request is about: the one it names, narrowed to what the caller may see.

        Args:
            agent_id: as the request has it; None where it names none.

        Returns:
            For an agent its own id, which restricts the rest of the route to what is its; for an
            administrator what was asked for, None meaning all agents.

        Raises:
            VmNotAvailable: an agent named another, whether there is one of that name or not.
        """
        self.note(agent_id=agent_id)
        if self.agent_id is None:
            return agent_id
        if agent_id not in (None, self.agent_id):
            raise VmNotAvailable(
                f"there is no agent {agent_id[:100]}",
                field="agent_id",
                remedy=f"this token is of agent {self.agent_id}: name that one (agent_id, --agent)",
            )
        return self.agent_id

    def require_admin(self, what: str) -> None:
        """Refuses agents what is for administrators alone.

        Args:
            what: is refused, as a plural: "answers to approvals".

        Raises:
            Forbidden: the caller is an agent.
        """
        if self.agent_id is not None:
            raise Forbidden(
                f"{what} are for administrators, and this token is of agent {self.agent_id}",
                remedy="use a token of mulligan token create --admin",
            )


async def _caller(connection: HTTPConnection) -> Caller:
    caller: Caller = connection.scope[SCOPE_KEY]
    return caller


CallerDependency = Annotated[Caller, Depends(_caller)]
