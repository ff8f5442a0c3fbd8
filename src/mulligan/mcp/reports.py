"""What came of an execution, as a model reads it."""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple, TypeAlias

import mcp_types as types

from mulligan.errors import VmExecutionError
from mulligan.mcp.outputs import Ran, Stream
from mulligan.mcp.text import Shown, clean, fenced, shown
from mulligan.models import DisplayData, VmExecuteResponse

WEBP = "image/webp"
MOST_VALUE = 4000
MOST_NOTE = 500
MOST_NOTES = 20
# What the formats models take begin with (PNG: RFC 2083, JPEG: ITU T.81, GIF89a; WebP: RFC 9649).
SIGNATURES = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    WEBP: (b"RIFF",),
}

Content: TypeAlias = types.ContentBlock


class Report(NamedTuple):
    """An execution for a model, and as data."""

    content: list[Content]
    data: Ran


def text(words: str) -> Content:
    """Text as content."""
    return types.TextContent(text=words)


def of_error(error: VmExecutionError) -> str:
    """An error with what to do about it."""
    remedy = f" ({clean(error.remedy)})" if error.remedy else ""
    return f"{clean(str(error))}{remedy}"


def of_response(response: VmExecuteResponse, language: str) -> Report:
    """What came of an execution."""
    streams = {
        name: shown(clean(getattr(response, name)), response.execution_id, name)
        for name in ("stdout", "stderr")
    }
    pictures, notes = _pictures(response.results)
    result = None
    if response.result is not None:
        result = clean(response.result)
        if len(result) > MOST_VALUE:
            result = f"{result[:MOST_VALUE]}… ({len(result)} characters; print it to read it all)"
    notes = [clean(each)[:MOST_NOTE] for each in [*response.notes, *notes][:MOST_NOTES]]
    data = Ran(
        execution_id=response.execution_id,
        vm_id=response.vm_id,
        language=language,
        outcome=response.outcome,
        exit_code=response.exit_code,
        duration_ms=response.duration_ms,
        stdout=_stream(streams["stdout"]),
        stderr=_stream(streams["stderr"]),
        result=result,
        error=clean(response.error) if response.error else None,
        kernel=response.kernel,
        images=len(pictures),
        output_dropped=response.truncated,
        background_processes=response.background_processes,
        snapshot_before=response.snapshot_before,
        rolled_back_to=response.rolled_back_to,
        notes=notes,
    )
    return Report([text(_words(data, response)), *pictures], data)


def _stream(part: Shown) -> Stream:
    next_offset = part.missing[0] if part.missing is not None else None
    return Stream(text=part.text, length=part.length, next_offset=next_offset)


def _words(data: Ran, response: VmExecuteResponse) -> str:
    where = f"kernel {data.kernel} of {data.vm_id}" if data.kernel else data.vm_id
    lines = [
        f"{data.outcome}: exit code {data.exit_code} after {data.duration_ms} ms "
        f"({data.execution_id}, {data.language} in {where})"
    ]
    if data.error:
        lines.append(f"error: {data.error}")
    for name in ("stdout", "stderr"):
        stream: Stream = getattr(data, name)
        if stream.text:
            lines += [f"{name}:", fenced(stream.text)]
    if data.result is not None:
        lines += ["value of the last expression:", fenced(data.result)]
    if not (data.stdout.text or data.stderr.text or data.result is not None):
        lines.append("It printed nothing.")
    if data.output_dropped:
        lines.append(
            f"It wrote {response.stdout_bytes} bytes to stdout and {response.stderr_bytes} to "
            "stderr, more than is kept; have it write into a file instead."
        )
    if data.background_processes:
        lines.append(f"Processes it left in the background: {data.background_processes}.")
    if data.rolled_back_to:
        lines.append(f"It failed, and the VM was taken back to {data.rolled_back_to}.")
    if data.snapshot_before is None:
        lines.append("There is no state before it to go back to.")
    lines += [f"note: {note}" for note in data.notes]
    return "\n".join(lines)


def _pictures(results: list[DisplayData]) -> tuple[list[Content], list[str]]:
    """The results that are pictures, and notes on the others."""
    pictures: list[Content] = []
    notes: list[str] = []
    for each in results:
        if each.mime_type in SIGNATURES and _is_picture(each):
            pictures.append(types.ImageContent(data=each.data, mime_type=each.mime_type))
        else:
            notes.append(
                f"a result of type {each.mime_type[:100]} ({len(each.data)} characters) is not "
                "shown; print it, or write it into a file"
            )
    return pictures, notes


def _is_picture(result: DisplayData) -> bool:
    """Whether it is what it says: programs say what they like, and clients show it."""
    try:
        data = base64.b64decode(result.data, validate=True)
    except (binascii.Error, ValueError):
        return False
    return picture_type(data) == result.mime_type


def picture_type(data: bytes) -> str | None:
    """The media type of a picture that models take; None of all else."""
    for mime_type, starts in SIGNATURES.items():
        if data.startswith(starts) and (mime_type != WEBP or data[8:12] == b"WEBP"):
            return mime_type
    return None
