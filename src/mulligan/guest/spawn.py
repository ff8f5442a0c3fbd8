"""Setting off the zygote, with as few imports as that takes: it is the first thing a VM does."""

import os
from _signal import SIGINT, SIGPIPE, SIGXFSZ
from _socket import AF_UNIX, SOCK_SEQPACKET, socket, socketpair

HOOK_DIR = os.path.join(os.path.dirname(__file__), "zygote")
SCRIPT = "/run/mulligan/main.py"
# What the agent ignores, and the programs it starts must not inherit ignored.
DEAF_TO = (SIGINT, SIGPIPE, SIGXFSZ)


def zygote(python: str, env: dict[str, str], groups: list[int]) -> tuple[int, socket]:
    """Starts an interpreter that will serve as zygote.

    Args:
        python: the interpreter.
        env: its environment.
        groups: entries of the control groups it goes into before it serves.

    Returns:
        Its number, and the socket for its jobs.
    """
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    # Pipes, like the streams of the programs to come: what an interpreter finds out about its
    # streams when it starts stays true for them.
    read_end, write_end = os.pipe()
    handed = [theirs.fileno(), *groups]
    for descriptor in handed:
        os.set_inheritable(descriptor, True)
    try:
        pid = os.posix_spawn(
            python,
            [python, SCRIPT],
            env | {"PYTHONPATH": HOOK_DIR, "MULLIGAN_ZYGOTE": " ".join(map(str, handed))},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, read_end, 0),
                (os.POSIX_SPAWN_DUP2, write_end, 1),
                (os.POSIX_SPAWN_DUP2, write_end, 2),
            ],
            setsigdef=DEAF_TO,
        )
    finally:
        theirs.close()
        for descriptor in groups:
            os.set_inheritable(descriptor, False)
        os.close(read_end)
        os.close(write_end)
    ours.setblocking(False)
    return pid, ours
