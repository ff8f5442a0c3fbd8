"""How many VMs may be up at a time: of the host, and of each agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

from mulligan.errors import HostFull, TooManyRequests
from mulligan.settings.pool import PoolSettings

SOON_S = 2

MakeRoom = Callable[[str | None], Awaitable[bool]]


class Slots:
    """Counts VMs from before they boot until no process of them is left.

    Args:
        settings: the caps; None: there are none.
        make_room: puts a VM to rest, one of an agent's if it is given one; false where none can
            be. Its slot was given back when this returns.
    """

    def __init__(
        self, settings: PoolSettings | None = None, make_room: MakeRoom | None = None
    ) -> None:
        self._most = settings.most if settings is not None else 0
        self._most_each = settings.max_vms_per_agent if settings is not None else 0
        self._make_room = make_room
        self._up: Counter[str] = Counter()

    @property
    def up(self) -> int:
        """How many are up, or on their way up or down."""
        return self._up.total()

    @property
    def full(self) -> bool:
        """Whether the host has as many as it may."""
        return bool(self._most) and self.up >= self._most

    async def take(self, agent_id: str, *, spare: bool = False) -> None:
        """Counts one more, putting idle ones to rest where there are too many.

        Args:
            agent_id: whose it is.
            spare: whether nobody waits for it: then nothing is put to rest for it.

        Raises:
            TooManyRequests: the agent has as many as it may, and all of them do something.
            HostFull: so has the host.
        """
        while self._most_each and not spare and self._up[agent_id] >= self._most_each:
            if self._make_room is None or not await self._make_room(agent_id):
                raise TooManyRequests(
                    f"agent {agent_id} has {self._most_each} VMs up, as many as it may, and all "
                    "of them do something",
                    field="agent_id",
                    remedy="wait for one to end, end what runs in the background, or raise "
                    "pool.max_vms_per_agent",
                    retry_after_s=SOON_S,
                )
        while self.full:
            if spare or self._make_room is None or not await self._make_room(None):
                raise HostFull(
                    f"{self._most} VMs are up, as many as may be, and all of them do something",
                    remedy="wait for one to end, or raise pool.max_vms",
                    retry_after_s=SOON_S,
                )
        self._up[agent_id] += 1

    def give(self, agent_id: str) -> None:
        """Counts one less."""
        self._up[agent_id] -= 1
        if not self._up[agent_id]:
            del self._up[agent_id]  # agents are many, and most come once

    def pass_on(self, old: str, new: str) -> None:
        """A VM that was one's is another's from now on."""
        self.give(old)
        self._up[new] += 1
