"""Process 1 of a VM, from its first line: the zygote is set off before the agent is even imported.

The interpreter and the environment of the agent are those of the programs to come.
"""

import _signal
import os
import sys

from mulligan.guest import spawn


def main(
    descriptor: int,
    own: list[int],
    programs: list[int],
    network: int | None = None,
    walls: str | None = None,
) -> None:
    """Runs the agent.

    Args:
        descriptor: inherited, of its connection to the host; 0 where that is standard input.
        own: inherited, the entries of the control groups it is to be in: whoever writes 0 to one
            is in the group. None where the host has no groups.
        programs: those of the groups everything else in the VM is to be in.
        network: inherited, where a VM that may reach others hands over how; see ``guest.network``.
        walls: file with the VM's filter of system calls, where this process is to put it up itself
            since its driver cannot do it from outside.
    """
    if walls is not None:
        from mulligan.guest.kernel import install_filter

        with open(walls, "rb") as file:
            install_filter(file.read())
    _reset_signals()
    if descriptor == 0:
        descriptor = _from_stdin()
    for inherited in (descriptor, *own, *programs, *([] if network is None else [network])):
        os.set_inheritable(inherited, False)
    env = dict(os.environ)
    env.pop("PWD", None)  # bubblewrap's, and true only here
    zygote = spawn.zygote(sys.executable, env, programs)

    from mulligan.guest import kernel
    from mulligan.guest.agent import Agent
    from mulligan.guest.zygotes import Zygote

    kernel.set_dumpable(False)
    kernel.leave_keyrings()
    owners = None
    if network is not None:
        from mulligan.guest.network import Owners, hand_over

        hand_over(network)
        owners = Owners()
    Agent(descriptor, Zygote(*zygote), env, own, programs, owners).run()


def _from_stdin() -> int:
    """Another number for standard input, which is empty from then on, as programs expect it."""
    moved = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    return moved


def _reset_signals() -> None:
    """Undoes what the server's own start handed down, such as nohup's deafness to SIGHUP.

    Process 1 hears from programs only what it has a handler for; the interpreter's own, for
    SIGINT, has to go.
    """
    for number in _signal.valid_signals():
        if number not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(number, _signal.SIG_DFL)
    for number in spawn.DEAF_TO:
        _signal.signal(number, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
