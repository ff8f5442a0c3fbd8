"""The tools that read, write and list files of a VM."""

from __future__ import annotations

import base64
import binascii
import codecs
from collections.abc import AsyncIterator

import mcp_types as types

from mulligan.client.backends import Incoming
from mulligan.errors import FileBroken, FileError, ValidationFailed
from mulligan.mcp.calls import Answer, Call, told
from mulligan.mcp.inputs import BASE64, UTF8, ListFiles, ReadFile, WriteFile
from mulligan.mcp.outputs import FileEntry, FileListing, FilePart, FileWritten
from mulligan.mcp.reports import picture_type, text
from mulligan.mcp.text import clean, counted, fenced
from mulligan.models import FileInfo

MOST_PICTURE = 1536 * 1024  # as of what a cell gives
CONTINUES, MOST_CONTINUED = 0b10, 3  # UTF-8 (RFC 3629): bytes within a character


async def read_file(call: Call, given: ReadFile) -> Answer:
    """A file, or a part of it."""
    vm_id = await call.workspace.vm(given.vm_id)
    whole = given.offset == 0 and given.encoding == UTF8  # which may be a picture
    most = max(MOST_PICTURE, given.length) if whole else given.length
    opened = call.workspace.backend.files.read(
        vm_id, given.path, given.offset, most + 1, escaped=False
    )
    async with opened as incoming:
        data = await _take(incoming, given.length + 1)
        kind = picture_type(data) if whole else None
        if kind is not None and incoming.size <= MOST_PICTURE:
            data += await _take(incoming, MOST_PICTURE)
            return _picture(given, vm_id, kind, data)
    return await _part(call, given, vm_id, data)


async def _take(incoming: Incoming, most: int) -> bytes:
    """The next bytes of a file, at least so many where there are."""
    taken = bytearray()
    async for chunk in incoming.chunks:
        taken += chunk
        if len(taken) >= most:
            break
    return bytes(taken)


def _picture(given: ReadFile, vm_id: str, kind: str, data: bytes) -> Answer:
    encoded = base64.b64encode(data).decode()
    part = FilePart(
        vm_id=vm_id, path=clean(given.path), offset=0, bytes=len(data), encoding=kind, text=None
    )
    words = f"{clean(given.path)}: a picture ({kind}, {len(data)} bytes)."
    return Answer([text(words), types.ImageContent(data=encoded, mime_type=kind)], part)


async def _part(call: Call, given: ReadFile, vm_id: str, data: bytes) -> Answer:
    more = len(data) > given.length
    data = data[: given.length]
    start = given.offset
    if given.encoding == BASE64:
        content, end = base64.b64encode(data).decode(), start + len(data)
    else:
        skipped = _continued(data) if start else 0
        content, used = _decoded(given, data[skipped:], final=not more)
        content = await call.workspace.cleaned(content)
        start, end = start + skipped, start + skipped + used
    part = FilePart(
        vm_id=vm_id,
        path=clean(given.path),
        offset=start,
        bytes=end - start,
        encoding=given.encoding,
        text=content,
        next_offset=end if more else None,
    )
    rest = f"; there is more: offset={end}" if more else ", to its end"
    place = f"Bytes {start} to {end} of {clean(given.path)}{rest}."
    return told(f"{place}\n{fenced(content)}" if content else f"{place} Nothing is there.", part)


def _continued(data: bytes) -> int:
    """How many bytes at the start are the end of a character that began before."""
    count = 0
    while count < min(MOST_CONTINUED, len(data)) and data[count] >> 6 == CONTINUES:
        count += 1
    return count


def _decoded(given: ReadFile, data: bytes, *, final: bool) -> tuple[str, int]:
    """Whole characters as text, and how many bytes they take.

    Raises:
        FileError: it is no text.
    """
    try:
        return codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        raise FileError(
            f"{clean(given.path)[:200]} is no UTF-8 text (byte {given.offset + error.start})",
            field="encoding",
            remedy='read it with encoding="base64", or with a program (run_code)',
        ) from None


async def write_file(call: Call, given: WriteFile) -> Answer:
    """Writes a file whole."""
    vm_id = await call.workspace.vm(given.vm_id)
    data = _encoded(given)

    async def content() -> AsyncIterator[bytes]:
        yield data

    done = await call.workspace.backend.files.write(
        vm_id,
        given.path,
        content(),
        len(data),
        mode=given.mode,
        parents=given.parents,
        escaped=False,
    )
    if done.size != len(data):
        raise FileBroken(f"{done.size} of {len(data)} bytes of {clean(done.path)} were written")
    written = FileWritten(
        vm_id=vm_id,
        path=clean(done.path),
        size=done.size,
        mode=done.mode,
        snapshot_before=done.snapshot_before,
    )
    words = f"{written.path} written, {counted(done.size, 'byte')}."
    if done.snapshot_before is not None:
        words += f' rollback(snapshot_id="{done.snapshot_before}") undoes it.'
    return told(words, written)


def _encoded(given: WriteFile) -> bytes:
    if given.encoding == UTF8:
        try:
            return given.content.encode()
        except UnicodeEncodeError:
            raise ValidationFailed(
                "content has half a surrogate pair, which is no text", field="content"
            ) from None
    try:
        return base64.b64decode(given.content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValidationFailed(f"content is no base64: {error}", field="content") from None


async def list_files(call: Call, given: ListFiles) -> Answer:
    """What is in a directory."""
    vm_id = await call.workspace.vm(given.vm_id)
    files = call.workspace.backend.files
    found = await files.list(vm_id, given.path, limit=given.limit, escaped=False)
    entries = [_entry(each) for each in found.entries]
    listing = FileListing(
        vm_id=vm_id, path=clean(found.path), entries=entries, truncated=found.truncated
    )
    lines = [f"{counted(len(entries), 'name')} in {listing.path}."]
    for each in entries:
        arrow = f" -> {each.target}" if each.target is not None else ""
        sized = f" {each.size} bytes" if each.type == "file" else ""
        lines.append(f"{each.mode} {each.type}{sized} {each.name}{arrow}")
    if found.truncated:
        lines.append("… and more; give a higher limit, or list with a program (run_code).")
    return told("\n".join(lines), listing)


def _entry(info: FileInfo) -> FileEntry:
    return FileEntry(
        name=clean(info.name),
        type=info.type,
        size=info.size,
        mode=info.mode,
        modified_at=info.mtime.isoformat(timespec="seconds"),
        target=clean(info.target) if info.target is not None else None,
    )
