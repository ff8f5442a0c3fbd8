"""Files of VMs: read, written, listed and moved by a program inside the VM, never from outside.

docs/files.md has what holds beside executions, snapshots and rollbacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from mulligan.engine.files import names as filenames
from mulligan.engine.files.conversations import Conversations, Owner
from mulligan.engine.files.streams import FileReader, FileWriter, expect, failure
from mulligan.engine.files.transfers import Transfer
from mulligan.engine.vms.vm import Vm
from mulligan.errors import FileBroken, FileError, FileTooLarge
from mulligan.guest import filework
from mulligan.models import FileChange, FileInfo, FileList
from mulligan.settings import FileSettings

MOST_LISTED = 10_000
USUALLY_LISTED = 1000
MOST_LIST_BYTES = 8 * 1024 * 1024
MOST_IN_MEMORY = 64 * 1024 * 1024
AT_ONCE = 1024 * 1024  # so much is written while nothing else starts in the VM
TREE_S = 600.0
MOST_DIGITS = 4


class Files:
    """Files of VMs as users meet them; ``agent_id`` restricts a call to that agent's VMs.

    Paths are absolute in the VM, or relative to the workspace. A VM that is down boots. Every
    method raises ``VmNotAvailable`` where there is no such VM, and ``FileError`` or one of its
    subclasses where something cannot be done with a file.

    Args:
        settings: bounds.
        python: the interpreter of VMs.
        find: finds a VM of an agent.
        owned: see the class.
        keep: for the holder of ``vm.steady()``, before files are changed: keeps the present to
            come back to, and says as which snapshot.
        room: refuses an agent that has stored all it may.
        clean: takes an agent's secrets out of a text.
    """

    def __init__(
        self,
        settings: FileSettings,
        python: str,
        find: Callable[[str, str | None], Vm],
        owned: Owner,
        keep: Callable[[Vm], Awaitable[str | None]],
        room: Callable[[str], Awaitable[None]],
        clean: Callable[[str, str], str],
    ) -> None:
        self.settings = settings
        self._find = find
        self._room = room
        self._conversations = Conversations(settings, python, owned, keep, clean)

    # Looking

    async def stat(
        self, vm_id: str, path: str, agent_id: str | None = None, *, escaped: bool = False
    ) -> FileInfo:
        """What a name is; a link is not followed.

        Raises:
            FileMissing: there is none.
        """
        name = filenames.to_bytes(path, escaped=escaped)

        async def work(transfer: Transfer) -> FileInfo:
            return filenames.info(await expect(transfer, filework.RECORD, name), name)

        return await self._conversations.look(self._find(vm_id, agent_id), work, "stat", name)

    async def list(
        self,
        vm_id: str,
        path: str = ".",
        agent_id: str | None = None,
        *,
        limit: int = USUALLY_LISTED,
        escaped: bool = False,
    ) -> FileList:
        """What is in a directory, by name; of more than ``limit`` names some.

        Raises:
            FileMissing, FileConflict: there is no such directory.
        """
        name = filenames.to_bytes(path, escaped=escaped)
        if not 1 <= limit <= MOST_LISTED:
            raise FileError(f"limit must be between 1 and {MOST_LISTED}", field="limit")

        async def work(transfer: Transfer) -> FileList:
            transfer.running.inbox.most = 2 * MOST_LIST_BYTES
            records: list[bytes] = []
            while True:
                kind, payload = await transfer.receive()
                if kind != filework.RECORD or len(records) > limit:
                    break
                records.append(payload)
            if kind != filework.DONE:
                raise failure(transfer, kind, payload, name)
            return await asyncio.to_thread(_listing, name, records, payload == b"\1")

        arguments = (name, limit, MOST_LIST_BYTES)
        return await self._conversations.look(
            self._find(vm_id, agent_id), work, "list_directory", *arguments
        )

    async def read(
        self,
        vm_id: str,
        path: str,
        agent_id: str | None = None,
        offset: int = 0,
        length: int | None = None,
        *,
        escaped: bool = False,
    ) -> bytes:
        """What is in a file, or a part of it.

        Raises:
            FileMissing, FileConflict: there is no such regular file.
            FileTooLarge: it is more than fits into memory.
        """
        async with self.open_read(vm_id, path, agent_id, escaped=escaped) as reader:
            wanted = reader.length_of(offset, length)
            if wanted > MOST_IN_MEMORY:
                raise FileTooLarge(
                    f"{filenames.shown(reader.name)} has {wanted} bytes to read, and at most "
                    f"{MOST_IN_MEMORY} are read at once",
                    field="length",
                    remedy="read it in parts with offset and length, or download it",
                )
            return b"".join([chunk async for chunk in reader.read(offset, length)])

    @asynccontextmanager
    async def open_read(
        self, vm_id: str, path: str, agent_id: str | None = None, *, escaped: bool = False
    ) -> AsyncIterator[FileReader]:
        """Opens a file for reading: what is read is of the file as it was opened.

        Raises:
            FileMissing, FileConflict: there is no such regular file.
        """
        name = filenames.to_bytes(path, escaped=escaped)
        vm = self._find(vm_id, agent_id)
        transfer, _ = await self._conversations.begin(vm, False, "read", name)
        try:
            found = filenames.info(await expect(transfer, filework.RECORD, name), name)
            if found.type != "file":
                raise FileBroken("the VM opened what is no regular file")
            yield FileReader(transfer, name, found)
        finally:
            await self._conversations.close(vm, transfer)

    # Changing

    async def write(
        self,
        vm_id: str,
        path: str,
        data: bytes,
        agent_id: str | None = None,
        *,
        mode: str | None = None,
        parents: bool = False,
        escaped: bool = False,
    ) -> FileInfo:
        """Writes a file whole, in one step: nobody sees a part of it. See ``open_write``.

        Raises:
            FileError, TooManyRequests: as ``open_write``.
        """
        if len(data) > AT_ONCE:
            opened = self.open_write(
                vm_id, path, agent_id, mode=mode, parents=parents, escaped=escaped, size=len(data)
            )
            async with opened as writer:
                await writer.write(data)
                return await writer.commit()
        name = filenames.to_bytes(path, escaped=escaped)
        self._check_size(len(data))
        vm = self._find(vm_id, agent_id)
        await self._room(vm.record.agent_id)

        async def work(transfer: Transfer, kept: str | None) -> FileInfo:
            writer = FileWriter(transfer, name, self.settings.max_file_bytes, kept)
            await writer.begin()
            await writer.write(data)
            return await writer.commit()

        return await self._conversations.change(vm, work, "write", name, _mode(mode), parents)

    @asynccontextmanager
    async def open_write(
        self,
        vm_id: str,
        path: str,
        agent_id: str | None = None,
        *,
        mode: str | None = None,
        parents: bool = False,
        escaped: bool = False,
        size: int | None = None,
    ) -> AsyncIterator[FileWriter]:
        """Opens a file for writing; it is there when ``commit`` returns, and not at all without.

        Args:
            vm_id: the VM.
            path: of the file; a link is followed, in the VM.
            agent_id: see the class.
            mode: permission bits in octal; None for those of the file that is there, else 0644.
            parents: whether directories above it are made.
            escaped: whether ``path`` is written with escapes, see ``FileInfo``.
            size: how many bytes it will have, where that is known.

        Raises:
            FileTooLarge: ``size`` is over ``max_file_bytes``.
            FileMissing, FileConflict, FileForbidden: there can be no such file.
            TooManyRequests: the agent has stored all it may.
        """
        name = filenames.to_bytes(path, escaped=escaped)
        self._check_size(size or 0)
        vm = self._find(vm_id, agent_id)
        await self._room(vm.record.agent_id)
        transfer, kept = await self._conversations.begin(
            vm, True, "write", name, _mode(mode), parents
        )
        try:
            writer = FileWriter(transfer, name, self.settings.max_file_bytes, kept)
            await writer.begin()
            yield writer
            if writer.committed is not None:
                self._conversations.log("write", vm, name, size=writer.committed.size)
        finally:
            await self._conversations.close(vm, transfer)

    def _check_size(self, size: int) -> None:
        if size > self.settings.max_file_bytes:
            raise FileTooLarge(
                f"a file of {size} bytes is over {self.settings.max_file_bytes}",
                field="body",
                remedy="send less, or raise files.max_file_bytes (MULLIGAN_FILES__MAX_FILE_BYTES)",
            )

    async def make_directory(
        self,
        vm_id: str,
        path: str,
        agent_id: str | None = None,
        *,
        parents: bool = False,
        escaped: bool = False,
    ) -> FileInfo:
        """Makes a directory; with ``parents`` it may be there already.

        Raises:
            FileConflict: something is there.
        """
        name = filenames.to_bytes(path, escaped=escaped)

        async def work(transfer: Transfer, kept: str | None) -> FileInfo:
            found = filenames.info(await expect(transfer, filework.RECORD, name), name)
            return found.model_copy(update={"snapshot_before": kept})

        vm = self._find(vm_id, agent_id)
        return await self._conversations.change(vm, work, "make_directory", name, parents)

    async def delete(
        self,
        vm_id: str,
        path: str,
        agent_id: str | None = None,
        *,
        recursive: bool = False,
        escaped: bool = False,
    ) -> FileChange:
        """Removes a file, a link or an empty directory; with ``recursive`` all that is in one.

        Raises:
            FileMissing: there is none.
            FileConflict: the directory is not empty, or in use.
        """
        name = filenames.to_bytes(path, escaped=escaped)

        async def work(transfer: Transfer, kept: str | None) -> FileChange:
            await expect(transfer, filework.DONE, name)
            return FileChange(path=filenames.shown(name), snapshot_before=kept)

        vm = self._find(vm_id, agent_id)
        return await self._conversations.change(vm, work, "delete", name, recursive, seconds=TREE_S)

    async def move(
        self,
        vm_id: str,
        source: str,
        target: str,
        agent_id: str | None = None,
        *,
        overwrite: bool = False,
        parents: bool = False,
        escaped: bool = False,
    ) -> FileInfo:
        """Gives a file or directory another path.

        Raises:
            FileMissing: there is none.
            FileConflict: something is at ``target``, and is not to be overwritten.
        """
        old = filenames.to_bytes(source, "source", escaped=escaped)
        new = filenames.to_bytes(target, "target", escaped=escaped)

        async def work(transfer: Transfer, kept: str | None) -> FileInfo:
            record = await expect(transfer, filework.RECORD, new, "target", old)
            return filenames.info(record, new).model_copy(update={"snapshot_before": kept})

        vm = self._find(vm_id, agent_id)
        return await self._conversations.change(
            vm, work, "move", old, new, overwrite, parents, seconds=TREE_S
        )


def _mode(mode: str | None) -> int | None:
    if mode is None:
        return None
    if not 1 <= len(mode) <= MOST_DIGITS or not set(mode) <= set("01234567"):
        raise FileError(
            "mode is no file mode",
            field="mode",
            remedy="give up to four octal digits, such as 0644",
        )
    return int(mode, 8)


def _listing(path: bytes, records: list[bytes], more: bool) -> FileList:
    entries = [filenames.info(each, path, inside=True) for each in records]
    entries.sort(key=lambda each: each.name)
    above = path.rstrip(b"/") or b"/"
    text = above.decode() if filenames.is_text(above) else filenames.escape(above)
    return FileList(path=text, entries=entries, truncated=more)
