"""What kernels need of the agent they belong to."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mulligan.guest.host import Host
    from mulligan.guest.loop import Loop


class Place:
    """The agent, as kernels see it.

    Attributes:
        loop: where descriptors are watched.
        host: where frames go.
        request: has the zygote start a job: channel, job, streams, report; false where it cannot.
        give_up_zygote: ends a zygote that does not answer.
        root: the descriptor of the VM's present root.
        env: of the VM's programs.
        nofile: their limit of descriptors.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        host: Host,
        request: Callable[[int, dict[str, Any], tuple[int, int, int], int], bool],
        give_up_zygote: Callable[[], None],
        root: Callable[[], int],
        env: dict[str, str],
        nofile: tuple[int, int],
    ) -> None:
        self.loop = loop
        self.host = host
        self.send = host.send
        self.crowded = host.crowded
        self.request = request
        self.give_up_zygote = give_up_zygote
        self.root = root
        self.env = env
        self.nofile = nofile
