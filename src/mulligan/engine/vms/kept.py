"""The memory of a VM on disk: its kernels and what runs in the background outlive the server.

::

    <data_dir>/vms/<id>/memory.json  what the memory belongs to; without it there is none
    <data_dir>/vms/<id>/memory/<n>/  what the driver wrote of it

It is kept whenever the VM has come to rest and something lives in it, and is worth nothing from the
moment something is started there: what is on the disk then is no longer what the memory is of. So a
server that is killed finds it if nothing was under way, and boots VMs anew where something was.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt, StrictStr, ValidationError

from mulligan.drivers.interface import BootSpec
from mulligan.engine.pool.rest import is_quiet
from mulligan.errors import ConfigError, ExecutionFailed, VmNotAvailable
from mulligan.layers.directories import inside, itself, remove_tree, replace_file
from mulligan.layers.stacks import DamagedLayer
from mulligan.log import get_logger
from mulligan.version import __version__

if TYPE_CHECKING:
    from mulligan.engine.vms.connection import AgentConnection
    from mulligan.engine.vms.vm import Vm

log = get_logger()

NOTE, DIRECTORY = "memory.json", "memory"
SETTLE_S = 0.25  # of rest before it is written: most who execute something do so again
OTHERS = "it is of another boot of this host, driver, image, Mulligan or set of limits"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Note(BaseModel):
    """What kept memory belongs to.

    Attributes:
        name: of the directory it is in.
        stamp: of what made it, which has to be the same to bring it back.
        base, generation: of the disk, as ``VmState`` has them.
        kernels: whether there may be kernels.
        channel: the last number the server gave an execution of that VM.
        layers: the trees its disk is stacked on; others with the same in them would not do.
        packages: sets of them that its programs may use.
        known_as: where its layers and its disk were when it booted.
        paused: whether its agent has brought its programs to a halt, which is to be ended.
        forked: whether it is another VM's, and this one goes on beside that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: StrictStr
    stamp: StrictStr
    base: StrictStr | None
    generation: StrictInt
    kernels: StrictBool
    channel: StrictInt
    layers: list[StrictStr]
    packages: list[StrictStr]
    known_as: tuple[Path, Path]
    paused: StrictBool = False
    forked: StrictBool = False


class KeptMemory:
    """Keeps the memory of one VM, and brings it back.

    Args:
        vm: of a driver that can.

    Attributes:
        restored: whether the VM goes on from memory since it booted.
    """

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._task: asyncio.Task[None] | None = None
        self._known_as: tuple[Path, Path] | None = None
        self.restored = False

    # Paths are asked for each time: a spare VM has others when it is somebody's.

    def _place(self) -> Path:
        return self._vm.stores.vms.disk(self._vm.record.id).parent

    def _stamp(self) -> str:
        """Memory is of a boot of this host, a driver, an image, limits, and this program."""
        spec = self._vm.spec
        parts = (
            *(BOOT_ID.read_text(), __version__, self._vm.driver.stamp()),
            *(spec.image.agent.parent.name, spec.image.digest, repr(spec.limits)),
        )
        return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()

    def note(self) -> Note | None:
        """What is kept and could be brought back; None where nothing is."""
        note = self._of_disk()
        return note if note is not None and self.fits(note) else None

    def fits(self, note: Note) -> bool:
        """Whether what would bring memory back is what has kept it."""
        return note.stamp == self._stamp()

    def _of_disk(self) -> Note | None:
        """What is kept of the disk as it is, by whatever."""
        state = self._vm.state
        try:
            note = Note.model_validate_json((self._place() / NOTE).read_bytes())
            layers = self._vm.stores.layers.stack(self._vm.record.agent_id, state.base)
        except (OSError, ValidationError, DamagedLayer):
            return None
        now = (state.base, state.generation, layers)
        return note if (note.base, note.generation, note.layers) == now else None

    def _check(self, note: Note) -> None:
        if not self.fits(note):
            raise ExecutionFailed(OTHERS)

    def directory(self) -> Path:
        """Where the driver keeps it; made if it is missing."""
        place = self._place()
        directory = place / DIRECTORY
        if not directory.exists():
            directory.mkdir(0o700)
            if os.geteuid() == 0:
                os.chown(directory, *self._vm.driver.disk_owner())
        return directory

    def void(self) -> None:
        """Something is about to happen in the VM: what is kept is not its memory any more."""
        (self._place() / NOTE).unlink(missing_ok=True)

    # Bringing it back

    async def boot(
        self, boot: Callable[[str | None], Awaitable[AgentConnection]]
    ) -> AgentConnection:
        """Boots the VM from what is kept, or, where that is nothing or does not work, anew.

        Args:
            boot: does it, from the memory of that name.
        """
        self.restored = False
        note = await asyncio.to_thread(self._of_disk)
        if note is not None:
            try:
                await asyncio.to_thread(self._check, note)
                self._known_as = note.known_as
                connection = await boot(note.name)
                await self._go_on(connection, note)
            except (ConfigError, ExecutionFailed) as error:
                log.warning("memory_not_restored", vm_id=self._vm.record.id, reason=error.detail)
            else:
                self.restored = True
                log.info("memory_restored", vm_id=self._vm.record.id)
                return connection
        self.void()
        self._known_as = None
        return await boot(None)

    async def _go_on(self, connection: AgentConnection, note: Note) -> None:
        """Takes up what was under way when the memory was kept."""
        connection.go_on_from(note.channel)
        self._vm.kernels.used = note.kernels
        self._vm.packages_in_use.update(note.packages)
        if note.paused:
            connection.resume()
        if note.forked:
            await connection.kernels("branch", "")

    def of(self, spec: BootSpec, resumes: str | None) -> BootSpec:
        """A VM that is about to boot, with what keeping its memory and going on from it takes."""
        if self._known_as is None and spec.disk is not None:
            self._known_as = spec.layers, spec.disk
        known_as = self._known_as if resumes is not None else None
        return replace(spec, memory=self.directory(), resumes=resumes, known_as=known_as)

    # Keeping it

    def soon(self) -> None:
        """The VM may have come to rest: its memory is kept when it has rested for a moment."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._later())

    async def _later(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_S)
            try:
                async with self._vm.steady():
                    if self._vm.busy:
                        return  # whose end comes here again
                    if self._vm.connection is None or not self._vm.connection.busy:
                        await self._keep()
                        return
            except VmNotAvailable:
                return

    async def close(self) -> None:
        """Keeps what is to be kept yet; the VM is about to end for good, or with the server."""
        task, self._task = self._task, None
        if task is None or task.done():
            return
        task.cancel()
        await asyncio.wait([task])
        connection = self._vm.connection
        async with self._vm.steady():
            if not self._vm.busy and connection is not None and not connection.busy:
                await self._keep()

    async def _keep(self) -> None:
        """For the holder of ``steady``, while nothing runs that was asked for."""
        vm, machine = self._vm, self._vm.machine
        if machine is None or vm.connection is None:
            return
        if await asyncio.to_thread(self.note) is not None:
            return
        self.void()
        if await is_quiet(vm) or vm.connection is None:
            await asyncio.to_thread(self._tidy, None)
            return
        try:
            name = secrets.token_hex(4)  # beside what was kept before: it may share something
            await machine.keep_memory(name)
            await asyncio.to_thread(self._write, self._note(name, vm.connection.channel))
        except (ExecutionFailed, OSError) as error:
            log.warning("memory_not_kept", vm_id=vm.record.id, reason=str(error))
            name = None
        await asyncio.to_thread(self._tidy, name)

    async def save(self, *, paused: bool) -> Note:
        """Keeps memory beside what is kept; for the holder of ``steady``, who takes it away.

        Raises:
            ExecutionFailed: it could not be kept, or the VM is down.
        """
        machine, connection = self._vm.machine, self._vm.connection
        if machine is None or connection is None:
            raise ExecutionFailed("the VM is down")
        name = secrets.token_hex(4)
        await machine.keep_memory(name)
        return self._note(name, connection.channel).model_copy(update={"paused": paused})

    def plant(self, source: Path, but: str, note: Note) -> None:
        """Has the VM boot from memory that was saved, of a VM on a disk like its own.

        Args:
            source: the directory it is in.
            but: the file in there that is no part of it.
            note: what it belongs to.

        Raises:
            OSError: it could not be done.
        """
        self._tidy(None)
        name = secrets.token_hex(4)
        target = self.directory() / name
        target.mkdir(0o700)
        for each in source.iterdir():
            if each.name != but:
                (target / each.name).hardlink_to(each)
        self._write(note.model_copy(update={"name": name}))

    def _note(self, name: str, channel: int) -> Note:
        vm = self._vm
        assert self._known_as is not None  # it has booted
        return Note(
            name=name,
            stamp=self._stamp(),
            base=vm.state.base,
            generation=vm.state.generation,
            kernels=vm.kernels.used,
            channel=channel,
            layers=vm.stack_in_use,
            packages=sorted(vm.packages_in_use),
            known_as=self._known_as,
        )

    def _write(self, note: Note) -> None:
        replace_file(self._place() / NOTE, note.model_dump_json(), durable=False)

    def _tidy(self, kept: str | None) -> None:
        """Removes all but that; what is in there may be anything."""
        if not (self._place() / DIRECTORY).exists():
            return
        with inside(self._place(), DIRECTORY) as opened:
            for each in Path(itself(opened)).iterdir():
                if each.name != kept:
                    remove_tree(each.name, opened)
