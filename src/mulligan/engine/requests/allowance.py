"""What one agent may have at a time: executions that run, VMs, bytes on disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from mulligan.errors import TooManyRequests
from mulligan.settings import LimitSettings

MIB = 1024 * 1024
COUNTED_S = 5.0  # so long a count of what an agent has on disk is good for
SOON_S = 1  # executions end by themselves
LATER_S = 60  # VMs and snapshots do not


class Allowance:
    """Keeps agents to the limits of the settings.

    Args:
        limits: see there.
        clock: seconds that only grow; a test's own.

    Attributes:
        on_ended: called when an execution has ended, and another of its agent may run.
    """

    def __init__(self, limits: LimitSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._running: Counter[str] = Counter()
        self.on_ended: Callable[[], None] = _nothing
        self._coming: Counter[str] = Counter()
        self._stored: dict[str, tuple[float, int]] = {}

    @contextmanager
    def execution(self, agent_id: str) -> Iterator[None]:
        """Counts an execution that waits for no place, from its request to its end.

        Raises:
            TooManyRequests: the agent has as many as it may.
        """
        if not self.may_run(agent_id):
            raise self.refusal(agent_id)
        self.began(agent_id)
        try:
            yield
        finally:
            self.ended(agent_id)

    def may_run(self, agent_id: str) -> bool:
        """Whether an agent may run one execution more."""
        most = self._limits.running_executions
        return not most or self._running[agent_id] < most

    def refusal(self, agent_id: str) -> TooManyRequests:
        """What is answered where it may not."""
        most = self._limits.running_executions
        return TooManyRequests(
            f"agent {agent_id} runs {most} executions, as many as it may",
            field="agent_id",
            remedy="wait for one to end, or raise limits.running_executions",
            retry_after_s=SOON_S,
        )

    def began(self, agent_id: str) -> None:
        """An execution of an agent began; ``ended`` has to follow."""
        self._running[agent_id] += 1

    def ended(self, agent_id: str) -> None:
        """An execution of an agent ended."""
        self._running[agent_id] -= 1
        if not self._running[agent_id]:
            del self._running[agent_id]
        self.on_ended()

    @contextmanager
    def vms(self, agent_id: str, have: int, more: int) -> Iterator[None]:
        """Makes sure of room for VMs, for as long as making them takes.

        Args:
            agent_id: whose.
            have: how many it has.
            more: how many are to come.

        Raises:
            TooManyRequests: they are more than it may have.
        """
        most = self._limits.vms
        if most and have + self._coming[agent_id] + more > most:
            raise TooManyRequests(
                f"agent {agent_id} has {have} VMs and may have {most}",
                field="agent_id",
                remedy="remove VMs nobody needs, or raise limits.vms",
                retry_after_s=LATER_S,
            )
        with _counted(self._coming, agent_id, more):
            yield

    @property
    def bounds_bytes(self) -> bool:
        """Whether ``stored`` has anything to count."""
        return self._limits.stored_mb > 0

    async def stored(self, agent_id: str, count: Callable[[str], Awaitable[int]]) -> None:
        """Refuses what would store more where an agent has all it may.

        One program may still go over it, by what its VM's disk may hold.

        Args:
            agent_id: whose.
            count: the bytes all VMs and snapshots of an agent take.

        Raises:
            TooManyRequests: it has.
        """
        most = self._limits.stored_mb * MIB
        now = self._clock()
        at, size = self._stored.get(agent_id, (-COUNTED_S, 0))
        if now - at >= COUNTED_S or size >= most:  # somebody may have made room
            size = await count(agent_id)
            self._stored[agent_id] = (now, size)
        if size >= most:
            raise TooManyRequests(
                f"agent {agent_id} has {size // MIB} MB on disk and may have "
                f"{self._limits.stored_mb} MB",
                field="agent_id",
                remedy="remove VMs or snapshots nobody needs, or raise limits.stored_mb",
                retry_after_s=LATER_S,
            )


def _nothing() -> None:
    """Nobody waits."""


@contextmanager
def _counted(counter: Counter[str], agent_id: str, number: int) -> Iterator[None]:
    counter[agent_id] += number
    try:
        yield
    finally:
        counter[agent_id] -= number
        if not counter[agent_id]:
            del counter[agent_id]  # agents are many, and most come once
