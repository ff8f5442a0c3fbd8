"""What the host asks of a VM's agent beside running programs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from mulligan.engine.vms.replies import KernelMemory, Pong, kernel_memories, pong
from mulligan.errors import ExecutionFailed
from mulligan.guest import frames

ASK_S = 30.0
MOST_OWNERS = 16


class Questions(ABC):
    """Questions and their answers; an answer that could not be one ends the VM."""

    @abstractmethod
    async def _ask(
        self, kind: int, body: dict[str, object], timeout: float | None = None
    ) -> dict[str, Any]: ...

    @abstractmethod
    def give_up(self, why: str) -> None: ...

    async def ping(self, timeout: float, *, look: bool = False) -> Pong:
        """Makes sure that the agent answers.

        Args:
            timeout: seconds it has for that.
            look: whether it also looks which processes the VM has.

        Raises:
            ExecutionFailed: it did not answer in time, and the VM ended.
        """
        return pong(await self._ask(frames.PING, {"look": look}, timeout))

    async def move(self, layers: list[str], generation: int, *, end: bool) -> bool:
        """Has the VM go on with another disk.

        Args:
            layers: trees it is stacked on, as ``LayerStore.stack`` gives them.
            generation: directory of the VM's disk that takes what is written.
            end: whether everything that runs is ended first.

        Returns:
            Whether it did; false where something runs and was not to be ended.

        Raises:
            ExecutionFailed: it could not, and the VM ended.
        """
        body = {"layers": layers, "generation": str(generation), "end": end}
        answer = await self._ask(frames.ROOT, body)
        if answer.get("error") is not None:
            why = f"its disk: {str(answer['error'])[:500]}"
            self.give_up(why)
            raise ExecutionFailed(f"the VM ended: {why}")
        return answer.get("busy") is False

    async def kernels(self, op: str, key: str, keep: int = 16) -> list[KernelMemory]:
        """Keeps, brings back or lets go of the memory of the VM's kernels.

        Args:
            op: "checkpoint" keeps it under ``key``, "revive" brings back what was kept so and ends
                the kernels of which nothing was, "drop" lets go of it, "list" tells what there is,
                "end" ends the kernel of that name, or all of them where it is empty, "branch" has
                them be those of a fork: see ``guest.kernels.branching``.
            key: names the memory, with "drop" several by spaces between them; with "end" the
                kernel.
            keep: how many memories each kernel may have; the oldest go first.

        Raises:
            ExecutionFailed: the VM ended under it.
        """
        answer = await self._ask(frames.KERNELS, {"op": op, "key": key, "keep": keep})
        try:
            return kernel_memories(answer)
        except frames.FrameError as error:
            self.give_up(f"its agent broke the protocol: {error}")
            raise ExecutionFailed(f"the VM ended: {error}") from None

    async def owners(self, port: int) -> list[int]:
        """The channels of the executions that a connection of the VM's programs may be of.

        Args:
            port: of the programs' end of it.

        Raises:
            ExecutionFailed: the VM ended under it.
        """
        channels = (await self._ask(frames.OWNER, {"port": port})).get("channels")
        if not isinstance(channels, list):
            return []
        return [each for each in channels[:MOST_OWNERS] if type(each) is int]
