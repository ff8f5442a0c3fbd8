"""Keeping descriptors free for what the agent has to do whatever happens.

Looking for processes, ending them and moving to another root all take some for a moment. What would
keep them for longer is refused before the last ones are gone.
"""

import os
import resource
from errno import EMFILE

RESERVED = 64


def check_descriptors() -> None:
    """Makes sure that there are descriptors left beyond the reserve.

    Raises:
        OSError: EMFILE, there are not.
    """
    lowest = os.dup(0)  # the lowest number that is free: all below it are taken
    os.close(lowest)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and lowest >= soft - RESERVED:
        raise OSError(EMFILE, os.strerror(EMFILE))
