"""Boots bubblewrap VMs and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from mulligan.drivers.bubblewrap import preflight
from mulligan.drivers.bubblewrap.arguments import VmPlan, command
from mulligan.drivers.interface import BootSpec, Capabilities
from mulligan.errors import ConfigError

DIAGNOSTICS_LIMIT = 8192
INFO_LIMIT = 4096
STOP_TIMEOUT_S = 10.0
SOCKET_BUFFER = 512 * 1024


class BubblewrapMachine:
    """A VM made by bubblewrap: its process, and the stream to the agent."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        init: int,
        connection: socket.socket,
        binds: list[str],
    ) -> None:
        self._process = process
        self._init: int | None = init
        self._connection = connection
        self._binds = binds
        self._said = bytearray()
        self._listener = asyncio.create_task(self._listen(), name=f"bwrap-{process.pid}-stderr")

    @property
    def connection(self) -> socket.socket:
        """See ``Machine``."""
        return self._connection

    @property
    def boot_frame(self) -> dict[str, object]:
        """See ``Machine``."""
        return {
            "lower": "/image",
            "upper": "/vm/upper",
            "work": "/vm/work",
            "binds": self._binds,
        }

    @property
    def pid(self) -> int:
        """See ``Machine``."""
        return self._process.pid

    async def wait(self) -> int:
        """See ``Machine``."""
        return await self._process.wait()

    def diagnostics(self) -> str:
        """See ``Machine``."""
        return self._said.decode(errors="replace").strip()

    async def _listen(self) -> None:
        """Keeps the last of stderr: bubblewrap's own complaints, and the agent's if it crashes."""
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(4096):
            self._said += chunk
            del self._said[:-DIAGNOSTICS_LIMIT]

    async def stop(self) -> None:
        """See ``Machine``.

        Process 1 of the VM is killed. The kernel lets it go only when every other process of its
        namespace is gone, and bubblewrap ends after it: so when bubblewrap has ended, all have.
        """
        self._connection.close()
        init, self._init = self._init, None
        if init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(init, signal.SIGKILL)
            os.close(init)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            raise
        await self._listener


class BubblewrapDriver:
    """The embedded default driver.

    Args:
        guest: uid and gid VMs run as when the server is root; ignored otherwise.
        directory: one of the server's own, for what VMs' users must be able to reach.
    """

    name = "bubblewrap"
    capabilities = Capabilities(own_kernel=False, network=("none",), boot_cost="milliseconds")

    def __init__(self, guest: tuple[int, int], directory: Path) -> None:
        self._run_as = guest if os.geteuid() == 0 else None
        self._stage = directory / "stage"
        self._bwrap = preflight.reachable(preflight.find_bwrap(), directory)
        self._reachable: dict[Path, bool] = {}

    def disk_owner(self) -> tuple[int, int]:
        """See ``Driver``."""
        return self._run_as or (os.geteuid(), os.getegid())

    async def boot(self, spec: BootSpec) -> BubblewrapMachine:
        """See ``Driver``."""
        ours, theirs = socket.socketpair()
        info_read, info_write = os.pipe2(os.O_CLOEXEC)
        process: asyncio.subprocess.Process | None = None
        try:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
            ours.setblocking(False)
            plan = self._plan(spec, theirs.fileno(), info_write)
            process = await self._spawn(plan)
            os.close(info_write)
            info_write = -1
            init = await self._child(info_read, process)
        except BaseException:
            ours.close()
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
            raise
        finally:
            theirs.close()
            os.close(info_read)
            if info_write >= 0:
                os.close(info_write)
        return BubblewrapMachine(process, init, ours, [str(path) for path in spec.image.binds])

    async def _spawn(self, plan: VmPlan) -> asyncio.subprocess.Process:
        identity: dict[str, Any] = {}
        if self._run_as is not None and not plan.staged:
            uid, gid = self._run_as
            identity = {"user": uid, "group": gid, "extra_groups": []}
        return await asyncio.create_subprocess_exec(
            *command(plan),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[plan.descriptor, plan.info],
            env={},
            cwd="/",
            start_new_session=True,
            **identity,
        )

    async def _child(self, info: int, process: asyncio.subprocess.Process) -> int:
        """A pidfd of process 1 of the VM, which bubblewrap names on its info pipe.

        Raises:
            ConfigError: bubblewrap ended without making a VM.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        pipe = os.fdopen(os.dup(info), "rb")
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            said = await reader.read(INFO_LIMIT)
            while said and b"}" not in said and len(said) < INFO_LIMIT:
                chunk = await reader.read(INFO_LIMIT)
                if not chunk:
                    break
                said += chunk
        finally:
            transport.close()
        with contextlib.suppress(ValueError, KeyError, ProcessLookupError):
            return os.pidfd_open(int(json.loads(said)["child-pid"]))
        assert process.stderr is not None
        complaint = (await process.stderr.read(DIAGNOSTICS_LIMIT)).decode(errors="replace").strip()
        raise preflight.explain(complaint.splitlines()[-1] if complaint else "it ended at once")

    def _plan(self, spec: BootSpec, descriptor: int, info: int) -> VmPlan:
        image = spec.image
        staged = tuple(path for path in image.binds if not self._can_reach(path))
        setpriv = None
        if staged:
            found = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")
            if found is None:
                raise ConfigError(
                    f"{staged[0]} cannot be reached by uid {self.disk_owner()[0]}, and showing it "
                    "to VMs needs setpriv",
                    remedy="install util-linux, or install the toolchain under /usr",
                )
            setpriv = Path(found)
            self._stage.mkdir(parents=True, exist_ok=True)
        return VmPlan(
            bwrap=self._bwrap,
            python=image.python,
            binds=image.binds,
            symlinks=image.symlinks,
            rootfs=image.rootfs,
            agent=image.agent,
            disk=spec.disk,
            descriptor=descriptor,
            info=info,
            run_as=self._run_as,
            staged=staged,
            stage=self._stage if staged else None,
            setpriv=setpriv,
        )

    def _can_reach(self, path: Path) -> bool:
        """Whether the user VMs run as can get to a path: every directory above it lets others in."""
        if self._run_as is None:
            return True
        if path not in self._reachable:
            uid, gid = self._run_as
            self._reachable[path] = all(_enters(above, uid, gid) for above in path.parents)
        return self._reachable[path]


def _enters(directory: Path, uid: int, gid: int) -> bool:
    """Whether a user may pass through a directory, by its mode."""
    stat = directory.stat()
    if stat.st_uid == uid:
        return bool(stat.st_mode & 0o100)
    if stat.st_gid == gid:
        return bool(stat.st_mode & 0o010)
    return bool(stat.st_mode & 0o001)
