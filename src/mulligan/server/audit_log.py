"""Who asked for what, and what came of it: a JSON object a line, only ever added to.

::

    {"time": "2025-01-02T03:04:05.678901Z",
     "request_id": "req-7d1f0c42a86b9e35",     that of the log's lines and of the answer
     "client": "127.0.0.1",                    its address, or that of the proxy in front
     "who": "agent",                           or "admin", "anyone" (there are no tokens), null
     "agent": "scout",                         whose token it was, or null
     "token": "token-9d2c1f3e5a7b8c60",        its id, or null
     "method": "POST",
     "route": "/api/vms/{vm_id}/rollback",     null where there is none
     "ids": {"vm_id": "vm-1d901466dd508b06"},  what it was about
     "status": 200}                            of the answer; null where the client went first

Nothing else of a request is in it: no code, no text, no token. ``{"lost": 3}`` in place of an entry
says that so many could not be written before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mulligan.log import get_logger

log = get_logger()

FILE = "audit.jsonl"
MOST_LINE = 64 * 1024
MIB = 1024 * 1024


class AuditLog:
    """Writes the log of a data directory.

    The file is opened for each line, so that it may be moved away at any time, and each line is one
    write at its end. Once it is ``file_mb`` long it is renamed to ``audit.jsonl.1``, that to
    ``.2``, and so on.

    A line that cannot be written is counted, said in the server's log and in ``failure``, and
    nobody is refused for it: else a full disk would keep out who is to free it.

    Args:
        directory: where the file is.
        file_mb: see above; MiB.
        files: how many are kept, the current one among them.
    """

    def __init__(self, directory: Path, *, file_mb: int, files: int) -> None:
        self._path = directory / FILE
        self._most = file_mb * MIB
        self._files = files
        self._lost = 0
        self._torn = False
        self.failure: str | None = None

    def write(self, entry: Mapping[str, Any]) -> None:
        """Adds an entry."""
        lines = [json.dumps(entry, separators=(",", ":"))]
        if self._lost:
            lines.insert(0, json.dumps({"time": entry.get("time"), "lost": self._lost}))
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            self._append(b"\n" + data if self._torn else data)
        except OSError as error:
            self._lost += 1
            reason = error.strerror or str(error)
            if self.failure is None:
                log.error(  # noqa: TRY400  (where from is no news)
                    "audit_not_written", path=str(self._path), error=reason
                )
            self.failure = reason
            return
        if self.failure is not None:
            log.warning("audit_written_again", path=str(self._path), lost=self._lost)
        self.failure, self._lost = None, 0

    def _append(self, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(descriptor).st_size + len(data) > self._most and self._rotate():
                os.close(descriptor)
                descriptor = os.open(self._path, flags, 0o600)
            written = os.write(descriptor, data)
        finally:
            os.close(descriptor)
        self._torn = written < len(data)
        if self._torn:
            raise OSError(0, "only a part of a line could be written")

    def _rotate(self) -> bool:
        """Renames the files; whether the current one has made room."""
        if not self._path.stat().st_size:
            return False
        for number in range(self._files - 1, 0, -1):
            newer = _numbered(self._path, number - 1)
            if newer.exists():
                newer.replace(_numbered(self._path, number))
        if self._files == 1:
            self._path.unlink()
        return True


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def read_entries(
    directory: Path, *, agent: str | None = None, since: datetime | None = None
) -> Iterator[dict[str, Any]]:
    """Entries of the log of a data directory, oldest first; lines that are none are passed over.

    Args:
        directory: the data directory.
        agent: those of this agent's tokens, or about it, alone.
        since: those from then on.

    Raises:
        OSError: the log cannot be read.
    """
    found = [path for path in directory.glob(f"{FILE}.*") if path.suffix[1:].isdecimal()]
    found.sort(key=lambda path: -int(path.suffix[1:]))
    current = directory / FILE
    for path in [*found, *([current] if current.exists() else [])]:
        with path.open("rb") as file:
            while line := file.readline(MOST_LINE):
                entry = _entry(line)
                if entry is not None and _wanted(entry, agent, since):
                    yield entry


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _wanted(entry: dict[str, Any], agent: str | None, since: datetime | None) -> bool:
    ids = entry.get("ids")
    about = ids.get("agent_id") if isinstance(ids, dict) else None
    if agent is not None and agent not in (entry.get("agent"), about):
        return False
    if since is None:
        return True
    try:
        return datetime.fromisoformat(entry["time"]) >= since
    except (KeyError, TypeError, ValueError):
        return False
