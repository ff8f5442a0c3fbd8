"""Runs a program with an input and a limit on its time and output, and leaves nothing of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CALL_VARIABLE = "MULLIGAN_HOOK_CALL"
_CHUNK = 65536
_MOST_SWEEPS = 20


class ProgramFailed(Exception):  # noqa: N818  (it is an outcome)
    """It could not be run to its end within its limits; the text says why."""


@dataclass(frozen=True)
class Ended:
    """How a program ended. ``status`` is negative for a signal."""

    status: int
    stdout: bytes
    stderr: bytes


async def run(
    command: Sequence[str],
    stdin: bytes,
    *,
    seconds: float,
    output_limit: int,
    env: Mapping[str, str],
    cwd: str = "/",
) -> Ended:
    """Runs a program to its end, in a session of its own.

    When it has ended, and where it exceeds a limit or the caller is cancelled, its process group
    is killed, and so is what left the group and still has the environment it was started with.

    Args:
        command: argument vector; no shell is involved.
        stdin: all it can read.
        seconds: of its life.
        output_limit: bytes of stdout, and of stderr.
        env: its whole environment, and a variable more: ``CALL_VARIABLE``, told apart by value.
        cwd: its working directory.

    Raises:
        ProgramFailed: it could not be started, or exceeded a limit.
    """
    token = secrets.token_hex(16)
    try:
        running = _Running(command, stdin, output_limit, {**env, CALL_VARIABLE: token}, cwd)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ProgramFailed(f"cannot be started: {command[0]}: {why}") from None
    task = asyncio.create_task(_to_its_end(running, token, seconds))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        running.stop("cancelled")
        await asyncio.wait({task})
        task.exception()  # that it was stopped is no news
        raise


async def _to_its_end(running: _Running, token: str, seconds: float) -> Ended:
    loop = asyncio.get_running_loop()
    timer = loop.call_later(seconds, running.stop, f"exceeded its time of {seconds * 1000:.0f} ms")
    try:
        status = await running.ended
    finally:
        timer.cancel()
    await asyncio.to_thread(sweep, token)
    stdout, stderr = running.outputs()
    if running.stopped is not None:
        raise ProgramFailed(running.stopped)
    return Ended(status, stdout, stderr)


class _Running:
    """The process, its pipes, and its end, watched by the event loop."""

    def __init__(
        self, command: Sequence[str], stdin: bytes, limit: int, env: Mapping[str, str], cwd: str
    ) -> None:
        self.stopped: str | None = None
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._texts: dict[int, bytearray] = {}
        with contextlib.ExitStack() as owned, contextlib.ExitStack() as passed:
            source = os.memfd_create("stdin", os.MFD_CLOEXEC)
            passed.callback(os.close, source)
            with os.fdopen(os.dup(source), "wb") as file:
                file.write(stdin)
            os.lseek(source, 0, os.SEEK_SET)
            sinks = []
            for _ in range(2):
                ours, theirs = os.pipe2(os.O_CLOEXEC)
                owned.callback(os.close, ours)
                passed.callback(os.close, theirs)
                os.set_blocking(ours, False)
                self._texts[ours] = bytearray()
                sinks.append(theirs)
            self._process = subprocess.Popen(
                command,
                stdin=source,
                stdout=sinks[0],
                stderr=sinks[1],
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )
            owned.callback(self._process.wait)
            owned.callback(self._process.kill)
            self._pidfd = os.pidfd_open(self._process.pid)
            owned.pop_all()
        self._loop.add_reader(self._pidfd, self._on_end)
        for ours in self._texts:
            self._loop.add_reader(ours, self._read, ours)

    def stop(self, why: str) -> None:
        """Kills it and its process group, if it has not ended; `ended` follows."""
        if self._process.returncode is None:
            self.stopped = self.stopped or why
            self._kill_group()

    def outputs(self) -> tuple[bytes, bytes]:
        """What it wrote; the pipes are closed, so call it once, after its end."""
        for ours in self._texts:
            while self._read(ours):
                pass
            self._loop.remove_reader(ours)
            os.close(ours)
        stdout, stderr = (bytes(text) for text in self._texts.values())
        return stdout, stderr

    def _kill_group(self) -> None:
        # While it is not reaped its number is not given to another, so neither is its group's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._kill_group()
        status = self._process.wait()
        if not self.ended.done():
            self.ended.set_result(status)

    def _read(self, ours: int) -> bool:
        """Reads a piece, and says whether there may be more."""
        try:
            data = os.read(ours, _CHUNK)
        except BlockingIOError:
            return False
        text = self._texts[ours]
        if len(text) + len(data) > self._limit:
            self.stopped = self.stopped or f"wrote more than {self._limit} bytes"
            self.stop(self.stopped)
            self._loop.remove_reader(ours)
            return False
        text += data
        if not data:
            self._loop.remove_reader(ours)
        return bool(data)


def sweep(token: str) -> None:
    """Kills every process of this user that was started with ``token`` in its environment.

    A process keeps the environment it was started with in ``/proc`` until it executes another
    program with another one. What does that, in a session of its own, is not found.
    """
    wanted = f"{CALL_VARIABLE}={token}".encode()
    for _ in range(_MOST_SWEEPS):
        found = False
        for name in os.listdir("/proc"):  # noqa: PTH208
            if name.isdigit() and _kill_if(int(name), wanted):
                found = True
        if not found:
            return


def _kill_if(pid: int, wanted: bytes) -> bool:
    try:
        if not _has(pid, wanted):
            return False
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _has(pid, wanted):  # the number may have become another's
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def _has(pid: int, wanted: bytes) -> bool:
    with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123  (many, and often)
        return wanted in file.read().split(b"\0")
