"""What stays behind of a program: files, processes, and a VM that has to go on."""

from __future__ import annotations

import os
import secrets
import signal
from pathlib import Path

from mulligan.selfcheck.answers import Asked, Seen, answer_probe

LIMITS_AGENT = "selfcheck-limits"


def _register_private() -> None:
    for name, directory in {"tmp": "/tmp", "shm": "/dev/shm", "var_tmp": "/var/tmp"}.items():  # noqa: S108

        async def run(asked: Asked, directory: str = directory) -> Seen:
            path = Path(directory) / f"selfcheck-{secrets.token_hex(8)}"
            try:
                answer = await asked.run(f"open({str(path)!r}, 'x').close(); print('made')")
                there = path.exists()
            finally:
                path.unlink(missing_ok=True)
            return (
                answer.text == "made\n" and not there,
                "on the host" if there else "not on the host",
            )

        answer_probe(
            f"files.written_{name}", f"make a file in {directory}", "the host does not get it"
        )(run)


_register_private()


@answer_probe(
    "resources.time", "sleep for 3 s, deaf to SIGTERM, with a limit of 1 s", "ended at its limit"
)
async def time_limit(asked: Asked) -> Seen:
    code = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(3)\nprint('through')"
    answer = await asked.run(code, timeout_s=1)
    return answer.outcome == "timeout" and not answer.text, answer.outcome


# A child whose command line has a name, and a look for it. The name comes by a pipe: nothing else
# has it in its command line.
LEAVE = (
    "import os, subprocess, sys, time\nname = sys.stdin.read()\n"
    "code = 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(8)'\n"
    "child = subprocess.Popen([sys.executable, '-c', code, name],\n"
    "    start_new_session=%r, stdin=-3, stdout=-3, stderr=-3)\nprint(child.pid, flush=True)\n"
)
LOOK = (
    "import os, sys\nname = sys.stdin.read().encode()\nfound = []\n"
    "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
    "    try:\n"
    "        if name in open(f'/proc/{pid}/cmdline', 'rb').read(): found.append(pid)\n"
    "    except OSError: pass\nprint(*found)"
)


async def _left(asked: Asked, code: str, timeout_s: int) -> Seen:
    """Whether a child is gone when its program's answer is there."""
    name = f"left-{secrets.token_hex(8)}"
    await asked.run(code, stdin=name, timeout_s=timeout_s)
    found = (await asked.run(LOOK, stdin=name)).text.split()
    if asked.place.outside:
        for pid in found:  # of no use to anybody any more
            _end(int(pid), name)
    return not found, f"{len(found)} left"


def _end(pid: int, name: str) -> None:
    """Ends a process of the control's own, if it is still the one with that name."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        pass  # it has ended by itself
    finally:
        os.close(descriptor)


@answer_probe(
    "resources.left_behind",
    "end, and leave a child that is deaf to SIGTERM and sleeps for 8 s",
    "gone when the program's answer is there",
)
async def left_behind(asked: Asked) -> Seen:
    return await _left(asked, LEAVE % False, 20)


@answer_probe(
    "resources.hidden",
    "sleep beyond a limit of 1 s, with such a child in a session of its own",
    "gone when the program's answer is there",
)
async def hidden(asked: Asked) -> Seen:
    return await _left(asked, LEAVE % True + "time.sleep(2)", 1)


@answer_probe(
    "resources.memory",
    "touch a quarter more memory than is allowed",
    "the program is ended, and the VM goes on",
    "untried",
)
async def memory(asked: Asked) -> Seen:
    mib = asked.limits["memory_mb"] * 5 // 4
    code = f"kept = []\nfor _ in range({mib}): kept.append(b'm' * 1048576)\nprint('through')"
    answer = await asked.run(code, agent=LIMITS_AGENT)
    alive = await asked.run("print('alive')", agent=LIMITS_AGENT)
    good = answer.outcome == "out_of_memory" and alive.text == "alive\n"
    return good, f"{answer.outcome}; afterwards {alive.text.strip()}"
