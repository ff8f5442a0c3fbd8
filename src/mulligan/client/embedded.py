"""Engines in this process: one a data directory, shared by all who use it on one event loop.

A data directory is served by one engine at a time. Clients of one event loop therefore share the
one there is; it closes with the last of them. All blocking clients of a process have one loop. A
client on another loop is refused in so many words: an engine answers on the loop it was opened on.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from pathlib import Path

from mulligan.engine.engine import Engine
from mulligan.engine.lock import DirectoryLock, InUse
from mulligan.errors import ConfigError
from mulligan.settings import Settings


@dataclass
class _Shared:
    """An engine, or one to be, and how many use it."""

    settings: Settings
    loop: asyncio.AbstractEventLoop
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    engine: Engine | None = None
    users: int = 0


_by_directory: dict[Path, _Shared] = {}
_guard = threading.Lock()


async def acquire(settings: Settings, lock: DirectoryLock | None = None) -> Engine:
    """The engine of a data directory, opened; ``release`` has to follow.

    Args:
        settings: the engine's.
        lock: of the directory, if the caller has it already.

    Raises:
        InUse: another process, or another event loop of this one, has the directory.
        ConfigError: an engine with other settings has it, or none can be opened.
    """
    shared = _join(settings)
    try:
        async with shared.busy:
            if shared.engine is None:
                engine = Engine(settings, lock)
                await engine.open()
                shared.engine = engine
            return shared.engine
    except BaseException:
        await _leave(shared)
        raise


async def release(engine: Engine) -> None:
    """Lets go of an engine; with its last user it closes."""
    shared = _by_directory[engine.settings.data_dir.resolve()]
    await _leave(shared)


def _join(settings: Settings) -> _Shared:
    directory = settings.data_dir.resolve()
    loop = asyncio.get_running_loop()
    with _guard:
        shared = _by_directory.get(directory)
        if shared is not None and shared.loop.is_closed():
            shared = None  # whoever had it was ended without closing; the lock tells if it is free
        if shared is None:
            shared = _by_directory[directory] = _Shared(settings, loop)
        if shared.loop is not loop:
            raise InUse(
                f"data directory {directory} is in use by another event loop of this process",
                field="data_dir",
                remedy="use blocking clients only (they share one loop), one event loop for all "
                "the others, or a server: mulligan serve",
            )
        if shared.settings != settings:
            raise ConfigError(
                f"data directory {directory} is open in this process with other settings: "
                f"{', '.join(_differing(shared.settings, settings))}",
                field="data_dir",
                remedy="use the same settings, or close the client that has it",
            )
        shared.users += 1
    return shared


def _differing(one: Settings, other: Settings) -> list[str]:
    return [name for name in Settings.model_fields if getattr(one, name) != getattr(other, name)]


async def _leave(shared: _Shared) -> None:
    shared.users -= 1
    async with shared.busy:
        if shared.users:
            return
        engine, shared.engine = shared.engine, None
        try:
            if engine is not None:
                await engine.close()
        finally:
            with _guard:
                directory = shared.settings.data_dir.resolve()
                if not shared.users and _by_directory.get(directory) is shared:
                    del _by_directory[directory]
