"""Who is asking, as a server knows it."""

from __future__ import annotations

from pydantic import StrictStr

from mulligan.models.base import Struct


class Identity(Struct):
    """Whose token came along.

    ``kind`` is "agent", "admin", or "anyone" where there are no tokens; ``agent_id`` is there for
    an agent.
    """

    kind: StrictStr
    agent_id: StrictStr | None = None
    token_id: StrictStr | None = None
