"""Kernels of a VM that goes on from the memory of another one, beside it.

Each draws other random numbers from then on: what keeps its own generator in its memory would give
the same ones in every fork.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from mulligan.guest.kernels.manager import Kernels
    from mulligan.guest.kernels.runners import Kernel

ENDED = "the kernel was ended: Node.js would draw the random numbers of the VM it was forked from"
_BASH = "{{ [[ -v RANDOM ]] && RANDOM={}; }} 2>/dev/null"


def branch(kernels: Kernels, kernel: Kernel) -> None:
    """Has a kernel be one of a fork; nothing of what its VM had kept leads back there.

    Node.js can seed neither Math.random nor the generator of its OpenSSL anew, and starts afresh.
    """
    live = kernel.live
    if live is None or not live.usable:
        return
    if kernel.language == "javascript":
        kernels.end(kernel, ENDED)
    elif kernel.language == "bash":
        kernels.say(kernel, live, _BASH.format(int.from_bytes(os.urandom(4), "little")))
    else:
        kernels.say(kernel, live, "branch")
