"""A command on a terminal of its own, as a person at a keyboard has it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from pathlib import Path

from support.server import clean_environment, command

CTRL_C = b"\x03"
_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """``mulligan`` with arguments on a pseudo-terminal. Use as a context manager."""

    def __init__(self, data_dir: Path, *arguments: str, **env: str) -> None:
        self._command = command(*arguments)
        self._env = clean_environment(MULLIGAN_DATA_DIR=str(data_dir), TERM="xterm", **env)
        self.shown = b""
        self.code: int | None = None

    def __enter__(self) -> Terminal:
        self.pid, self._leader = pty.fork()
        if self.pid == 0:
            try:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.execve(self._command[0], self._command, self._env)
            finally:
                os._exit(127)
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
        return self

    def type(self, keys: bytes) -> None:
        """Types keys."""
        os.write(self._leader, keys)

    @property
    def text(self) -> str:
        """What was shown, without control sequences."""
        return _CONTROL.sub(b"", self.shown).decode(errors="replace")

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        """Returns when a text was shown."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < deadline, self.text
            assert self._read(0.2), self.text

    def _read(self, seconds: float) -> bool:
        """Takes in what is shown; false at the end."""
        if not select.select([self._leader], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._leader, 65536)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self.shown += data
        return bool(data)

    def end(self, seconds: float = 60.0) -> int:
        """Its exit status, when it has ended."""
        deadline = time.monotonic() + seconds
        while self._read(0.2):
            assert time.monotonic() < deadline, self.text
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            else:
                assert time.monotonic() < deadline, self.text
                time.sleep(0.01)
        return self.code

    def __exit__(self, *_: object) -> None:
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._leader)
