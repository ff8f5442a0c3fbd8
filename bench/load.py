"""Clients that do one thing after the other, so many at a time: how much they get done."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Act = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Load:
    """What so many clients got done.

    Attributes:
        clients: how many.
        seconds: for how long, until the last had ended.
        milliseconds: what each took.
    """

    clients: int
    seconds: float
    milliseconds: list[float]

    @property
    def per_second(self) -> float:
        """How many a second."""
        return len(self.milliseconds) / self.seconds

    def percentile(self, percent: int) -> float:
        """Milliseconds so many percent of them took at the most."""
        if len(self.milliseconds) < 2:
            return self.milliseconds[0] if self.milliseconds else float("nan")
        return statistics.quantiles(self.milliseconds, n=100, method="inclusive")[percent - 1]


async def warm_up(acts: list[Act]) -> None:
    """Has each client act once: VMs boot, connections are made."""
    for act in acts:
        await act()


async def closed_loop(acts: list[Act], seconds: float) -> Load:
    """Has each client act again and again for some seconds; what was begun by then is ended.

    Args:
        acts: what each client does.
        seconds: how long.
    """
    taken: list[float] = []
    start = time.perf_counter()
    until = start + seconds

    async def client(act: Act) -> None:
        while (began := time.perf_counter()) < until:
            await act()
            taken.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(client(act) for act in acts))
    return Load(len(acts), time.perf_counter() - start, taken)


class Connection:
    """A connection to a server, kept open; little work, for it is the server that is measured.

    Args:
        port: of the server, on the loopback.
        agent_id: whose program it runs.
        language, code: the program; it has to print 1.
    """

    def __init__(self, port: int, agent_id: str, language: str, code: str) -> None:
        body = json.dumps({"agent_id": agent_id, "language": language, "code": code}).encode()
        head = (
            f"POST /api/llm/execute HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._port = port
        self._request = head.encode() + body
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def execute(self) -> None:
        """Runs it, and looks at what came of it."""
        if self._streams is not None and self._streams[0].at_eof():  # the server lets idle ones go
            await self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().lower().splitlines()[1:-1])
        body = await reader.readexactly(int(fields["content-length"]))
        assert b" 200 " in head[:16], body
        assert b'"stdout":"1\\n"' in body, body
        assert b'"outcome":"success"' in body, body

    async def close(self) -> None:
        """Closes it."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()
            await streams[1].wait_closed()
