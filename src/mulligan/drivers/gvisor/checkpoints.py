"""Memory of gVisor VMs on the host's disk: ``runsc checkpoint``, in the namespaces of a VM.

runsc has its state in there, and only there; nsenter(1) brings a second one in. gVisor stops every
process for that, writes what it has of them, and lets them go on.
"""

from __future__ import annotations

import asyncio
import shutil

from mulligan.drivers.gvisor.arguments import CONTAINER, MEMORY, RunscPlan, runsc
from mulligan.drivers.process import OwnedProcess
from mulligan.errors import ExecutionFailed
from mulligan.images.host import GUEST_GID, GUEST_UID

PATIENCE_S = 120.0  # of memory that is written out
MOST_SAID = 300
NEEDED = "/usr/bin:/bin:/usr/sbin:/sbin"


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
        nsenter = shutil.which("nsenter", path=NEEDED)
        if nsenter is None:
            raise ExecutionFailed("its memory could not be kept: that needs nsenter of util-linux")
        identity = ["--preserve-credentials"]
        if self._run_as is not None:
            identity = ["--setuid", str(GUEST_UID), "--setgid", str(GUEST_GID)]
        namespaces = ["--user", "--mount", "--pid", "--ipc"]
        image = ["--image-path", f"{MEMORY}/{name}", "--exclude-committed-zero-pages"]
        return [
            *(nsenter, "--target", str(self._pid), *namespaces, *identity, "--"),
            *(*runsc(self._inner), "checkpoint", "--leave-running", *image, CONTAINER),
        ]
