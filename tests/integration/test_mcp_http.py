"""``/mcp`` of a server: sessions, who is asking, and how it all ends."""

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mulligan.mcp.workspace import TEMPORARY
from support import host
from support.host import data_directory
from support.mcp_clients import ERAS, LEGACY, MODERN, answering, over_http, said
from support.server import Server, clean_environment, command

pytestmark = pytest.mark.anyio

ACCEPT = {"Accept": "application/json, text/event-stream"}
SLEEP = "import time; print('started', flush=True); time.sleep(300)"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "by-hand", "version": "1"},
    },
}


def call(number: int, tool: str, **given: Any) -> dict[str, Any]:
    params = {"name": tool, "arguments": given}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


async def vms(server: Server, agent: str | None = None) -> list[dict[str, Any]]:
    params = {"agent_id": agent} if agent else {}
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{server.url}/api/vms", params=params)
    found: list[dict[str, Any]] = answer.json()
    return found


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("era", ERAS)
async def test_two_agents_beside_each_other(server: Server, era: str) -> None:
    async with (
        over_http(server.url, era, query="?agent_id=left") as left,
        over_http(server.url, era, query="?agent_id=right") as right,
    ):
        await asyncio.gather(left.run("me = 'left'"), right.run("me = 'right'"))
        for _ in range(3):
            one, two = await asyncio.gather(left.run("me"), right.run("me"))
            assert (one["result"], two["result"]) == ("'left'", "'right'")
        assert one["vm_id"] != two["vm_id"]
        for tool, given in (
            ("history", {"vm_id": one["vm_id"]}),
            ("rollback", {"vm_id": one["vm_id"]}),
            ("remove_vm", {"vm_id": one["vm_id"]}),
            ("run_code", {"vm_id": one["vm_id"], "code": "1"}),
            ("read_output", {"execution_id": one["execution_id"]}),
            ("cancel", {"execution_id": one["execution_id"]}),
            ("rollback", {"execution_id": one["execution_id"]}),
        ):
            await right.refused(tool, **given)
        assert (await left.run("me"))["result"] == "'left'"


async def test_a_session_has_an_agent_of_its_own_that_goes_with_it(server: Server) -> None:
    async with (
        over_http(server.url, LEGACY) as one,
        over_http(server.url, LEGACY) as other,
    ):
        await one.run("x = 1")
        assert "NameError" in (await other.run("x"))["stderr"]["text"]
        agents = {(await each.data("vms"))["agent_id"] for each in (one, other)}
        assert len(agents) == 2
        assert all(each.startswith(TEMPORARY) for each in agents)
        for agent in agents:
            assert len(await vms(server, agent)) == 1

    async def gone() -> bool:
        return not [each for each in await vms(server) if each["agent_id"] in agents]

    await until(gone)


async def test_without_sessions_unnamed_clients_share_an_agent(server: Server) -> None:
    async with over_http(server.url, MODERN) as one, over_http(server.url, MODERN) as other:
        await one.run("shared = 1")
        assert (await other.run("shared"))["result"] == "1"
        assert (await one.data("vms"))["agent_id"] == "mcp"


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancelled_call_ends_its_execution(server: Server, era: str) -> None:
    async with over_http(server.url, era, query=f"?agent_id=impatient-{era}") as client:
        started = asyncio.Event()

        async def progress(_: float, __: float | None, message: str | None) -> None:
            if message == "started\n":
                started.set()

        running = asyncio.create_task(
            client.client.call_tool("run_code", {"code": SLEEP}, progress_callback=progress)
        )
        await asyncio.wait_for(started.wait(), 60)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await client.run("'next'"))["result"] == "'next'"
        failed = (await client.data("history", failures_only=True))["executions"]
        assert [each["outcome"] for each in failed] == ["cancelled"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Content-Type": "text/plain"}, 400),
        ({"Accept": "text/html"}, 406),
        ({"Mcp-Session-Id": "0" * 32}, 404),
        ({"Mcp-Protocol-Version": "1999-01-01"}, 400),
    ],
)
def test_what_a_request_has_to_be(http: httpx.Client, headers: dict[str, str], status: int) -> None:
    answer = http.post("/mcp", json=INITIALIZE, headers=ACCEPT | headers)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("query", "status"),
    [("?agent_id=", 400), ("?agent_id=no%20spaces", 400), ("?agent_id=" + "x" * 200, 400)],
)
def test_an_agent_s_name_has_to_be_one(http: httpx.Client, query: str, status: int) -> None:
    answer = http.post(f"/mcp{query}", json=INITIALIZE, headers=ACCEPT)
    assert answer.status_code == status
    assert answer.json()["field"] == "agent_id"


def test_a_session_is_its_agent_s(http: httpx.Client) -> None:
    begun = http.post("/mcp?agent_id=owner", json=INITIALIZE, headers=ACCEPT)
    session = {"Mcp-Session-Id": begun.headers["mcp-session-id"]}
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    answers = [
        http.post(f"/mcp?agent_id={agent}", json=ping, headers=ACCEPT | session).status_code
        for agent in ("owner", "thief")
    ]
    assert answers == [200, 404]
    assert http.delete("/mcp?agent_id=owner", headers=ACCEPT | session).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"[" * 100_000, b'{"jsonrpc":"2.0"}'])
def test_what_is_malformed_is_refused(http: httpx.Client, body: bytes) -> None:
    headers = ACCEPT | {"Content-Type": "application/json"}
    assert http.post("/mcp", content=body, headers=headers).status_code == 400
    headers |= {"Mcp-Protocol-Version": "2026-07-28"}
    assert http.post("/mcp", content=body, headers=headers).status_code == 400


async def test_a_session_nobody_uses_ends(data_dir: Path) -> None:
    with Server(data_dir, MULLIGAN_MCP__IDLE_SECONDS="0.5") as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as http:
            begun = await http.post("/mcp", json=INITIALIZE, headers=ACCEPT)
            headers = ACCEPT | {"Mcp-Session-Id": begun.headers["mcp-session-id"]}
            done = await http.post("/mcp", json=call(1, "run_code", code="1"), headers=headers)
            assert '"result":"1"' in done.text.replace(" ", "")

            async def gone() -> bool:
                return not await vms(server)

            await until(gone)  # its client has vanished, and so do its VMs
            late = await http.post("/mcp", json=call(2, "vms"), headers=headers)
            assert late.status_code == 404


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_that_stops_waits_for_nobody(data_dir: Path, era: str) -> None:
    with Server(data_dir, MULLIGAN_ADMISSION__SHUTDOWN_SECONDS="0.2") as server:
        async with over_http(server.url, era) as client:
            started = asyncio.Event()

            async def progress(_: float, __: float | None, message: str | None) -> None:
                if message == "started\n":
                    started.set()

            running = asyncio.create_task(
                client.client.call_tool("run_code", {"code": SLEEP}, progress_callback=progress)
            )
            await asyncio.wait_for(started.wait(), 60)
            server.process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(server.process.wait, 30)
            assert code in (0, -signal.SIGTERM), server.log()  # uvicorn passes it on
            running.cancel()
            await asyncio.wait({running})
    assert "Traceback" not in server.log()
    assert not host.naming(data_dir)
    left = [path.name for path in (data_dir / "vms").iterdir()]
    assert len(left) == (0 if era == LEGACY else 1)


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Server, str]]:
    """A server with a token of the agent ada."""
    with data_directory() as path:
        line = command("token", "create", "--agent", "ada", "--data-dir", str(path))
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=60, env=clean_environment(), check=True
        )
        with Server(path) as server:
            yield server, done.stdout.split()[-1]


async def test_a_token_says_which_agent(guarded: tuple[Server, str]) -> None:
    server, token = guarded
    headers = ACCEPT | {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as http:
        assert (await http.post("/mcp", json=INITIALIZE, headers=ACCEPT)).status_code == 401
        other = await http.post("/mcp?agent_id=bob", json=INITIALIZE, headers=headers)
        assert other.status_code == 404
        begun = await http.post("/mcp", json=INITIALIZE, headers=headers)
        session = headers | {"Mcp-Session-Id": begun.headers["mcp-session-id"]}
        told = await http.post("/mcp", json=call(1, "vms"), headers=session)
        assert '"agent_id":"ada"' in told.text.replace(" ", "")


async def test_an_agent_s_token_answers_no_questions(guarded: tuple[Server, str]) -> None:
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    server, token = guarded
    asked: list[str] = []
    person = answering("accept", asked)

    async def ask(_: object, params: Any) -> Any:
        return await person(params.message)

    http = create_mcp_http_client(headers={"Authorization": f"Bearer {token}"})
    async with http:
        transport = streamable_http_client(f"{server.url}/mcp", http_client=http)
        async with Client(transport, elicitation_callback=ask) as client:
            given = {"code": "git clean -fdx", "language": "bash"}
            result = await client.call_tool("run_code", given)
    assert result.is_error
    assert "mulligan approvals" in said(result)
    assert asked == []


async def test_secrets_are_taken_out(data_dir: Path) -> None:
    secret = "made-up-" + "for-this-test-7Qx2"
    with Server(data_dir, MULLIGAN_SECRETS__KEY=secret) as server:
        async with over_http(server.url) as client:
            code = (
                "import os\nkey = os.environ['KEY']\n"
                "with open('f', 'w') as file:\n    file.write(key)\nprint(key); key"
            )
            ran = await client.run(code)
            assert ran["outcome"] == "success"
            assert secret not in str(ran)
            assert (await client.run("len(open('f').read())"))["result"] == str(len(secret))
            told = await client.data("read_file", path="f")
            assert secret not in str(told)
            assert told["bytes"] == len(secret)
            assert secret not in str(await client.data("diff"))


def test_it_can_be_switched_off(data_dir: Path) -> None:
    with Server(data_dir, MULLIGAN_MCP__ENABLED="false") as server:
        answer = httpx.post(f"{server.url}/mcp", json=INITIALIZE, headers=ACCEPT, trust_env=False)
    assert answer.status_code == 404
