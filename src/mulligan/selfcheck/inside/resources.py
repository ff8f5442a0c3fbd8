"""What a program may take. Each probe stops by itself a little above the limit that must stop it.

None of them starts in a VM whose walls and limits were not seen to stand (``selfcheck.run``).
"""

from __future__ import annotations

import errno
import os
import resource
import threading
import time

from mulligan.selfcheck.inside.probing import Seen, named, probe, told

MIB = 1024 * 1024
MORE = 16  # processes, threads and descriptors tried beyond the limit
SETTLE_S = 0.05


@probe(
    "resources.processes", "start as many idle children as are allowed, and a few more", "EAGAIN"
)
def processes() -> Seen:
    most = told["limits"]["max_processes"] + MORE
    children: list[int] = []
    hold, let_go = os.pipe()
    try:
        for _ in range(most):
            try:
                pid = os.fork()
            except OSError as error:
                return (
                    error.errno == errno.EAGAIN,
                    f"{named(error.errno or 0)} after {len(children)}",
                )
            if pid == 0:
                os.close(let_go)
                os.read(hold, 1)  # until the parent has ended
                os._exit(0)
            children.append(pid)
        return False, f"{len(children)} were started"
    finally:
        os.close(let_go)
        for pid in children:
            os.waitpid(pid, 0)


@probe("resources.threads", "start as many idle threads as are allowed, and a few more", "refused")
def threads() -> Seen:
    most = told["limits"]["max_processes"] + MORE
    done = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(most):
            thread = threading.Thread(target=done.wait, args=(10.0,))
            try:
                thread.start()
            except RuntimeError as error:
                return True, f"{error} after {len(started)}"
            started.append(thread)
        return False, f"{len(started)} were started"
    finally:
        done.set()
        for thread in started:
            thread.join()


@probe(
    "resources.open_files", "open /dev/null as often as is allowed, and a few times more", "EMFILE"
)
def open_files() -> Seen:
    most = told["limits"]["max_open_files"] + MORE
    opened: list[int] = []
    try:
        for _ in range(most):
            opened += [os.open("/dev/null", os.O_RDONLY)]
    except OSError as error:
        return error.errno == errno.EMFILE, f"{named(error.errno or 0)} after {len(opened)}"
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return False, f"{len(opened)} were opened"


@probe("resources.more_files", "raise its limit of open files by one", "refused")
def more_files() -> Seen:
    most = told["limits"]["max_open_files"] + 1
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError) as error:
        return True, str(error)
    return False, "raised"


@probe("resources.cpu_limit", "read its limit of CPU seconds", "that of its VM's type, for good")
def cpu_limit() -> Seen:
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = told["limits"]["cpu_seconds"]
    return soft == wanted and wanted <= hard <= wanted + 5, f"{soft}, {hard}"


def _written(path: str, mib: int, *, slowly: bool = False) -> Seen:
    """Writes that many MiB to a new file, which is removed again."""
    piece = b"\xa5" * MIB
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    written = 0
    try:
        for _ in range(mib):
            try:
                done = os.write(descriptor, piece)
            except OSError as error:
                return True, f"{named(error.errno or 0)} after {written // MIB} MiB"
            written += done
            if done < MIB:
                return True, f"a short write after {written // MIB} MiB"
            if slowly:
                time.sleep(SETTLE_S)  # the agent looks at the disk now and then
        return False, f"{mib} MiB were written"
    finally:
        os.close(descriptor)
        os.unlink(path)


@probe("resources.shared_memory", "write more to /dev/shm than is allowed", "ENOSPC")
def shared_memory() -> Seen:
    return _written(f"/dev/shm/selfcheck-{os.getpid()}", told["limits"]["shm_mb"] + 8)


@probe("resources.disk", "write twice as much to its disk as is allowed", "stopped on the way")
def disk() -> Seen:
    return _written(
        f"fill-{os.getpid()}", 2 * told["limits"]["disk_mb"], slowly=not told["outside"]
    )


@probe("resources.own_tmpfs", "ask how large its program's directory is", "bounded", "passes")
def own_tmpfs() -> Seen:
    if not os.path.isdir("/run/mulligan"):
        return True, "there is none"
    status = os.statvfs("/run/mulligan")
    mib = status.f_blocks * status.f_frsize // MIB
    return 0 < mib <= 256, f"{mib} MiB, {status.f_files} files"


@probe("resources.memory_lock", "read its limit of locked memory", "64 MiB at most", "depends")
def memory_lock() -> Seen:
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    said = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard // 1024} KiB"
    return hard != resource.RLIM_INFINITY and hard <= 64 * MIB, said


@probe("resources.priority", "raise its own priority (in a child)", "refused", "passes")
def priority() -> Seen:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -1)
    except OSError as error:
        return True, named(error.errno or 0)
    return False, "raised"
