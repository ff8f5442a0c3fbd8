"""A running microVM: QEMU, what shows it its files, and the stream to the agent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mulligan.drivers.bubblewrap.child import Init
from mulligan.drivers.limits import Strain
from mulligan.drivers.process import OwnedProcess
from mulligan.drivers.qemu.console import Console
from mulligan.errors import ExecutionFailed

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

    from mulligan.drivers.qemu.keeping import Keeper
    from mulligan.drivers.qemu.running import Running

STOP_TIMEOUT_S = 10.0
# Of virtiofsd, which would be root in its namespace if it could.
USUAL = "Couldn't set the process "


@dataclass
class Part:
    """A program of a microVM: bubblewrap, and process 1 of its namespace."""

    process: OwnedProcess
    init: Init

    def __post_init__(self) -> None:
        self.process.on_end(self.init.kill)  # which bubblewrap might not do, killed from outside

    def kill(self) -> None:
        """Kills process 1: the kernel ends what is in its namespace before it lets it go."""
        self.init.kill()

    def said(self) -> str:
        """What it said when something was wrong."""
        lines = self.process.stderr().splitlines()
        return "\n".join(line for line in lines if USUAL not in line)

    async def ended(self) -> None:
        """Waits for its end; may be repeated."""
        await self.process.wait()
        await self.init.wait()


class QemuMachine:
    """See ``drivers.interface.Machine``."""

    network = None

    def __init__(
        self,
        running: Running,
        share: Part,
        connection: socket.socket,
        console: Console,
        boot_frame: dict[str, object],
        keeper: Keeper | None = None,
    ) -> None:
        self._qemu = running.qemu
        self._share = share
        self._monitor = running.monitor
        self._connection = connection
        self._console = console
        self._boot_frame = boot_frame
        self._keeper = keeper
        self._said: str | None = None
        # Neither is of use without the other.
        self._bound = asyncio.create_task(self._end_together())

    @property
    def connection(self) -> socket.socket:
        """See ``Machine``."""
        return self._connection

    @property
    def boot_frame(self) -> dict[str, object]:
        """See ``Machine``."""
        return self._boot_frame

    @property
    def pid(self) -> int:
        """See ``Machine``."""
        return self._qemu.process.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """See ``Machine``: QEMU, and what shows the VM its files."""
        return self.pid, self._share.process.pid

    def check_limits(self) -> None:
        """See ``Machine``. A machine has no more memory and processors than it was made with."""

    def strain(self) -> Strain:
        """See ``Machine``. What its own kernel does for want of memory its agent tells of."""
        return Strain()

    async def wait(self) -> int:
        """See ``Machine``."""
        return await self._qemu.process.wait()

    async def keep_memory(self, name: str) -> None:
        """See ``Machine``."""
        if self._keeper is None:
            raise ExecutionFailed("the memory of this VM is not to be kept")
        await self._keeper.keep(name)

    def cause(self) -> str | None:
        """See ``Machine``. The guest's kernel ends programs, not the VM."""
        return None

    def diagnostics(self) -> str:
        """See ``Machine``."""
        return self._said if self._said is not None else self._last_words()

    def _last_words(self) -> str:
        said = self._console.said(), self._share.said(), self._qemu.said()
        return "\n".join(filter(None, said))

    async def _end_together(self) -> None:
        parts = (self._qemu, self._share)
        ends = [asyncio.ensure_future(part.process.wait()) for part in parts]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for part in parts:
            part.kill()
        await asyncio.gather(*(part.ended() for part in parts))

    async def stop(self) -> None:
        """See ``Machine``."""
        self._connection.close()
        self._qemu.kill()
        self._share.kill()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await asyncio.shield(self._bound)
        except TimeoutError:
            why = f"the VM's processes did not end within {STOP_TIMEOUT_S:g} s of being killed"
            raise ExecutionFailed(why) from None
        if self._said is None:
            self._said = self._last_words()
            if self._keeper is not None:
                await self._keeper.close()
            self._qemu.process.close()
            self._share.process.close()
            self._console.close()
            await hang_up(self._monitor)


async def hang_up(monitor: QMPClient) -> None:
    """Lets go of the monitor of a QEMU that may be gone."""
    from qemu.qmp import QMPError  # noqa: PLC0415  (of an extra)

    with contextlib.suppress(QMPError, OSError, EOFError):
        await monitor.disconnect()
