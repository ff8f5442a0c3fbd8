"""What a VM's agent answers, read with no trust in any of it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from mulligan.guest import frames
from mulligan.models import DiffEntry

MOST_ITEMS = 64
MOST_KEYS = 256
MOST_NOTE = 500
MOST_NAME = 255
MOST_DISK_BYTES = 2**50  # a petabyte: several of them can be added up in 64 bits
MOST_OUTPUT_BYTES = 2**50
MOST_CPU_US = 2**53
MOST_RSS_KB = 2**40
MOST_PROCESSES = 2**22  # PID_MAX_LIMIT of linux/threads.h
MOST_DIFF_ENTRIES = 100_000  # as guest.jobs has it
SETTLING_S = 1.0
_SMALL = 64 * 1024
ANSWERS = {
    frames.ROOT: frames.ROOT_DONE,
    frames.PAUSE: frames.PAUSED,
    frames.KERNELS: frames.KERNELS_DONE,
    frames.OWNER: frames.OWNER_DONE,
    frames.PING: frames.PONG,
}
MOST_PAYLOAD = {
    frames.READY: _SMALL,
    frames.STARTED: _SMALL,
    frames.STDOUT: frames.MAX_CHUNK,
    frames.STDERR: frames.MAX_CHUNK,
    frames.PONG: _SMALL,
    frames.FATAL: _SMALL,
    frames.ROOT_DONE: _SMALL,
    frames.PAUSED: _SMALL,
    frames.DISK: 16 * _SMALL,
    frames.TAKEN: _SMALL,
    frames.MEMORY: _SMALL,
}
# RFC 6838, 4.2, without parameters.
_MEDIA_TYPE = re.compile(r"[a-z]{1,20}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}", re.ASCII)
_MODE = re.compile(r"[0-7]{1,6}", re.ASCII)
_CHANGES = ("added", "changed", "removed")


@dataclass(frozen=True)
class ProgramResult:
    """How a program ended.

    Attributes:
        status: wait status, as of waitpid(2).
        reason: "exit", "timeout", "cancel", or "setup" where it was never started.
        message: why, with "setup".
        stdout_bytes, stderr_bytes: what was written, kept or not.
        result: of a cell, its value as text.
        results: of a cell, pictures and other forms of its value: (mime type, data) pairs.
        notes: of a cell, what its reader should know.
        kernel_ended: why the kernel of a cell is no more; None where it lives.
        written: bytes its VM's disk took since it was last frozen; None where nobody counted.
        disk: where the disk was full: "full" or "host" (nothing could be written then, because of
            the VM's limit or the host's reserve), "ended" or "host-ended" (it grew even so, and
            was ended).
        disk_limit: with that, what its VM's disk may hold, in bytes.
        out_of_memory: that the kernel ended it because its VM's memory was used up, as text.
    """

    status: int
    reason: str
    message: str
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int
    truncated: bool
    cpu_us: int
    max_rss_kb: int
    background: int
    result: str | None = None
    results: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    kernel_ended: str | None = None
    written: int | None = None
    disk: str | None = None
    disk_limit: int | None = None
    out_of_memory: str | None = None


@dataclass(frozen=True)
class KernelMemory:
    """What became of a kernel's memory; see ``mulligan.models.KernelState``.

    ``keys`` are the snapshots for which some is kept.
    """

    name: str
    language: str
    memory: str
    notes: tuple[str, ...]
    keys: tuple[str, ...] = ()


def program_result(body: dict[str, Any], stdout: bytes, stderr: bytes) -> ProgramResult:
    """Reads an EXIT frame.

    Raises:
        FrameError: it is none.
    """
    reason = body.get("reason")
    if reason not in ("exit", "timeout", "cancel", "setup"):
        raise frames.FrameError("an execution ended for no known reason")
    status = _number(body, "status", 0xFFFF)
    if not (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
        raise frames.FrameError(f"status {status:#x} is not that of an ended process")
    results, notes = _display_data(body)
    return ProgramResult(
        status=status,
        reason=reason,
        message=_clean(str(body.get("message", "")))[:500],
        stdout=stdout,
        stderr=stderr,
        stdout_bytes=_number(body, "stdout_bytes", MOST_OUTPUT_BYTES),
        stderr_bytes=_number(body, "stderr_bytes", MOST_OUTPUT_BYTES),
        truncated=body.get("truncated") is True,
        cpu_us=_number(body, "user_us", MOST_CPU_US) + _number(body, "system_us", MOST_CPU_US),
        max_rss_kb=_number(body, "max_rss_kb", MOST_RSS_KB),
        background=_number(body, "background", MOST_PROCESSES),
        result=_optional_text(body, "result"),
        results=results,
        notes=notes,
        kernel_ended=_optional_text(body, "kernel_ended", MOST_NOTE),
        written=None if body.get("written") is None else _number(body, "written", MOST_DISK_BYTES),
    )


def plausible(result: ProgramResult, seconds: float) -> ProgramResult:
    """A result with no more CPU time than there can have been.

    Args:
        result: as an agent tells it.
        seconds: since its program was asked for.
    """
    most = int((seconds + SETTLING_S) * 1e6) * (os.cpu_count() or 1)
    return replace(result, cpu_us=min(result.cpu_us, most))


def _display_data(body: dict[str, Any]) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Pictures and other forms of a cell's value, and notes.

    A program chooses the types; one that is none does not come back, and a note says so.
    """
    notes = _texts(body, "notes")
    pairs = [(_text(each, "mime_type"), _text(each, "data")) for each in _objects(body, "results")]
    kept = tuple(pair for pair in pairs if _MEDIA_TYPE.fullmatch(pair[0]))
    if len(kept) < len(pairs):
        notes += (f"{len(pairs) - len(kept)} results of what is no media type do not come back",)
    return kept, notes


def disk_state(body: dict[str, Any]) -> tuple[str, dict[str, int]]:
    """Reads a DISK frame: what became of the disk, and sizes of trees that were counted.

    Raises:
        FrameError: it is none.
    """
    state = body.get("state")
    if state not in ("full", "host", "ended", "host-ended"):
        raise frames.FrameError("a disk is in no known state")
    sizes = body.get("sizes")
    if not isinstance(sizes, dict):
        raise frames.FrameError("sizes is no object")
    return str(state), {str(tree): _number(sizes, tree, MOST_DISK_BYTES) for tree in sizes}


def taken(body: dict[str, Any]) -> int:
    """Reads a TAKEN frame: how many bytes of input a terminal has taken.

    Raises:
        FrameError: it is none.
    """
    return _number(body, "bytes")


def memory_ended(body: dict[str, Any]) -> int:
    """Reads a MEMORY frame: how many programs were ended for want of memory.

    Raises:
        FrameError: it is none.
    """
    return _number(body, "ended", MOST_PROCESSES)


def kernel_memories(body: dict[str, Any]) -> list[KernelMemory]:
    """Reads a KERNELS_DONE frame.

    Raises:
        FrameError: it is none.
    """
    found = []
    for each in _objects(body, "kernels"):
        memory = _text(each, "memory")
        if memory not in ("kept", "lost", "not kept"):
            raise frames.FrameError("a kernel's memory is in no known state")
        name, language = _name(each, "name"), _name(each, "language")
        keys = _texts(each, "keys", MOST_KEYS)
        found.append(KernelMemory(name, language, memory, _texts(each, "notes"), keys))
    return found


@dataclass(frozen=True)
class Pong:
    """What an agent says of its VM.

    Attributes:
        quiet: no program lives; false where it was not asked to look.
        kernels: kernels do, or images of their memory.
    """

    quiet: bool
    kernels: bool


def pong(body: dict[str, Any]) -> Pong:
    """Reads a PONG frame; what it does not say is so that the VM is left alone."""
    return Pong(quiet=body.get("quiet") is True, kernels=body.get("kernels") is not False)


def read_diff(printed: bytes) -> tuple[list[DiffEntry], bool]:
    """Reads what the job "diff" printed: entries, and whether there are more.

    Raises:
        ValueError: it is not complete, or none.
    """
    lines = printed.decode().split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if len(lines) > MOST_DIFF_ENTRIES + 1:
        raise ValueError(f"it has more than {MOST_DIFF_ENTRIES} entries")
    end = json_object(lines.pop()) if lines else {}
    if end.get("end") is not True:
        raise ValueError("it is not complete")
    try:
        entries = [DiffEntry.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    for each in entries:
        modes = [mode for mode in (each.old_mode, each.new_mode) if mode is not None]
        if (
            each.change not in _CHANGES
            or len(each.kind) > MOST_NAME
            or not all(map(_MODE.fullmatch, modes))
        ):
            raise ValueError("an entry is in no known form")
    return entries, end.get("truncated") is True


def json_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object as a job printed it.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no object")  # noqa: TRY004  (what it says is wrong, not its type)
    return value


def _number(body: dict[str, Any], name: str, most: int = 2**63 - 1) -> int:
    value = body.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise frames.FrameError(f"{name} is no number in range")
    return value


def _items(body: dict[str, Any], name: str, most: int = MOST_ITEMS) -> list[Any]:
    value = body.get(name, [])
    if not isinstance(value, list) or len(value) > most:
        raise frames.FrameError(f"{name} is no list in bounds")
    return value


def _objects(body: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = _items(body, name)
    if not all(isinstance(each, dict) for each in found):
        raise frames.FrameError(f"{name} has what is no object")
    return found


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise frames.FrameError(f"{name} is no text")
    return _clean(value)


def _clean(text: str) -> str:
    """A text without the surrogates that JSON can spell and text cannot have."""
    return text.encode("utf-8", "replace").decode()


def _name(body: dict[str, Any], name: str) -> str:
    value = _text(body, name)
    if len(value) > MOST_NAME:
        raise frames.FrameError(f"{name} is too long")
    return value


def _optional_text(body: dict[str, Any], name: str, most: int | None = None) -> str | None:
    return None if body.get(name) is None else _text(body, name)[:most]


def _texts(body: dict[str, Any], name: str, most: int = MOST_ITEMS) -> tuple[str, ...]:
    return tuple(_text({name: each}, name)[:MOST_NOTE] for each in _items(body, name, most))
