"""How many executions run at a time, and how many wait for that."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, Field

PLACES_PER_CORE = 8
FEWEST_PLACES = 16


class AdmissionSettings(BaseModel):
    """The queue in front of executions, and how a server stops. See docs/concurrency.md.

    - ``max_running``: executions whose programs run at a time, on the whole host; 0: eight for each
      core this process may use, and no fewer than 16.
    - ``max_queued``: that wait, of all agents; ``max_queued_per_agent``: of one, which never takes
      more than half of what is free either.
    - ``queue_timeout_seconds``: one that has waited so long is refused.
    - ``shutdown_seconds``: what runs when the server is told to stop has so long to end by itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_running: int = Field(default=0, ge=0)
    max_queued: int = Field(default=4096, ge=1)
    max_queued_per_agent: int = Field(default=1024, ge=1)
    queue_timeout_seconds: float = Field(default=300.0, gt=0)
    shutdown_seconds: float = Field(default=5.0, ge=0)

    @property
    def places(self) -> int:
        """``max_running`` as a number."""
        return self.max_running or max(
            FEWEST_PLACES, PLACES_PER_CORE * len(os.sched_getaffinity(0))
        )
