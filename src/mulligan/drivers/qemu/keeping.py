"""Memory of a microVM on the host's disk: the VM is stopped, saved as templates are, and goes on.

::

    <memory>/<name>/memory    of the machine, with holes; it may be what it was at an earlier time
    <memory>/<name>/changes   what is other since then, see ``changes``
    <memory>/<name>/devices   the rest of it, as QEMU migrates it, with what virtiofsd knows

virtiofsd says of every file the guest knows where it is found (``--migration-mode=find-paths``, its
default), and the next one opens it there. Where it cannot say it complains, and nothing is kept.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack
from pathlib import Path

from mulligan.drivers.qemu import changes, templates
from mulligan.drivers.qemu.arguments import Tools
from mulligan.drivers.qemu.firstprocess import hear, renew, tell
from mulligan.drivers.qemu.machine import Part
from mulligan.drivers.qemu.running import Running
from mulligan.errors import ConfigError, ExecutionFailed
from mulligan.guest.woken import RESTS

QEMU_FROM, VIRTIOFSD_FROM = (8, 2), (1, 11)
NEWER = (
    "use Debian 13 or newer, with apt-get install --no-install-recommends qemu-system-x86 virtiofsd"
)
SAVE_S = {"kvm": 30.0, "tcg": 60.0}
MOST_SAID = 300
BLOCK = 512  # bytes, of st_blocks
WORTH = 4  # a save by changes may take so small a part of a whole one
Seen = tuple[tuple[str, int], ...]


def missing(tools: Tools) -> ConfigError | None:
    """Why a machine that has its files cannot be saved on this host; None: it can."""
    old = []
    if tools.qemu_version < QEMU_FROM:
        old.append(f"QEMU is {_shown(tools.qemu_version)}, and has to be {_shown(QEMU_FROM)}")
    if tools.virtiofsd_version is None:
        old.append(f"virtiofsd is QEMU's own, and has to be {_shown(VIRTIOFSD_FROM)}")
    elif tools.virtiofsd_version < VIRTIOFSD_FROM:
        known = _shown(tools.virtiofsd_version)
        old.append(f"virtiofsd is {known}, and has to be {_shown(VIRTIOFSD_FROM)}")
    if not old:
        return None
    return ConfigError(f"{'; '.join(old)}, to keep memory of microVMs", remedy=NEWER)


def _shown(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


class Keeper:
    """Keeps the memory of one VM.

    Args:
        running: its QEMU.
        share: what shows it its files.
        told: our end of the socket to its process 1.
        memory: descriptor of its memory.
        directory: of the VM's own, for what is kept.
        disk: its disk.
        accel: "kvm" or "tcg".
        resumed: where what it goes on from is in there; None: it booted.

    ``close`` has to be called.
    """

    def __init__(
        self,
        running: Running,
        share: Part,
        told: socket.socket,
        memory: int,
        directory: Path,
        disk: Path,
        accel: str,
        resumed: str | None = None,
    ) -> None:
        self._running = running
        self._share = share
        with ExitStack() as held:
            self._told = held.enter_context(told.dup())
            self._memory = os.dup(memory)
            held.callback(os.close, self._memory)
            # They may get other names while the VM runs.
            self._directory = _held(directory, held)
            self._disk = _held(disk, held)
            self._base = _Base(held)
            if resumed is not None:
                self._base.be(self._directory / resumed / templates.MEMORY)
            self._held = held.pop_all()
        self._limit = SAVE_S[accel]
        self._seen: Seen = ()
        self._keeping: asyncio.Task[None] | None = None

    async def keep(self, name: str) -> None:
        """See ``Machine.keep_memory``."""
        # A machine is not left stopped because nobody waits any more.
        self._keeping = asyncio.create_task(self._keep(self._directory / name))
        await asyncio.shield(self._keeping)

    async def close(self) -> None:
        """Lets go of it, when its QEMU has ended; call it once."""
        if self._keeping is not None:
            await asyncio.wait({self._keeping})
        self._held.close()

    async def _keep(self, directory: Path) -> None:
        seen = await asyncio.to_thread(self._look)
        said = self._share.said()
        try:
            await tell(self._told, {"rest": True, "forget": seen != self._seen})
            await hear(self._told, RESTS, self._limit)
            await self._save(directory)
            more = self._share.said().removeprefix(said).strip()
            if more:
                why = more.splitlines()[-1][:MOST_SAID]
                raise ExecutionFailed(f"its memory could not be kept: virtiofsd: {why}")
            self._seen = seen
        except OSError as error:
            why = f"its memory could not be kept: {error.strerror}"
            raise ExecutionFailed(why) from None
        finally:
            await self._let_go_on()

    async def _save(self, directory: Path) -> None:
        await asyncio.to_thread(directory.mkdir, 0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        devices = os.open(directory / templates.DEVICES, flags, 0o600)
        try:
            await self._running.migrated("migrate", devices, self._limit)
        finally:
            os.close(devices)
        await asyncio.to_thread(self._store, directory)

    def _store(self, directory: Path) -> None:
        """Writes memory down: what changed since it was written as a whole, if that is little."""
        whole = directory / templates.MEMORY
        if self._base.linked(whole):
            changed = directory / templates.CHANGES
            if changes.store(self._memory, self._base.file, changed, self._base.worth):
                return
            whole.unlink()
        templates.store(self._memory, whole)
        self._base.be(whole)

    async def _let_go_on(self) -> None:
        """Whatever came of it; a machine that does not go on is ended."""
        try:
            await self._running.command("cont")
            await renew(self._told, self._limit)
        except BaseException:
            self._running.qemu.kill()
            raise

    def _look(self) -> Seen:
        """What tells whether the host has moved or removed something on the VM's disk.

        What the guest knows of that, and has no use for, it is to forget: there is no saying where
        it is found.
        """
        with os.scandir(self._disk) as entries:
            found = [(each.name, each.stat(follow_symlinks=False).st_mtime_ns) for each in entries]
        return (("", self._disk.stat().st_mtime_ns), *sorted(found))


class _Base:
    """A whole copy of the memory, as it was when it was last written as one.

    Args:
        held: closes it.
    """

    def __init__(self, held: ExitStack) -> None:
        self.file = -1
        self.worth = 0
        held.callback(self._close)

    def be(self, path: Path) -> None:
        """Takes that file for it; later saves are by what is other than in there."""
        self._close()
        self.file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.worth = os.fstat(self.file).st_blocks * BLOCK // WORTH

    def linked(self, path: Path) -> bool:
        """Makes it be there under another name; false where there is none, or it has no name."""
        if self.file < 0:
            return False
        source = f"/proc/self/fd/{self.file}"
        try:
            # With a directory's descriptor it is linkat(2), which follows such a link.
            os.link(source, path, src_dir_fd=self.file, follow_symlinks=True)
        except OSError:
            return False  # all saves that had it are gone, or it has as many names as can be
        return True

    def _close(self) -> None:
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)


def _held(directory: Path, held: ExitStack) -> Path:
    """A directory by a name that stays when it is renamed, for as long as it is held."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    held.callback(os.close, opened)
    return Path(f"/proc/self/fd/{opened}")
