"""A server of its own for what is measured over HTTP."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Self

import httpx


def descendants(pid: int) -> set[int]:
    """A process and everything below it."""
    found, queue = {pid}, [pid]
    while queue:
        children = Path(f"/proc/{queue[0]}/task").glob("*/children")
        below = {int(child) for path in children for child in path.read_text().split()}
        queue = queue[1:] + list(below - found)
        found |= below
    return found


class Served:
    """``mulligan serve`` on a free port. Use as an async context manager.

    Attributes:
        url: where it listens.
        port: of it.
        pid: of its process.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.url = ""

    async def __aenter__(self) -> Self:
        arguments = ["serve", "--port", "0", "--data-dir", str(self._directory)]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mulligan",
            *arguments,
            env=os.environ | {"MULLIGAN_LOG_LEVEL": "error"},
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._process.stderr is not None
        while line := (await self._process.stderr.readline()).decode():
            if "serves http" in line:
                self.url = line.split("serves ")[1].split()[0]
                self.port = int(self.url.rsplit(":", 1)[1])
                self.pid = self._process.pid
                self._drain = asyncio.create_task(self._process.stderr.read())
                return self
        raise RuntimeError("the server did not start")

    async def __aexit__(self, *_: object) -> None:
        self._process.terminate()
        await self._process.wait()
        await self._drain

    def client(self) -> httpx.AsyncClient:
        """A client of it."""
        return httpx.AsyncClient(base_url=self.url, timeout=60, trust_env=False)
