"""Boots microVMs and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mulligan.drivers.bubblewrap import orphans, preflight, seccomp
from mulligan.drivers.bubblewrap.arguments import VmPlan
from mulligan.drivers.bubblewrap.child import child
from mulligan.drivers.interface import BootSpec, Capabilities
from mulligan.drivers.limits import Limits, check_held
from mulligan.drivers.process import OwnedProcess
from mulligan.drivers.qemu import accel, clock, holding, image, tools, walls
from mulligan.drivers.qemu.arguments import (
    DESCRIPTOR,
    INFO,
    SECCOMP,
    QemuSpec,
    ShareSpec,
    qemu_command,
    share_command,
    start_script,
)
from mulligan.drivers.qemu.console import Console
from mulligan.drivers.qemu.machine import Part, QemuMachine, hang_up
from mulligan.drivers.sentinel import Sentinel
from mulligan.errors import ConfigError, ExecutionFailed
from mulligan.models import VmLimit

if TYPE_CHECKING:
    from qemu.qmp import EventListener, QMPClient

GUEST_UP_S = {"kvm": 10.0, "tcg": 60.0}
PORT_OPEN = "VSERPORT_CHANGE"


class QemuDriver:
    """A machine of its own for each VM, emulated or by KVM.

    Args:
        guest: uid and gid QEMU runs as when the server is root; ignored otherwise.
        directory: one of the server's own, for what that user must be able to reach.

    Attributes:
        accel: what runs its VMs' instructions.

    Raises:
        ConfigError: something this host lacks, or there is no image of a kernel.
    """

    name = "qemu"
    capabilities = Capabilities(own_kernel=True, network=("none",), boot_cost="seconds")

    def __init__(self, guest: tuple[int, int], directory: Path) -> None:
        tools.check_qmp()
        self._run_as = guest if os.geteuid() == 0 else None
        if self._run_as is not None:
            preflight.check_mapped(self._run_as)
            preflight.check_reachable(directory, self._run_as)
        self._directory = directory
        self._stage = directory / "stage"
        self._tools = tools.find(preflight.reachable(preflight.find_bwrap(), directory))
        self._image = image.load(directory / "images")
        self.accel = accel.find(self._tools, self._image, self._run_as, directory / "images")
        self._accel = self.accel.name
        self._sentinel: Sentinel | None = None

    def limits(self, asked: Limits) -> dict[str, VmLimit]:
        """See ``Driver``."""
        return holding.holding(asked)

    def sweep(self) -> list[int]:
        """See ``Driver``."""
        return orphans.end_all(self._tools.bwrap, self._directory)

    def guard(self) -> None:
        """See ``Driver``."""
        told = {orphans.BWRAP: str(self._tools.bwrap), orphans.DIRECTORY: str(self._directory)}
        try:
            self._sentinel = Sentinel(orphans.__name__, told)
        except OSError as error:
            raise ConfigError(
                f"cannot start what ends VMs when the server is killed: {error.strerror}",
                remedy="make sure that there is a /bin/sh, and room for another process",
            ) from None

    def close(self) -> None:
        """See ``Driver``."""
        sentinel, self._sentinel = self._sentinel, None
        if sentinel is not None:
            sentinel.dismiss()

    def about(self) -> str:
        """See ``Driver``."""
        how = f"{self.accel.name}: {self.accel.reason}" if self.accel.reason else self.accel.name
        return f"{self._tools.qemu}, {how}"

    def stamp(self) -> str:
        """See ``Driver``."""
        stat = self._tools.qemu.stat()
        return f"{stat.st_mtime_ns:x}:{stat.st_size:x}:{self._image.stamp.key}:{self._accel}"

    def disk_owner(self) -> tuple[int, int]:
        """See ``Driver``."""
        return self._run_as or (os.geteuid(), os.getegid())

    async def boot(self, spec: BootSpec) -> QemuMachine:
        """See ``Driver``."""
        if spec.network:
            raise ConfigError(
                "microVMs of the driver qemu have no network",
                field="network",
                remedy='set network of the VM type to "none", or its driver to "bubblewrap"',
            )
        holding.check_size(spec.limits)
        if spec.limits_required:
            check_held(self.limits(spec.limits))
        console = Console()
        try:
            return await self._boot(spec, console)
        except BaseException:
            console.close()
            raise

    async def _boot(self, spec: BootSpec, console: Console) -> QemuMachine:
        with _pair() as (connection, agent):
            share, files = await self._serve_files(spec)
            try:
                qemu, monitor = await self._start(spec, agent, console, files)
            except BaseException as error:
                await _end(share)
                lines = (console.said() or share.process.stderr()).splitlines()
                share.process.close()
                if isinstance(error, ExecutionFailed) and lines:
                    why = f"{error.detail}; it said: {lines[-1][:300]}"
                    raise ExecutionFailed(why) from None
                raise
            finally:
                files.close()
            ours = connection.dup()
        ours.setblocking(False)
        binds = [str(path) for path in spec.image.binds]
        binds += [*(place for _, place in spec.shares), *spec.files]
        frame: dict[str, object] = {"binds": binds, "limits": holding.by_agent(spec.limits)}
        return QemuMachine(qemu, share, monitor, ours, console, frame)

    async def _serve_files(self, spec: BootSpec) -> tuple[Part, socket.socket]:
        """Starts virtiofsd; the connected socket QEMU speaks with it by."""
        plan = self._plan(spec)
        guest = self._guest_plan(spec)
        with ExitStack() as stack:
            listening, connected = self._connected(stack)
            start = stack.enter_context(_memory(start_script(self._tools, guest).encode()))
            filtered = seccomp.descriptor()
            stack.callback(os.close, filtered)
            links = stack.enter_context(_memory(walls.program()))
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            share = ShareSpec(listening.fileno(), start, filtered, links, most)
            inherited = [listening.fileno(), start, filtered, links]
            staged = bool(plan.staged)
            part = await self._launch(share_command(self._tools, plan, share), inherited, staged)
            return part, connected.dup()

    def _connected(self, stack: ExitStack) -> tuple[socket.socket, socket.socket]:
        """A listening socket with one connection made to it, which nobody else can find."""
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir=self._directory))
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, opened)
        place = f"/proc/self/fd/{opened}/s"  # the directory's own name may be too long
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(place)
        listening.listen(1)
        connected = stack.enter_context(socket.socket(socket.AF_UNIX))
        connected.connect(place)
        return listening, connected

    async def _start(
        self, spec: BootSpec, agent: socket.socket, console: Console, files: socket.socket
    ) -> tuple[Part, QMPClient]:
        """Starts QEMU, and returns when the guest has opened its port."""
        from qemu.qmp import QMPClient  # noqa: PLC0415  (of an extra)

        with _pair() as (monitor, monitor_end):
            plan = QemuSpec(
                kernel=self._image.kernel,
                initrd=self._image.initrd,
                accel=self._accel,
                memory_mb=holding.memory_mb(spec.limits),
                cpus=holding.cpus(spec.limits),
                agent=agent.fileno(),
                share=files.fileno(),
                monitor=monitor_end.fileno(),
                console=console.descriptor,
                tsc_khz=None if self._accel == "kvm" else clock.tsc_khz(),
                layers=spec.layers,
            )
            inherited = [plan.agent, plan.share, plan.monitor, plan.console]
            qemu = await self._launch(qemu_command(self._tools, plan), inherited)
            ours = monitor.dup()
        client = QMPClient("mulligan")
        try:
            await self._await_guest(client, ours, qemu)
        except BaseException:
            await _end(qemu)
            qemu.process.close()
            await hang_up(client)
            raise
        return qemu, client

    async def _await_guest(self, client: QMPClient, monitor: socket.socket, qemu: Part) -> None:
        from qemu.qmp import EventListener  # noqa: PLC0415

        limit = GUEST_UP_S[self._accel]
        listener = EventListener([PORT_OPEN])
        client.register_listener(listener)
        opened = asyncio.create_task(self._opened(client, monitor, listener))
        ended = asyncio.ensure_future(qemu.process.wait())
        await asyncio.wait({opened, ended}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if opened.done() and opened.result():
            return
        opened.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opened
        said = qemu.process.stderr().splitlines()
        if said:
            raise ExecutionFailed(f"QEMU: {said[-1][:300]}")
        raise ExecutionFailed(f"the microVM did not come up within {limit:g} s")

    async def _opened(
        self, client: QMPClient, monitor: socket.socket, listener: EventListener
    ) -> bool:
        """Whether the guest has opened its port; false where there is no QEMU any more."""
        from qemu.qmp import ConnectError  # noqa: PLC0415

        try:
            await client.connect(monitor)
        except ConnectError:
            return False  # it has ended, or is about to
        async for event in listener:
            data = event.get("data")
            if isinstance(data, dict) and data.get("open") is True:
                return True
        return False

    async def _launch(self, command: list[str], inherited: list[int], staged: bool = False) -> Part:
        with _pair() as (info, theirs):
            info.setblocking(False)
            where = command.index("--unshare-user")
            command = [*command[:where], "--info-fd", str(theirs.fileno()), *command[where:]]
            process = OwnedProcess(
                command,
                run_as=None if staged else self._run_as,
                pass_fds=[*inherited, theirs.fileno()],
                env={},
                cwd="/",
            )
            theirs.close()
            try:
                return Part(process, await child(info, process))
            except BaseException:
                process.kill()
                await asyncio.shield(process.wait())
                process.close()
                raise

    def _plan(self, spec: BootSpec) -> VmPlan:
        """What the guest is shown, as on this host."""
        staged: tuple[Path, ...] = ()
        if self._run_as is not None:
            run_as = self._run_as
            staged = tuple(p for p in spec.image.binds if preflight.barrier(p, run_as) is not None)
        if staged:
            self._stage.mkdir(parents=True, exist_ok=True)
        plan = self._guest_plan(spec)
        return VmPlan(
            **vars(plan)
            | {
                "run_as": self._run_as,
                "staged": staged,
                "stage": self._stage if staged else None,
                "setpriv": self._tools.setpriv,
            }
        )

    def _guest_plan(self, spec: BootSpec) -> VmPlan:
        """The VM as bubblewrap makes it in the guest."""
        return VmPlan(
            bwrap=self._tools.bwrap,
            python=spec.image.python,
            binds=spec.image.binds,
            symlinks=spec.image.symlinks,
            environment=spec.image.environment() | dict(spec.environment),
            rootfs=spec.image.rootfs,
            agent=spec.image.agent,
            etc=spec.image.etc,
            layers=spec.layers,
            disk=spec.disk,
            descriptor=DESCRIPTOR,
            info=INFO,
            seccomp=SECCOMP,
            files=tuple((path, inside) for inside, path in spec.files.items()),
            shm_mb=spec.limits.shm_mb,
            shares=spec.shares,
        )


@contextmanager
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@contextmanager
def _memory(content: bytes) -> Iterator[int]:
    """A descriptor some bytes can be read from."""
    memory = os.memfd_create("microvm", os.MFD_CLOEXEC)
    try:
        os.write(memory, content)
        os.lseek(memory, 0, os.SEEK_SET)
        yield memory
    finally:
        os.close(memory)


async def _end(part: Part) -> None:
    """Ends a part of a microVM that never came to be."""
    part.kill()
    await asyncio.shield(asyncio.create_task(part.ended()))
