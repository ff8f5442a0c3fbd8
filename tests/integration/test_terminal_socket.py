"""The WebSocket of terminals, message by message and byte by byte."""

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mulligan import VmExecutionClient, VmExecutionConfig
from mulligan.models import DEFAULT_VM_TYPE
from support.access import make_token
from support.host import wait_until
from support.server import Server

pytestmark = pytest.mark.anyio
MIB = 1024 * 1024
PATIENCE_S = 20
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@pytest.fixture(scope="module")
def vm(server: Server) -> str:
    body = {"agent_id": "tester", "vm_type": DEFAULT_VM_TYPE}
    return str(httpx.post(f"{server.url}/api/vms", json=body, trust_env=False).json()["id"])


def processes(server: Server, vm: str) -> int:
    """How many the VM has, with the one that counts."""
    code = "set -- /proc/[0-9]*; echo $#"
    body = {"agent_id": "tester", "vm_id": vm, "language": "bash", "code": code}
    url = f"{server.url}/api/llm/execute"
    return int(httpx.post(url, json=body, timeout=60, trust_env=False).json()["stdout"])


@pytest.fixture
async def nothing_left(server: Server, vm: str) -> AsyncIterator[None]:
    before = processes(server, vm)
    yield
    assert wait_until(lambda: processes(server, vm) == before, PATIENCE_S)
    assert httpx.get(f"{server.url}/health", trust_env=False).json()["status"] == "ok"


def resident(server: Server) -> int:
    """Bytes of the server's memory."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def address(server: Server, vm: str, query: str = "") -> str:
    return f"ws{server.url.removeprefix('http')}/api/vms/{vm}/terminal{query}"


@contextlib.asynccontextmanager
async def opened(
    server: Server, vm: str, query: str = "", **more
) -> AsyncIterator[ClientConnection]:
    async with connect(address(server, vm, query), proxy=None, compression=None, **more) as found:
        started = json.loads(await found.recv())
        assert started["type"] == "started"
        assert started["vm_id"] == vm
        assert started["execution_id"].startswith("exec-")
        yield found


async def until(connection: ClientConnection, wanted: bytes) -> bytes:
    got = b""
    async with asyncio.timeout(PATIENCE_S):
        while wanted not in got:
            message = await connection.recv()
            assert isinstance(message, bytes), message
            got += message
    return got


async def said(connection: ClientConnection) -> dict:
    """The next text message."""
    async with asyncio.timeout(PATIENCE_S):
        while isinstance(message := await connection.recv(), bytes):
            pass
    return json.loads(message)


async def drained(connection: ClientConnection) -> None:
    """Reads up to the end, and raises it."""
    while True:
        await connection.recv()


async def test_from_started_to_exit(server: Server, vm: str, nothing_left: None) -> None:
    async with opened(server, vm, "?cols=50&rows=20&term=xterm&command=stty+size;exit+7") as ws:
        await until(ws, b"20 50\r\n")
        exit_message = await said(ws)
        assert exit_message["execution_id"].startswith("exec-")
        assert exit_message["duration_ms"] >= 0
        kept = {"type", "exit_code", "outcome", "error", "notes", "output_bytes"}
        assert {name: exit_message[name] for name in kept} == {
            "type": "exit",
            "exit_code": 7,
            "outcome": "failed",
            "error": None,
            "notes": [],
            "output_bytes": 7,
        }
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1000


MALFORMED = [
    "",
    "hello",
    "{",
    "[]",
    "null",
    "1",
    '"resize"',
    "{}",
    '{"type":"close"}',
    '{"type":null}',
    '{"type":["resize"]}',
    '{"type":"resize"}',
    '{"type":"resize","cols":80}',
    '{"type":"resize","cols":0,"rows":24}',
    '{"type":"resize","cols":80,"rows":1001}',
    '{"type":"resize","cols":-1,"rows":24}',
    '{"type":"resize","cols":"80","rows":24}',
    '{"type":"resize","cols":80.5,"rows":24}',
    '{"type":"resize","cols":true,"rows":24}',
    '{"type":"resize","cols":1e999,"rows":24}',
    '{"type":"resize","cols":80,"rows":24,"more":1}',
    '{"type":"signal"}',
    '{"type":"signal","name":"STOP"}',
    '{"type":"signal","name":"SIGINT"}',
    '{"type":"signal","name":2}',
    '{"type":"signal","name":"INT","pid":1}',
    "[" * 2000,
    '{"type":"resize","cols":80,"rows":24}' + " " * 4096,
    "x" * 100_000,
    "\x00",
]


async def test_malformed_controls_are_told_and_change_nothing(
    server: Server, vm: str, nothing_left: None
) -> None:
    async with opened(server, vm) as ws:
        for text in MALFORMED:
            await ws.send(text)
            answer = await said(ws)
            assert (answer["type"], answer["fatal"]) == ("error", False), text[:60]
            assert list(answer["error"]) == ["ValidationFailed"]
            assert answer["message"]
        await ws.send('{"type":"resize","cols":33,"rows":44}')
        await ws.send(b"stty size\r")
        await until(ws, b"44 33\r\n")


REFUSED = [
    ("?cols=0", 422, "cols"),
    ("?cols=x", 422, "cols"),
    ("?cols=99999999999999999999", 422, "cols"),
    ("?rows=-5", 422, "rows"),
    ("?term=a%20b", 422, "term"),
    ("?unknown=1", 422, "unknown"),
    ("?command=", 400, "code"),
    ("?command=%00", 400, "code"),
    ("?agent_id=somebody-else", 404, "vm_id"),
]


@pytest.mark.parametrize(("query", "code", "field"), REFUSED)
async def test_what_is_refused_is_answered_like_any_request(
    server: Server, vm: str, query: str, code: int, field: str
) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with opened(server, vm, query):
            pass
    response = caught.value.response
    assert response.status_code == code
    body = json.loads(response.body or b"")
    assert body["field"] == field
    assert set(body) == {"error", "message", "field", "remedy", "request_id"}


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}],
    ids=str,
)
async def test_web_pages_do_not_get_one(server: Server, vm: str, headers: dict[str, str]) -> None:
    code, raw = await asyncio.to_thread(handshake, server, vm, headers)
    raw.close()
    assert code == 403


@pytest.mark.parametrize("agents", ["false", "true"])
async def test_tokens(data_dir: Path, agents: str) -> None:
    """An agent's opens none, where nobody allowed that; an administrator's does; none does not."""
    with Server(data_dir, MULLIGAN_TERMINAL__AGENTS=agents) as server:
        tokens = {
            "theirs": make_token(data_dir, "--agent", "theirs")["token"],
            "ours": make_token(data_dir, "--agent", "ours")["token"],
            "admin": make_token(data_dir, "--admin")["token"],
        }
        headers = {name: {"Authorization": f"Bearer {token}"} for name, token in tokens.items()}
        asked = {"agent_id": "ours", "vm_type": DEFAULT_VM_TYPE}
        url = f"{server.url}/api/vms"
        made = httpx.post(url, json=asked, headers=headers["ours"], trust_env=False).json()["id"]
        expected = {"theirs": 404, "ours": 101 if agents == "true" else 403, "admin": 101}
        for name, code in expected.items():
            answered, raw = await asyncio.to_thread(handshake, server, made, headers[name])
            raw.close()
            assert (name, answered) == (name, code)
        answered, raw = await asyncio.to_thread(handshake, server, made)
        raw.close()
        assert answered == 401
        settings = VmExecutionConfig(api_base_url=server.url)
        async with VmExecutionClient(settings, auth_token=tokens["admin"]) as client:
            async with client.terminal(made) as terminal:
                await terminal.send(b"exit 5\r")
                async for _ in terminal.output():
                    pass
            assert terminal.exit
            assert terminal.exit.exit_code == 5


async def test_a_vm_that_is_not_there(server: Server) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with opened(server, "vm-0000000000000000"):
            pass
    assert caught.value.response.status_code == 404


async def test_the_largest_message_is_taken_and_no_larger_one(
    server: Server, vm: str, nothing_left: None
) -> None:
    query = "?command=stty+raw+-echo;echo+ready;head+-c+1048576|sha256sum"
    async with opened(server, vm, query) as ws:
        await until(ws, b"ready")
        await ws.send(bytes(MIB))
        await until(ws, b"30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58")
    for message in (bytes(MIB + 1), "x" * (MIB + 1)):
        async with opened(server, vm) as ws:
            with contextlib.suppress(ConnectionClosed):
                await ws.send(message)
            with pytest.raises(ConnectionClosed) as closed:
                await drained(ws)
            assert closed.value.rcvd
            assert closed.value.rcvd.code == 1009


# Byte by byte


def handshake(
    server: Server, vm: str, headers: dict[str, str] | None = None, query: str = ""
) -> tuple[int, socket.socket]:
    """A socket after its handshake, and the status of the answer."""
    where = urlsplit(server.url)
    assert where.port
    raw = socket.create_connection((str(where.hostname), where.port), timeout=PATIENCE_S)
    given = {"Host": where.netloc, "Upgrade": "websocket", "Connection": "Upgrade"}
    given |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version": "13"}
    lines = [f"{name}: {value}" for name, value in (given | (headers or {})).items()]
    path = f"/api/vms/{vm}/terminal{query}"
    raw.sendall("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        piece = raw.recv(1)
        assert piece
        head += piece
    return int(head.split()[1]), raw


def raw_body(raw: socket.socket) -> str:
    """The rest of an answer that ends the connection."""
    with raw:
        body = b""
        while piece := raw.recv(65536):
            body += piece
    return str(json.loads(body)["message"])


def frame(opcode: int, data: bytes, *, length: int | None = None, final: bool = True) -> bytes:
    """A client's frame (RFC 6455, 5.2), masked with zeros; ``length`` as if it were another."""
    size = len(data) if length is None else length
    first = bytes([opcode | (0x80 if final else 0)])
    if size < 126:
        return first + bytes([0x80 | size]) + bytes(4) + data
    if size < 2**16:
        return first + b"\xfe" + struct.pack(">H", size) + bytes(4) + data
    return first + b"\xff" + struct.pack(">Q", size) + bytes(4) + data


def received(raw: socket.socket) -> list[tuple[int, bytes]]:
    """The server's frames up to its last."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := raw.recv(65536):
            data += piece
    found = []
    while data:
        opcode, size, at = data[0] & 15, data[1], 2
        if size == 126:
            size, at = int.from_bytes(data[2:4]), 4
        elif size == 127:
            size, at = int.from_bytes(data[2:10]), 10
        found.append((opcode, data[at : at + size]))
        data = data[at + size :]
    return found


def close_code(raw: socket.socket) -> int:
    """What the server closes with."""
    last = received(raw)[-1]
    assert last[0] == CLOSE
    return int.from_bytes(last[1][:2])


async def test_a_frame_of_100_mb_is_refused_by_its_head(
    server: Server, vm: str, nothing_left: None
) -> None:
    before = resident(server)
    for opcode in (BINARY, TEXT):
        code, raw = await asyncio.to_thread(handshake, server, vm)
        assert code == 101
        with raw:
            raw.sendall(frame(opcode, b"x" * 1000, length=100 * MIB))
            assert await asyncio.to_thread(close_code, raw) == 1009
    assert resident(server) < before + 20 * MIB


async def test_a_message_of_100_mb_in_pieces_is_refused(
    server: Server, vm: str, nothing_left: None
) -> None:
    before = resident(server)
    _, raw = await asyncio.to_thread(handshake, server, vm)
    with raw:
        raw.sendall(frame(BINARY, bytes(65536), final=False))
        with contextlib.suppress(ConnectionError):
            for _ in range(1600):
                await asyncio.to_thread(raw.sendall, frame(0, bytes(65536), final=False))
    assert resident(server) < before + 20 * MIB


BROKEN = {
    "no mask": (b"\x82\x03abc", 1002),
    "an opcode that is none": (frame(3, b"abc"), 1002),
    "a reserved bit": (bytes([0xC2]) + frame(BINARY, b"abc")[1:], 1002),
    "a ping in pieces": (frame(PING, b"abc", final=False), 1002),
    "a long ping": (frame(PING, bytes(126)), 1002),
    "a piece of nothing": (frame(0, b"abc"), 1002),
    "text that is none": (frame(TEXT, b"\xff\xfe"), 1007),
    "a close with a code that is none": (frame(CLOSE, b"\x00\x01"), 1002),
    "a length of 2 to the 63": (bytes([0x82, 0xFF]) + b"\xff" * 8 + bytes(4), 1009),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_no_websocket(server: Server, vm: str, nothing_left: None, name: str) -> None:
    data, code = BROKEN[name]
    _, raw = await asyncio.to_thread(handshake, server, vm)
    with raw:
        raw.sendall(data)
        assert await asyncio.to_thread(close_code, raw) in (code, 1002)


@pytest.mark.parametrize(
    "data", [b"", frame(BINARY, b"echo x\r")[:-2], frame(TEXT, b"{")[:1]], ids=repr
)
@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_half_a_frame_and_a_client_that_is_gone(
    server: Server, vm: str, nothing_left: None, data: bytes, how: str
) -> None:
    _, raw = await asyncio.to_thread(handshake, server, vm, None, "?command=sleep+300")
    raw.sendall(data)
    if how == "reset":
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


async def test_half_a_handshake(server: Server, vm: str, nothing_left: None) -> None:
    where = urlsplit(server.url)
    assert where.port
    for request in (b"GET", f"GET /api/vms/{vm}/terminal HTTP/1.1\r\nUpgrade: webso".encode()):
        with socket.create_connection((str(where.hostname), where.port)) as raw:
            raw.sendall(request)


UNREADABLE = {
    "a body": ({"Content-Length": "2"}, "", "body"),
    "a long line": ({}, "?command=" + "x" * 9000, "8192 bytes"),
    "many headers": ({f"X-{number}": "1" for number in range(200)}, "", "headers"),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_a_handshake_that_cannot_be_read_is_answered(
    server: Server, vm: str, name: str
) -> None:
    headers, query, said = UNREADABLE[name]
    code, raw = await asyncio.to_thread(handshake, server, vm, headers, query)
    assert code == 400
    assert said in raw_body(raw)


async def test_a_ping_is_answered(server: Server, vm: str, nothing_left: None) -> None:
    async with opened(server, vm) as ws:
        await asyncio.wait_for(await ws.ping(), PATIENCE_S)


async def test_a_client_that_stops_reading(server: Server, vm: str, nothing_left: None) -> None:
    """Its program waits; the server keeps little of it; others go on; its end ends the program."""
    before = resident(server)
    _, raw = await asyncio.to_thread(handshake, server, vm, None, "?command=yes")
    with raw:
        await asyncio.sleep(2)  # as long as it likes
        first = processes(server, vm)
        assert resident(server) < before + 20 * MIB
        raw.sendall(frame(TEXT, b'{"type":"signal","name":"INT"}'))  # it is heard even so
        assert await asyncio.to_thread(wait_until, lambda: processes(server, vm) == first - 1)


async def test_a_client_that_only_writes(server: Server, vm: str, nothing_left: None) -> None:
    """Nobody reads the input: so much is kept, then the client waits, and then it is over."""
    before = resident(server)
    _, raw = await asyncio.to_thread(handshake, server, vm, None, "?command=stty+raw;sleep+300")
    with raw:
        raw.settimeout(1)
        with pytest.raises(TimeoutError):
            raw.sendall(frame(BINARY, bytes(65536)) * 512)  # 32 MiB
        assert resident(server) < before + 20 * MIB
        raw.settimeout(PATIENCE_S)
        *_, (opcode, words), (_, code) = await asyncio.to_thread(received, raw)
        assert (opcode, int.from_bytes(code[:2])) == (TEXT, 1008)
        assert "has not taken its input" in json.loads(words)["message"]


# Anything

CONTROLS = st.one_of(
    st.text(max_size=200),
    st.sampled_from(MALFORMED).filter(lambda text: len(text) < 5000),
    st.fixed_dictionaries(
        {"type": st.just("resize"), "cols": st.integers(), "rows": st.integers()}
    ).map(json.dumps),
    st.fixed_dictionaries(
        {"type": st.just("signal"), "name": st.sampled_from(["INT", "TERM", "QUIT", "HUP", "x"])}
    ).map(json.dumps),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=9,
    ).map(json.dumps),
)
KEYS = st.one_of(
    st.binary(max_size=400),
    st.sampled_from([b"\x03", b"\x04", b"\x1a", b"\x1c", b"yes\r", b"\x1b[A", b"exit\r", b"cat\r"]),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(messages=st.lists(CONTROLS | KEYS, max_size=15), closes=st.booleans())
def test_any_messages(server: Server, vm: str, messages: list[str | bytes], closes: bool) -> None:
    async def scenario() -> None:
        async with opened(server, vm) as ws:
            with contextlib.suppress(ConnectionClosed):  # a shell may be told to end
                for message in messages:
                    await ws.send(message)
            if not closes:
                ws.transport.abort()

    asyncio.run(scenario())
    assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.lists(
        st.binary(max_size=200)
        | st.builds(
            lambda opcode, data, length: frame(opcode, data, length=length),
            st.integers(0, 15),
            st.binary(max_size=150),
            st.none() | st.integers(0, 2**63 - 1),
        ),
        max_size=6,
    ).map(b"".join)
)
def test_any_bytes(server: Server, vm: str, data: bytes) -> None:
    _, raw = handshake(server, vm, None, "?command=cat")
    with raw, contextlib.suppress(ConnectionError):
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
        received(raw)
    assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200


def test_nothing_of_all_that_is_left(server: Server, vm: str) -> None:
    """After the tests above: no process in the VM, no descriptor, no complaint of the server's."""
    assert wait_until(lambda: processes(server, vm) <= 4, PATIENCE_S)
    assert wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) < 60, PATIENCE_S)
    log = server.log()
    assert "Exception in ASGI application" not in log, log[log.index("Exception in ASGI") :][:6000]
    assert '"fault"' not in server.log()
