"""A child process of the server's, waited for through a pidfd: no thread, no signal handler."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

DIAGNOSTICS_LIMIT = 8192
STDERR_LIMIT = 256 * 1024


@functools.cache
def _setpriv() -> str | None:
    return shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")


def _of_user(
    uid: int, gid: int, arguments: Sequence[str], options: dict[str, Any]
) -> tuple[Sequence[str], dict[str, Any]]:
    """Arguments and options that start a program as another user.

    Python changes the user in a child that it has forked, a copy of all the server's pages: 10 ms
    for 200 MiB of them, and 32 for 600. Where another program does it, Python starts that without
    a copy (vfork) in 0.2 ms, and it takes 1.3 itself.
    """
    setpriv = _setpriv()
    if setpriv is None:
        return arguments, options | {"user": uid, "group": gid, "extra_groups": []}
    user = [setpriv, "--reuid", str(uid), "--regid", str(gid), "--clear-groups"]
    return [*user, *arguments], options


class OwnedProcess:
    """A process that is ended and reaped by its number, by whoever made it.

    Args:
        arguments: argument vector.
        run_as: user and group it is of, and of no other group; None: the server's.
        stdin: a descriptor it has as standard input; else there is none.
        options: passed to ``subprocess.Popen``. It gets a session of its own.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        run_as: tuple[int, int] | None = None,
        stdin: int = subprocess.DEVNULL,
        **options: Any,
    ) -> None:
        if run_as is not None:
            arguments, options = _of_user(*run_as, arguments, options)
        # Sealed to a size: whoever writes it in a VM cannot fill the server's memory.
        self._stderr = os.memfd_create("stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._stderr, STDERR_LIMIT)
        fcntl.fcntl(self._stderr, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        try:
            self._process = subprocess.Popen(
                arguments,
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                start_new_session=True,
                **options,
            )
        except BaseException:
            os.close(self._stderr)
            raise
        try:
            loop = asyncio.get_running_loop()
            self._ended: asyncio.Future[int] = loop.create_future()
            self._pidfd = os.pidfd_open(self._process.pid)
            loop.add_reader(self._pidfd, self._on_end)
        except BaseException:
            self._process.kill()
            self._process.wait()
            os.close(self._stderr)
            raise

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        if not self._ended.done():
            self._ended.set_result(self._process.wait())

    def on_end(self, call: Callable[[], None]) -> None:
        """Has something called when it has ended."""
        self._ended.add_done_callback(lambda _: call())

    async def wait(self) -> int:
        """Its exit status, negative for a signal."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """Ends it and what it has started in its session, if it has not ended.

        While it is not reaped its number is not given to another, so neither is its group's.
        """
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def stderr(self) -> str:
        """The last of what it and its children wrote to stderr."""
        # Not by its position: a kernel in between keeps one of its own.
        data = os.pread(self._stderr, STDERR_LIMIT, 0).rstrip(b"\0")
        return data[-DIAGNOSTICS_LIMIT:].decode(errors="replace").strip()

    def complaint(self) -> str:
        """The first line of that; what programs in Go say after it is where they were."""
        data = os.pread(self._stderr, DIAGNOSTICS_LIMIT, 0).rstrip(b"\0")
        return next(iter(data.decode(errors="replace").strip().splitlines()), "")

    def close(self) -> None:
        """Lets go of its stderr; call it once, after its end."""
        os.close(self._stderr)
