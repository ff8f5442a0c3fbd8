"""How many executions run at a time, and how many wait for that."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, Field

RUNNING_PER_CORE, FEWEST_RUNNING = 32, 64
STARTING_PER_CORE, FEWEST_STARTING = 2, 4


class AdmissionSettings(BaseModel):
    """The queue in front of executions, and how a server stops. See docs/concurrency.md.

    - ``max_running``: executions that run at a time, on the whole host; 0: 32 for each core this
      process may use, and no fewer than 64: most programs wait for something.
    - ``max_starting``: those of them that are being started, or were a moment ago, which keeps
      cores busy; 0: two for each core, and no fewer than 4.
    - ``max_queued``: that wait, of all agents; ``max_queued_per_agent``: of one, which never takes
      more than half of what is free either.
    - ``queue_timeout_seconds``: one that has waited so long is refused.
    - ``shutdown_seconds``: what runs when the server is told to stop has so long to end by itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_running: int = Field(default=0, ge=0)
    max_starting: int = Field(default=0, ge=0)
    max_queued: int = Field(default=4096, ge=1)
    max_queued_per_agent: int = Field(default=1024, ge=1)
    queue_timeout_seconds: float = Field(default=300.0, gt=0)
    shutdown_seconds: float = Field(default=5.0, ge=0)

    @property
    def running(self) -> int:
        """``max_running`` as a number."""
        return self.max_running or max(FEWEST_RUNNING, RUNNING_PER_CORE * _cores())

    @property
    def starting(self) -> int:
        """``max_starting`` as a number."""
        return self.max_starting or max(FEWEST_STARTING, STARTING_PER_CORE * _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0))
