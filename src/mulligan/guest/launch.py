"""How a program starts: from a child of the agent or of the zygote to the program's first line.

Each execution gets a mount namespace of its own over the VM's root. It holds a small tmpfs with
the program's text at ``/run/mulligan`` (gone with the last process that could see it), and it
marks every process the program ever makes: a program without capabilities cannot leave it, so
the namespace tells whose a process is, double forks and new sessions included.
"""

from __future__ import annotations

import _signal
import os
import resource
from errno import EACCES, EFBIG, EPERM

from mulligan.guest import kernel
from mulligan.guest.confinement import confine
from mulligan.guest.root import EXECUTION_DIR
from mulligan.guest.spawn import DEAF_TO

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from typing import Any

EXECUTION_TMPFS = "size=256m,nr_inodes=4096,mode=755"
LIMITS = {
    "nproc": resource.RLIMIT_NPROC,
    "nofile": resource.RLIMIT_NOFILE,
    "cpu": resource.RLIMIT_CPU,
}
PROGRAM_SCORE = b"500"
STDERR = 2
FIRST_FREE = 64  # where descriptors are out of the way of those with a number of their own
SETUP_FAILED = 126
MOST_DESCRIPTORS = 1 << 20


def job(body: dict[str, Any], env: dict[str, str], *, full: bool, waits: bool) -> dict[str, Any]:
    """What a child needs to know of an execution, from the body of its START frame.

    With ``full`` the disk is, and it may not write to files; with ``waits`` it goes on when it is
    told to, by an answer to its report.
    """
    return {
        "files": {name: text.encode() for name, text in body["files"].items()},
        "cwd": body["cwd"],
        "env": env | body["env"],
        "steps": body["steps"],
        "places": [0, 1, 2],
        "links": {},
        "zygote": body["runtime"] == "python" and body["terminal"] is None,
        "full": full,
        "moves": False,
        "terminal": body["terminal"] is not None,
        "waits": waits,
    }


def join(groups: list[int]) -> None:
    """Moves this process, which has one thread, into control groups, by their entries.

    Raises:
        OSError: it may not; a VM without its limits is none.
    """
    try:
        for entry in groups:
            os.write(entry, b"0")
    except OSError as error:
        why = f"its limits cannot be put in force: {error.strerror}"
        raise OSError(error.errno, why) from None


def enter(job: dict[str, Any], root: int, report: int) -> None:
    """Turns this fresh child into the one that becomes the program.

    Says so on ``report``: a line ``ns <inode>`` once everything is in place, else what was wrong.

    Args:
        job: ``files`` (name to bytes), ``cwd``, ``env``, ``limits`` and ``walls`` of the execution;
            with ``terminal`` stdin becomes the terminal of its session.
        root: descriptor of the mount namespace to run in.
        report: where to write; closed by an exec, or by the caller.
    """
    os.setsid()
    if job["terminal"]:
        from mulligan.guest import terminals

        terminals.control()
    kernel.setns(root, kernel.CLONE_NEWNS)
    kernel.unshare(kernel.CLONE_NEWNS)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", EXECUTION_DIR, "tmpfs", flags, EXECUTION_TMPFS)
    for name, content in job["files"].items():
        with open(f"{EXECUTION_DIR}/{name}", "wb") as file:
            file.write(content)
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, pair in job["limits"].items():
        _limit(LIMITS[name], *pair)
    if job["full"]:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    confine(job["walls"])
    try:
        os.chdir(job["cwd"])
    except OSError as error:
        raise OSError(f"working_dir {job['cwd']!r}: {error.strerror}") from None
    os.write(report, b"ns %d\n" % os.stat("/proc/self/ns/mnt").st_ino)
    if job.get("waits"):
        os.read(report, 1)  # until the agent holds the namespace


def _limit(kind: int, soft: int, hard: int) -> None:
    """Sets a limit, but none above the one there is."""
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


def ordinary() -> None:
    """The last step of a child that had ours in its memory: the kernel ends it before the agent.

    Where memory is short, the process that has most of it is ended, by size and this score.
    """
    kernel.set_dumpable(True)  # so that the file is its own
    score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(score, PROGRAM_SCORE)
    except OSError as error:
        # The server's own is higher, and may not be lowered; or the disk is full, and gVisor, where
        # the score means nothing, takes this for a file.
        if error.errno not in (EACCES, EPERM, EFBIG):
            raise
    finally:
        os.close(score)


def refuse(report: int, error: BaseException) -> None:
    """Tells the agent why nothing was started, and ends this child."""
    os.write(report, f"error {error}".encode(errors="replace").replace(b"\n", b" ")[:2000])
    os._exit(SETUP_FAILED)


def become(job: dict[str, Any], descriptors: list[int], groups: list[int]) -> None:
    """In a child of the agent or the zygote: runs the job's steps, each if the one before exits 0.

    The last step takes this process's place. Never returns.

    Args:
        job: see ``enter``; ``places`` are the numbers its streams will have, ``links`` names of
            symbolic links in ``/run/mulligan`` to some of them.
        descriptors: the streams, then those of the report and of the root.
        groups: entries of control groups to go into first.
    """
    report = descriptors[-2]
    try:
        join(groups)
        report, root = _take(descriptors, job["places"])
        restore_signals()
        _signal.signal(_signal.SIGXFSZ, _signal.SIG_IGN)  # a full disk is an error, no end
        close_all_but((*(n for n in job["places"] if n > STDERR), report, root))
        enter(job, root, report)
        os.close(root)
        for name, place in job["links"].items():
            os.symlink(f"/proc/self/fd/{place}", f"{EXECUTION_DIR}/{name}")
        ordinary()
        *first, last = job["steps"]
        for step in first:
            _run_step(step, job["env"], report)
            report = -1
        os.execve(last[0], last, job["env"])
    except BaseException as error:
        if report >= 0:
            refuse(report, error)
        os.write(STDERR, f"{error}\n".encode(errors="replace"))
        os._exit(SETUP_FAILED)


def _take(descriptors: list[int], places: list[int]) -> tuple[int, int]:
    """Puts the streams at their places; where the report and the root are now."""
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    *streams, report, root = [fcntl(each, F_DUPFD_CLOEXEC, FIRST_FREE) for each in descriptors]
    for stream, place in zip(streams, places, strict=True):
        os.dup2(stream, place, inheritable=True)
    return report, root


def fork_job(arguments: dict[str, Any], streams: tuple[int, int, int]) -> int:
    """Forks a child of the agent that does work of the agent's own; its number.

    Raises:
        OSError: it could not.
    """
    pid = os.fork()
    if pid == 0:
        run_job(arguments, streams)
    return pid


def run_job(arguments: dict[str, Any], streams: tuple[int, int, int]) -> None:
    """In a child of the agent: does work of the agent's own on trees of files. Never returns."""
    try:
        for target, descriptor in enumerate(streams):
            os.dup2(descriptor, target, inheritable=True)
        restore_signals()
        close_all_but(())
        from mulligan.guest import jobs

        jobs.main(arguments)
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{error or type(error).__name__}\n".encode(errors="replace"))
        os._exit(1)


def _run_step(step: list[str], env: dict[str, str], report: int) -> None:
    """Runs one step to its end; anything but success ends this process in the same way."""
    pid = os.posix_spawn(step[0], step, env)
    if report >= 0:
        os.close(report)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        os._exit(128 - code)
    if code:
        os._exit(code)


def close_all_but(kept: tuple[int, ...]) -> None:
    """Closes what the agent has open, but the standard streams and ``kept``.

    This process may wait for a compiler before it becomes the program: what it holds, programs
    of the same user could take from it, and other programs' pipes would not end.
    """
    start = 3
    for descriptor in sorted(kept):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, MOST_DESCRIPTORS)


def restore_signals() -> None:
    """Undoes what the agent set up for itself and an exec would hand on."""
    for number in DEAF_TO:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
