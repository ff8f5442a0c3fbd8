"""What a VM's agent answers, read with no trust in any of it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mulligan.guest import frames
from mulligan.models import DiffEntry

MOST_ITEMS = 64
MOST_KEYS = 256
MOST_NOTE = 500


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
    return ProgramResult(
        status=status,
        reason=reason,
        message=str(body.get("message", ""))[:500],
        stdout=stdout,
        stderr=stderr,
        stdout_bytes=_number(body, "stdout_bytes"),
        stderr_bytes=_number(body, "stderr_bytes"),
        truncated=body.get("truncated") is True,
        cpu_us=_number(body, "user_us") + _number(body, "system_us"),
        max_rss_kb=_number(body, "max_rss_kb"),
        background=_number(body, "background"),
        result=_optional_text(body, "result"),
        results=tuple(
            (_text(each, "mime_type"), _text(each, "data")) for each in _objects(body, "results")
        ),
        notes=_texts(body, "notes"),
        kernel_ended=_optional_text(body, "kernel_ended"),
        written=None if body.get("written") is None else _number(body, "written"),
    )


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
    return str(state), {str(tree): _number(sizes, tree) for tree in sizes}


def taken(body: dict[str, Any]) -> int:
    """Reads a TAKEN frame: how many bytes of input a terminal has taken.

    Raises:
        FrameError: it is none.
    """
    return _number(body, "bytes")


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
        name, language = _text(each, "name"), _text(each, "language")
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
    lines = printed.decode().splitlines()
    end = json.loads(lines.pop()) if lines else None
    if not isinstance(end, dict) or end.get("end") is not True:
        raise ValueError("it is not complete")
    try:
        entries = [DiffEntry.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    return entries, end.get("truncated") is True


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
    return value.encode("utf-8", "replace").decode()  # JSON can spell what text cannot have


def _optional_text(body: dict[str, Any], name: str) -> str | None:
    return None if body.get(name) is None else _text(body, name)


def _texts(body: dict[str, Any], name: str, most: int = MOST_ITEMS) -> tuple[str, ...]:
    return tuple(_text({name: each}, name)[:MOST_NOTE] for each in _items(body, name, most))
