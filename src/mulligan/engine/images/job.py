"""One image that is being made, and what those who follow it are told."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections import deque
from pathlib import Path

from mulligan.models import Image, ImageJob, utc_now
from mulligan.printable import one_line

RUNNING = "running"
MOST_LINES = 500
MOST_LINE = 500


class Job:
    """An image being made.

    Args:
        name: the image's.
        kind: "build" or "import".
        source: what it is made of, in words.
        upload: a file that goes with it.

    Attributes:
        wanted: set when its end is.
    """

    def __init__(self, name: str, kind: str, source: str, upload: Path | None = None) -> None:
        self.id = f"image-{secrets.token_hex(8)}"
        self.state = ImageJob(
            id=self.id, name=name, kind=kind, source=source, state=RUNNING, started_at=utc_now()
        )
        self.task: asyncio.Task[None] | None = None
        self.upload = upload
        self.wanted = threading.Event()
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.state.state == RUNNING

    def say(self, text: str) -> None:
        """Tells what it is at; from any thread."""
        self._loop.call_soon_threadsafe(self._say, text)

    def _say(self, text: str) -> None:
        self._lines.append(one_line(text, MOST_LINE))
        self._change(said=self.state.said + 1)

    def end(self, state: str, image: Image | None = None, error: object = None) -> None:
        """Says what became of it."""
        self._change(state=state, ended_at=utc_now(), image=image, error=error)

    def _change(self, **fields: object) -> None:
        self.state = self.state.model_copy(update=fields)
        self._changed.set()
        self._changed = asyncio.Event()

    def shown(self, after: int) -> ImageJob:
        """As it is, with the lines after so many."""
        first = self.state.said - len(self._lines)
        lines = list(self._lines)[max(0, after - first) :]
        return self.state.model_copy(update={"lines": lines})

    async def news(self, after: int, wait_s: float) -> ImageJob:
        """The same, when there is a line more or it has ended, or nothing came for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self.runs and self.state.said <= after:
                    await self._changed.wait()
        return self.shown(after)
