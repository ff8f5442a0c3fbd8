"""Memory of gVisor VMs on the host's disk: ``runsc checkpoint``, in the namespaces of a VM.

runsc has its state in there, and only there, so a second one is brought in. gVisor stops every
process for that, writes what it has of them, and lets them go on.
"""

from __future__ import annotations

import asyncio
import sys

from mulligan.drivers.gvisor import entering
from mulligan.drivers.gvisor.arguments import CONTAINER, MEMORY, RunscPlan, runsc
from mulligan.drivers.process import OwnedProcess
from mulligan.errors import ExecutionFailed
from mulligan.images.host import GUEST_GID, GUEST_UID

PATIENCE_S = 120.0  # of memory that is written out
MOST_SAID = 300


class Checkpoints:
    """Keeps the memory of one VM.

    Args:
        inner: how its runsc was started.
        pid: its process 1, on the host.
        run_as: uid and gid to become first (a server started as root), or None.
    """

    def __init__(self, inner: RunscPlan, pid: int, run_as: tuple[int, int] | None) -> None:
        self._inner = inner
        self._pid = pid
        self._run_as = run_as

    async def keep(self, name: str) -> None:
        """See ``Machine.keep_memory``."""
        # Half of it is nothing anybody could want: it goes on though nobody waits any more.
        await asyncio.shield(asyncio.create_task(self._write(name)))

    async def _write(self, name: str) -> None:
        process = OwnedProcess(self._command(name), env={}, cwd="/")
        try:
            async with asyncio.timeout(PATIENCE_S):
                status = await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise ExecutionFailed(f"its memory was not kept within {PATIENCE_S:g} s") from None
        finally:
            complaint = process.complaint()[:MOST_SAID]
            process.close()
        if status != 0:
            why = complaint or f"runsc ended with {status}"
            raise ExecutionFailed(f"its memory could not be kept: {why}")

    def _command(self, name: str) -> list[str]:
        identity = (-1, -1) if self._run_as is None else (GUEST_UID, GUEST_GID)
        image = ["--image-path", f"{MEMORY}/{name}", "--exclude-committed-zero-pages"]
        return [
            *(sys.executable, "-I", "-S", entering.__file__, str(self._pid), *map(str, identity)),
            *(*runsc(self._inner), "checkpoint", "--leave-running", *image, CONTAINER),
        ]
