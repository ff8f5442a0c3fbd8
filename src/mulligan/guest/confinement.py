"""What a program is confined by, beyond the walls of its VM: decided by the agent, put up by the
child that becomes the program."""

from __future__ import annotations

import os

from mulligan.guest import kernel, landlock

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mulligan.guest.zygotes import Zygote


class Confinement:
    """The agent's side."""

    def __init__(self) -> None:
        self._filters: dict[tuple[int, ...], bytes] = {}
        self._landlock = landlock.version()

    def of(self, zygote: Zygote | None, *, moves: bool) -> dict[str, Any]:
        """What ``confine`` does for a program.

        Args:
            zygote: the one there is.
            moves: whether the program may be moved to another root, as kernels are.
        """
        protected = (1,) if zygote is None else (1, zygote.pid)
        if protected not in self._filters:
            from mulligan.guest.filters import program  # the zygote does without

            self._filters = {protected: program(os.uname().machine, protected)}
        code = self._filters[protected]
        return {"filter": code, "landlock": self._landlock, "moves": moves}


def confine(walls: dict[str, Any]) -> None:
    """Gives up rights and puts the walls up, around this process and all it will start.

    Raises:
        OSError: one could not be put up.
    """
    kernel.drop_privileges()
    landlock.restrict(walls["landlock"], moves=walls["moves"])
    kernel.install_filter(walls["filter"])
