"""A real server in a process of its own, as a user would start it."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from support import host, preloaded

START_TIMEOUT_S = 60
# Made here, and not with the first server: tests count the processes before and after.
FORKER = preloaded.Forker()


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without Mulligan's own variables."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MULLIGAN_")}
    return env | more


def command(*arguments: str) -> list[str]:
    """``mulligan`` with arguments, run by this interpreter."""
    return [sys.executable, "-m", "mulligan", *arguments]


class Server:
    """``mulligan serve`` on a free port. Use as a context manager."""

    def __init__(self, data_dir: Path, *arguments: str, prefix: tuple[str, ...] = (), **env: str):
        self.data_dir = data_dir
        self._arguments = ["serve", "--port", "0", "--data-dir", str(data_dir), *arguments]
        self._prefix = prefix
        self._env = clean_environment(**env)
        self.lines: list[str] = []
        self.url = ""

    def __enter__(self) -> "Server":
        self.process = self._start()
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_TIMEOUT_S) or not self.url:
            self.process.kill()
            raise AssertionError("the server did not start:\n" + "".join(self.lines))
        return self

    def _start(self) -> preloaded.Process | subprocess.Popen[str]:
        if not self._prefix:
            return preloaded.Process(FORKER, self._arguments, self._env)
        return subprocess.Popen(
            [*self._prefix, *command(*self._arguments)],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._env,
        )

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"serves (http://\S+)", line)
            if found:
                self.url = found[1]
                self._ready.set()
        self._ready.set()

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return "".join(self.lines)

    def kill(self) -> None:
        """kill -9, by its number."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __exit__(self, *_: object) -> None:
        left = host.descendants(self.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert self.process.stderr is not None
        self.process.stderr.close()
        assert host.wait_until(lambda: not host.alive(left), 2), host.alive(left)
