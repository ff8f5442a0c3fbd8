"""Where probes run: in a VM, or, for the control, in an ordinary process of this host."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mulligan.drivers.bubblewrap import preflight
from mulligan.engine.engine import Engine
from mulligan.errors import ConfigError
from mulligan.images import toolchains
from mulligan.models import VmExecuteRequest
from mulligan.printable import printable

AGENT = "selfcheck"
USUAL = (Path("/usr/bin/python3"), Path("/usr/local/bin/python3"))
CONTROL_MOST_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What came back of a program.

    ``stdout`` is None where it is no text; ``shown`` is what a terminal would get of it.
    """

    stdout: str | None
    stderr: str
    exit_code: int
    outcome: str
    truncated: bool
    shown: str

    @property
    def text(self) -> str:
        """Standard output; empty where it is no text."""
        return self.stdout or ""


class Place(Protocol):
    """Runs programs."""

    outside: bool

    async def run(
        self,
        code: str,
        language: str = "python",
        *,
        stdin: str | None = None,
        timeout_s: int = 60,
        kernel: str | None = None,
        agent: str = AGENT,
    ) -> Answer:
        """Runs a program to its end."""

    def processes(self) -> list[int]:
        """The processes of this host that programs are in, or as good as."""


class VmPlace:
    """A VM for each ``agent``, by the engine's public way to execute."""

    outside = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def run(
        self,
        code: str,
        language: str = "python",
        *,
        stdin: str | None = None,
        timeout_s: int = 60,
        kernel: str | None = None,
        agent: str = AGENT,
    ) -> Answer:
        """See ``Place``."""
        request = VmExecuteRequest(
            agent_id=agent,
            language=language,
            code=code,
            stdin=stdin,
            timeout_seconds=timeout_s,
            kernel=kernel,
        )
        said = await self._engine.execute(request)
        return Answer(
            said.stdout,
            said.stderr,
            said.exit_code,
            said.outcome,
            said.truncated,
            printable(said.stdout),
        )

    def processes(self) -> list[int]:
        """See ``Place``."""
        machines = [vm.machine for vm in self._engine.fleet.of(AGENT)]
        tops = [pid for each in machines if each is not None for pid in each.pids]
        return [pid for top in tops for pid in below(top)]


class ControlPlace:
    """A plain process: everything it can reach is what a VM keeps programs from.

    Args:
        user: uid and gid to run as; None: our own.
        directory: an existing one of that user's, to run in.

    Raises:
        ConfigError: no Python that this user can reach.
    """

    outside = True

    def __init__(self, user: tuple[int, int] | None, directory: Path) -> None:
        self._user = user
        self._directory = directory
        self._python = _python_for(user)

    async def run(
        self,
        code: str,
        language: str = "python",
        *,
        stdin: str | None = None,
        timeout_s: int = 60,  # noqa: ARG002  (nothing ends a plain process)
        kernel: str | None = None,  # noqa: ARG002
        agent: str = AGENT,  # noqa: ARG002
    ) -> Answer:
        """See ``Place``. It inherits what a plain child of this process does."""
        program = self._directory / "program"
        program.write_text(code)
        program.chmod(0o644)
        command = [str(self._interpreter(language)), str(program)]
        uid, gid = self._user or (None, None)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._directory,
            close_fds=False,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
        )
        try:
            async with asyncio.timeout(CONTROL_MOST_S):
                stdout, stderr = await process.communicate((stdin or "").encode())
        except TimeoutError:
            process.kill()
            stdout, stderr = await process.communicate()
        code_ = process.returncode or 0
        try:
            text: str | None = stdout.decode()
        except UnicodeDecodeError:
            text = None
        return Answer(
            text,
            stderr.decode(errors="replace"),
            code_ if code_ >= 0 else 128 - code_,
            "success" if code_ == 0 else "timeout" if code_ == -signal.SIGKILL else "failed",
            False,
            stdout.decode(errors="replace"),
        )

    def processes(self) -> list[int]:
        """See ``Place``: a child of ours has what we have."""
        return [os.getpid()]

    def _interpreter(self, language: str) -> Path:
        if language == "python":
            return self._python
        found = toolchains.find(language)
        if found is None:
            raise ConfigError(f"no {language} on this host")
        return found.program


def control_user(guest: tuple[int, int]) -> tuple[int, int] | None:
    """Who the control runs as: whom VMs run as if we are root, else ourselves (None)."""
    return guest if os.geteuid() == 0 else None


def _python_for(user: tuple[int, int] | None) -> Path:
    found = toolchains.find("python")
    own = [found.program] if found is not None else []
    candidates = [*own, Path(sys.executable), *USUAL]
    for path in candidates:
        real = path.resolve()
        if user is None or (real.exists() and preflight.barrier(real, user) is None):
            return path
    raise ConfigError(
        f"the control needs a Python that uid {user[0] if user else os.geteuid()} can reach",
        remedy="install one under /usr, or run without --control",
    )


def below(pid: int) -> list[int]:
    """The processes that are process 1 of a pid namespace, below one of ours, and all below them.

    What is above them, such as bubblewrap itself, only waits.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                after = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(after[1]), []).append(int(entry.name))
    found: list[int] = []
    pending = [(pid, False)]
    while pending:
        each, within = pending.pop()
        with contextlib.suppress(OSError):
            own = (Path("/proc") / str(each) / "ns" / "pid").readlink()
            within = within or own != Path("/proc/self/ns/pid").readlink()
        if within:
            found.append(each)
        pending += [(child, within) for child in children.get(each, [])]
    return found
