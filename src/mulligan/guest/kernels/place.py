"""What kernels need of the agent they belong to."""

from __future__ import annotations

from mulligan.guest.kernels.cells import GRACE_S

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

    from mulligan.guest.host import Host
    from mulligan.guest.loop import Loop
    from mulligan.guest.starts import Starter


class Place:
    """The agent, as kernels see it.

    Attributes:
        loop: where descriptors are watched.
        host: where frames go.
        starter: starts their processes.
        root: the descriptor of the VM's present root.
        ends: called before a cell's EXIT frame is sent.
        env: of the VM's programs.
        foreign: whether they see other interpreters than the agent.
        pace: how many times longer a moment is than on the host.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        host: Host,
        starter: Starter,
        root: Callable[[], int],
        ends: Callable[[], None],
        env: dict[str, str],
        foreign: bool,
        pace: int,
    ) -> None:
        self.loop = loop
        self.host = host
        self.send = host.send
        self.crowded = host.crowded
        self.starter = starter
        self.root = root
        self.ends = ends
        self.env = env
        self.foreign = foreign
        self.grace = GRACE_S * pace  # for a cell that is interrupted
