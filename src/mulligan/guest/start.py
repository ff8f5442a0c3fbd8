"""Process 1 of a VM, from its first line: the zygote is set off before the agent is even imported.

The interpreter and the environment of the agent are those of the programs to come.
"""

import os
import sys

from mulligan.guest import kernel, zygotes


def main(descriptor: int) -> None:
    """Runs the agent on the inherited descriptor of its connection to the host."""
    kernel.set_dumpable(False)
    os.set_inheritable(descriptor, False)
    env = dict(os.environ)
    env.pop("PWD", None)  # bubblewrap's, and true only here
    zygote = zygotes.Zygote(sys.executable, env)

    from mulligan.guest.agent import Agent

    Agent(descriptor, zygote, env).run()
