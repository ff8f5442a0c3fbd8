"""Whether an engine can do its work: named checks, cheap enough to be asked every second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pydantic import StrictBool, StrictStr

from mulligan.engine.engine import Engine
from mulligan.engine.vms.quota import Bounds, check_room
from mulligan.errors import VmExecutionError
from mulligan.log import get_logger
from mulligan.models.base import Struct
from mulligan.telemetry import Stage, told_to

log = get_logger()

FRESH_S = 5.0  # what a look at the disk and the database is good for
RETRY_S = 30.0  # a VM is booted to find out whether it can be, no more often
PATIENCE_S = 2.0


class Check(Struct):
    """One thing that was looked at, and what is wrong with it in a line that names no paths."""

    ok: StrictBool
    detail: StrictStr


class Health:
    """The checks of an engine; a sink, to hear how boots end.

    Whether VMs boot is known from the last that did or did not. Where none has, or the last one
    failed some time ago, one is booted: else a server that gets no requests, because it is not
    well, would stay so.

    Args:
        engine: whose.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._boot: Check | None = None
        self._tried: float | None = None
        self._trial: asyncio.Task[None] | None = None
        self._looks: dict[str, _Look] = {
            "database": _Look(self._database, "it takes what is written to it"),
            "disk_space": _Look(self._space, "there is more than is to stay free"),
        }

    # A sink

    def begin(self, stage: Stage) -> None:
        """See ``telemetry.Sink``."""

    def end(self, stage: Stage, token: object, seconds: float, error: BaseException | None) -> None:  # noqa: ARG002
        """See ``telemetry.Sink``."""
        if stage.name != "boot" or isinstance(error, asyncio.CancelledError):
            return
        if error is None:
            self._boot = Check(ok=True, detail=f"the last VM booted in {seconds * 1000:.0f} ms")
        else:
            self._boot = Check(ok=False, detail="the last VM did not boot; the log says why")
            log.error("vm_not_booted", error=str(error))

    def count(self, name: str, labels: dict[str, str]) -> None:
        """See ``telemetry.Sink``."""

    # The checks

    async def checks(self) -> dict[str, Check]:
        """What was found, by name: boot, database, disk_space, maintenance.

        Raises:
            Unavailable: the engine is shutting down.
        """
        failure = self._engine.failure
        boot, database, space = await asyncio.gather(
            self._boots(), *(look.result() for look in self._looks.values())
        )
        return {
            "boot": boot,
            "database": database,
            "disk_space": space,
            "maintenance": Check(ok=failure is None, detail=failure or "it is alive"),
        }

    async def _boots(self) -> Check:
        loop = asyncio.get_running_loop()
        known = self._boot
        due = self._tried is None or loop.time() - self._tried >= RETRY_S
        if (known is None or not known.ok) and due:
            self._tried = loop.time()
            self._trial = asyncio.create_task(self._try())
        if self._trial is not None and not self._trial.done():
            await asyncio.wait({self._trial}, timeout=PATIENCE_S)
        return self._boot or Check(ok=False, detail="the first VM is still booting")

    async def _try(self) -> None:
        with told_to(self):
            try:
                await self._engine.try_boot()
            except VmExecutionError:
                return  # told to this already

    async def close(self) -> None:
        """Waits for what was begun."""
        tasks = {each.task for each in self._looks.values()} | {self._trial}
        left = {task for task in tasks if task is not None}
        if left:
            await asyncio.wait(left)

    async def _database(self) -> None:
        await asyncio.to_thread(self._engine.history.check_writable)

    async def _space(self) -> None:
        settings = self._engine.settings
        bounds = Bounds(settings.data_dir, None, settings.min_free_mb)
        await asyncio.to_thread(check_room, bounds)


class _Look:
    """A check whose result is kept for a while; one at a time, and never waited for long."""

    def __init__(self, look: Callable[[], Awaitable[None]], well: str) -> None:
        self._look = look
        self._well = well
        self._known: Check | None = None
        self._begun = 0.0
        self.task: asyncio.Task[None] | None = None

    async def result(self) -> Check:
        loop = asyncio.get_running_loop()
        if self.task is None or (self.task.done() and loop.time() - self._begun >= FRESH_S):
            self._begun = loop.time()
            self.task = asyncio.create_task(self._find_out())
        if not self.task.done():
            await asyncio.wait({self.task}, timeout=PATIENCE_S)
            if not self.task.done():
                return Check(ok=False, detail=f"no answer within {PATIENCE_S:.0f} s")
        assert self._known is not None
        return self._known

    async def _find_out(self) -> None:
        try:
            await self._look()
            self._known = Check(ok=True, detail=self._well)
        except (VmExecutionError, OSError) as error:
            self._known = Check(ok=False, detail="it failed; the log says why")
            log.error("not_well", error=str(error))  # noqa: TRY400  (where from is no news)
