"""A thousand open event streams on one server: all are served, and nothing of them stays."""

import asyncio
import json
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support import host
from support.server import Server

pytestmark = [pytest.mark.anyio, pytest.mark.long]

STREAMS = 1000
EXECUTIONS = 10
GATED = "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two"
NEEDED = STREAMS + 500
MOST_KIB_EACH = 128  # of the server's memory


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough of them for this process's ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < NEEDED:
        pytest.skip(f"needs {NEEDED} descriptors, and the hard limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, NEEDED), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def server(data_dir: Path) -> Iterator[Server]:
    """One that is started with the usual limit, which is not enough."""
    few = ("sh", "-c", 'ulimit -Sn 1024; exec "$@"', "sh")
    with Server(data_dir, prefix=few, MULLIGAN_STREAMS__HEARTBEAT_SECONDS="1") as running:
        yield running


class Listener:
    """One stream, read as it comes: what it was told, without keeping what it was sent."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.printed = ""
        self.beats = 0

    async def listen(self, port: int, execution_id: str, connected: asyncio.Semaphore) -> None:
        async with connected:  # so many at once: a backlog is no thousand long
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            path = f"/api/executions/{execution_id}/events"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert b" 200 " in await reader.readline()
        try:
            while not self.events or self.events[-1] != "result":
                self._take(await reader.readline())
        finally:
            writer.close()
            await writer.wait_closed()

    def _take(self, line: bytes) -> None:
        assert line, "the server hung up"
        self.beats += line.startswith(b":")
        if line.startswith(b"event: "):
            self.events.append(line[7:].strip().decode())
        elif line.startswith(b"data: ") and self.events[-1] == "stdout":
            self.printed += json.loads(line[6:])["text"]


async def until(condition, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def test_a_thousand_listen(descriptors: None, server: Server) -> None:
    port = int(server.url.rsplit(":", 1)[1])

    def rss_kib() -> int:
        return int(host.status(server.pid, "VmRSS")[0])

    def sockets() -> int:
        return sum("socket:" in each for each in host.descriptors_of(server.pid))

    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as http:
        ids = []
        for number in range(EXECUTIONS):
            body = {"agent_id": f"a{number}", "language": "bash", "code": GATED}
            async with http.stream("POST", "/api/llm/execute/stream", json=body) as started:
                ids.append(started.headers["x-execution-id"])
        listeners = [Listener() for _ in range(STREAMS)]
        connected = asyncio.Semaphore(64)
        first = [Listener() for _ in ids]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(each.listen(port, execution_id, connected))
                for each, execution_id in zip(first, ids, strict=True)
            ]
            await until(lambda: all("one" in each.printed for each in first))  # all VMs are up
            before, memory = sockets(), rss_kib()
            tasks += [
                group.create_task(each.listen(port, ids[number % EXECUTIONS], connected))
                for number, each in enumerate(listeners)
            ]
            await until(lambda: all("one" in each.printed for each in listeners))
            assert sockets() >= before + STREAMS - 1
            await until(lambda: all(each.beats >= 2 for each in listeners))
            grown = (rss_kib() - memory) / STREAMS
            answered = await http.get("/health")  # others are served meanwhile
            assert answered.json()["status"] == "ok"
            for number in range(EXECUTIONS):
                body = {"agent_id": f"a{number}", "language": "bash", "code": "touch go"}
                assert (await http.post("/api/llm/execute", json=body)).json()["exit_code"] == 0
            async with asyncio.timeout(60):
                await asyncio.gather(*tasks)
    print(f"{grown:.1f} KiB of the server's memory each")
    assert grown < MOST_KIB_EACH
    told = Counter(
        (tuple(each for each in one.events if each != "queued"), one.printed) for one in listeners
    )
    assert told == {(("started", "stdout", "stdout", "result"), "one\ntwo\n"): STREAMS}
    await until(lambda: sockets() <= before)
