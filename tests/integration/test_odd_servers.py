"""Clients and servers that are old, something else, or gone: what is said, and what is repeated."""

import asyncio
import json
import re
import socket
import time

import pytest

from mulligan import SyncVmExecutionClient, VmExecuteRequest, VmExecutionClient
from mulligan.client import http as http_module
from mulligan.client import transport
from mulligan.errors import (
    ApiError,
    ConfigError,
    ConnectionFailed,
    ExecutionTimeout,
    ValidationFailed,
    VmExecutionError,
)
from mulligan.models import VmExecutionConfig
from mulligan.version import __version__
from support import odd_servers
from support.odd_servers import OddServer, answer, by_path, end, reset, says

pytestmark = pytest.mark.anyio

VM = {
    "id": "vm-1",
    "name": "n",
    "vm_type": "t",
    "status": "ready",
    "created_at": "2026-01-01T00:00:00Z",
}
RESULT = {
    "execution_id": "exec-1",
    "vm_id": "vm-1",
    "exit_code": 0,
    "stdout": "1\n",
    "stderr": "",
    "duration_ms": 1,
    "started_at": "2026-01-01T00:00:00Z",
    "completed_at": "2026-01-01T00:00:01Z",
}
HTML = b"<!doctype html><html><title>It works!</title></html>"
OLD_HEALTH = answer(json.dumps({"status": "ok", "version": "0.0.1"}).encode())
NO_ROUTE = answer(
    json.dumps({"error": {"ApiError": "Not Found"}, "message": "API error: Not Found"}).encode(),
    "404 Not Found",
)
NO_FIELD = answer(
    json.dumps(
        {
            "error": {"ValidationFailed": "kernel: Extra inputs are not permitted"},
            "message": "Code validation failed: kernel: Extra inputs are not permitted",
            "field": "kernel",
        }
    ).encode(),
    "422 Unprocessable Content",
)


def of(url: str) -> VmExecutionClient:
    return VmExecutionClient(VmExecutionConfig(api_base_url=url), auth_token="")


def ended(connection: socket.socket, _: bytes) -> None:
    end(connection)


def reset_at_once(connection: socket.socket, _: bytes) -> None:
    reset(connection)


def half(connection: socket.socket, _: bytes) -> None:
    connection.sendall(answer(b'{"execution_id": "exec', length=5000))
    end(connection)


def half_then_reset(connection: socket.socket, _: bytes) -> None:
    connection.sendall(answer(b'{"execution_id": "exec', length=5000))
    reset(connection)


def half_a_head(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Ty")
    end(connection)


def no_http(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
    end(connection)


def endless(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


# (what answers, kind of error, its text, its remedy)
WRONG = {
    "HTML": (says(HTML, kind="text/html"), ApiError, "it is text/html", "a Mulligan server?"),
    "HTML of an error": (
        says(HTML, "404 Not Found", "text/html"),
        ApiError,
        "HTTP 404: <!doctype",
        "a Mulligan server?",
    ),
    "text": (says(b"hello", kind="text/plain"), ApiError, "Failed to parse", "Mulligan server?"),
    "no JSON": (says(b"{'a': 1}"), ApiError, "Failed to parse response", "Mulligan server?"),
    "JSON of another shape": (
        says(b'{"jobs": []}'),
        ApiError,
        "Failed to parse response: ([a-z_]+: Field required|the answer: Input should be a)",
        "Mulligan server?",
    ),
    "a list": (says(b"[]"), ApiError, "Failed to parse response", "Mulligan server?"),
    "nothing": (says(b""), ApiError, "Failed to parse response", "Mulligan server?"),
    "no UTF-8": (says(b'"\xff\xfe"'), ApiError, "Failed to parse response", "Mulligan server?"),
    "deep JSON": (says(b"[" * 100_000), ApiError, "Failed to parse response", "Mulligan"),
    "an endless page": (endless, ApiError, "it is text/html", "Mulligan server?"),
    "an error of another API": (
        says(b'{"detail": "no"}', "400 Bad Request"),
        ApiError,
        'HTTP 400: {"detail": "no"}',
        "Mulligan server?",
    ),
    "an error that is none of ours": (
        says(b'{"error": {"Nonsense": 1}}', "500 Oh"),
        ApiError,
        "HTTP 500",
        "Mulligan server?",
    ),
    "a proxy in front of nothing": (
        says(b"bad gateway", "502 Bad Gateway", "text/plain"),
        ApiError,
        "HTTP 502: bad gateway",
        "Mulligan server?",
    ),
    "a redirect": (says(b"", "302 Found"), ApiError, "HTTP 302", "Mulligan server?"),
    "a route it has not": (
        by_path({"GET /health": OLD_HEALTH}, NO_ROUTE),
        ApiError,
        r"the server has no [A-Z]+ /api/\S+ \(HTTP 404\)",
        f"it is version 0.0.1, this client is {__version__}",
    ),
    "a route it has not, and no version": (
        lambda connection, _: connection.sendall(NO_ROUTE),
        ApiError,
        "the server has no",
        "its version is not known",
    ),
    "a field it does not know": (
        by_path({"GET /health": OLD_HEALTH}, NO_FIELD),
        ValidationFailed,
        "the server does not know the field kernel",
        "it is version 0.0.1",
    ),
    "gone at once": (ended, ConnectionFailed, "lost the connection to", None),
    "reset": (reset_at_once, ConnectionFailed, "lost the connection to", None),
    "half an answer": (half, ConnectionFailed, "lost the connection to", None),
    "half an answer, reset": (half_then_reset, ConnectionFailed, "lost the connection to", None),
    "half a head": (half_a_head, ConnectionFailed, "lost the connection to", None),
    "no HTTP": (no_http, ConnectionFailed, "lost the connection to", None),
}
ASKED = {
    "execute": lambda client: client.execute_python("a", "1"),
    "read": lambda client: client.get_vm("vm-1"),
    "list": lambda client: client.list_vms(),
    "stream": lambda client: _all(client.stream(request())),
}
# Of a list a list is what it should be.
FINE = {("list", "a list")}


def request(**more: object) -> VmExecuteRequest:
    return VmExecuteRequest(agent_id="a", language="bash", code="1", **more)


async def _all(events) -> list:
    return [event async for event in events]


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", WRONG)
async def test_what_is_said(name: str, asked: str) -> None:
    behave, kind, text, remedy = WRONG[name]
    if (asked, name) in FINE:
        pytest.skip("this is how it should be")
    with OddServer(behave) as server:
        async with of(server.url) as client:
            with pytest.raises(VmExecutionError) as caught:
                await ASKED[asked](client)
    error = caught.value
    assert str(error).count("\n") == 0
    assert len(str(error)) < 1000
    if asked == "stream" and kind is not ValidationFailed and "HTTP" not in text:
        assert isinstance(error, ApiError | ConnectionFailed)  # in the words of events
        return
    assert isinstance(error, kind), repr(error)
    if asked == "stream" and error.detail.startswith("the server does not stream"):
        assert "404" in text or "has no" in text
        return
    assert re.search(text, str(error)), str(error)
    if remedy is not None:
        assert remedy in (error.remedy or "")
    if kind is ConnectionFailed:
        wanted = "look before you ask" if asked == "execute" else "is the server running"
        assert wanted in (error.remedy or "")


@pytest.mark.parametrize(
    ("url", "text", "remedy"),
    [
        ("http://127.0.0.1:{port}", "cannot reach http://127.0.0.1:", "mulligan serve"),
        ("http://no-such-host.invalid", "cannot reach http://no-such-host", "no host of that name"),
    ],
)
async def test_nobody_is_there(url: str, text: str, remedy: str) -> None:
    with odd_servers.free_port() as port:
        async with of(url.format(port=port)) as client:
            for ask in (*ASKED.values(), lambda client: client.health_check()):
                with pytest.raises(ConnectionFailed) as caught:
                    await ask(client)
                assert text in str(caught.value)
                assert remedy in (caught.value.remedy or "")


async def test_tls_on_a_plain_port() -> None:
    with OddServer(ended) as server:
        async with of(server.url.replace("http:", "https:")) as client:
            with pytest.raises(ConnectionFailed) as caught:
                await client.execute_python("a", "1")
    assert "cannot reach https://" in str(caught.value)
    assert len(server.requests) == transport.ATTEMPTS  # nothing was sent that could run


@pytest.mark.parametrize(
    "url", ["", "localhost:8080", "ftp://x", "http://", "http://[::1", "http://h:99999", "/a"]
)
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="no URL of a server") as caught:
        of(url)
    assert caught.value.field == "api_base_url"


# What is repeated


async def test_a_read_is_repeated_and_an_execution_never() -> None:
    failures = 2

    def unsteady(connection: socket.socket, asked: bytes) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            end(connection)
            return
        connection.sendall(answer(json.dumps(VM if b"GET" in asked else RESULT).encode()))

    with OddServer(unsteady) as server:
        async with of(server.url) as client:
            assert (await client.get_vm("vm-1")).id == "vm-1"
            assert len(server.requests) == 3
            failures = 1
            with pytest.raises(ConnectionFailed, match="lost the connection"):
                await client.execute_python("a", "1")
            assert len(server.requests) == 4
            for ask in (
                lambda: client.provision_vm("a"),
                lambda: client.delete_vm("vm-1"),
                lambda: client.rollback("vm-1"),
                lambda: client.execute_batch([request()]),
                lambda: client.cancel_execution("exec-1"),
            ):
                failures = 1
                before = len(server.requests)
                with pytest.raises(ConnectionFailed):
                    await ask()
                assert len(server.requests) == before + 1


async def test_what_was_not_sent_is_sent_when_the_server_comes_back(monkeypatch) -> None:
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.5)
    with odd_servers.free_port() as port:
        pass
    async with of(f"http://127.0.0.1:{port}") as client:
        asked = asyncio.create_task(client.execute_python("a", "1"))
        await asyncio.sleep(0)
        server = OddServer(says(json.dumps(RESULT).encode()), port)
        with server:
            assert (await asked).stdout == "1\n"
        assert len(server.requests) == 1


# Connections and time


async def test_requests_share_a_connection() -> None:
    ok = by_path({"GET /api/vms/vm-1": answer(json.dumps(VM).encode())}, answer(b"[]"))

    def behave(connection: socket.socket, asked: bytes) -> None:
        if asked.startswith(b"POST"):
            connection.sendall(answer(json.dumps(RESULT).encode()))
        elif b"vm-0" in asked:
            error = {"error": {"VmNotAvailable": "vm-0"}, "message": "m"}
            connection.sendall(answer(json.dumps(error).encode(), "404 Not Found"))
        else:
            ok(connection, asked)

    with OddServer(behave) as server:
        async with of(server.url) as client:
            for _ in range(20):
                await client.execute_python("a", "1")
                await client.get_vm("vm-1")
                with pytest.raises(VmExecutionError, match="vm-0"):
                    await client.get_vm("vm-0")
        assert (len(server.requests), server.connections) == (60, 1)


def test_the_blocking_client_keeps_its_connection_across_threads() -> None:
    with OddServer(says(json.dumps(RESULT).encode())) as server:
        config = VmExecutionConfig(api_base_url=server.url)
        with SyncVmExecutionClient(config, auth_token="") as client:
            for _ in range(10):
                client.execute_python("a", "1")
        assert server.connections == 1


def silent(_: socket.socket, __: bytes) -> None:
    """Waits for the next request, which does not come."""


async def test_a_client_waits_longer_than_the_execution_may_take(monkeypatch) -> None:
    for module in (transport, http_module):
        monkeypatch.setattr(module, "ANSWER_SLACK_S", 0.1)
    monkeypatch.setattr(transport, "CONNECT_S", 0.2)
    with OddServer(silent) as server:
        config = VmExecutionConfig(api_base_url=server.url, execution_timeout_ms=200)
        async with VmExecutionClient(config, auth_token="") as client:
            started = time.monotonic()
            with pytest.raises(ExecutionTimeout) as caught:
                await client.execute_code(request(timeout_seconds=1))
            assert time.monotonic() - started >= 1.5  # times 1.5 for Bash
            assert caught.value.detail == 1600
            assert "look into the history" in (caught.value.remedy or "")
            with pytest.raises(ExecutionTimeout) as caught:
                await client.execute_code(request())
            assert caught.value.detail == 1600  # a limit has whole seconds
        assert len(server.requests) == 2  # neither was asked for again


async def test_a_drip_of_an_answer_does_not_go_on_for_ever(monkeypatch) -> None:
    monkeypatch.setattr(transport, "CONNECT_S", 0.2)
    monkeypatch.setattr(http_module, "ANSWER_SLACK_S", 0.1)

    def drip(connection: socket.socket, _: bytes) -> None:
        connection.sendall(answer(b"", length=10**6))
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)

    with OddServer(drip) as server:
        async with of(server.url) as client:
            with pytest.raises(ExecutionTimeout):
                await client.execute_code(request(timeout_seconds=1))


async def test_health_of_something_else() -> None:
    with OddServer(says(HTML, kind="text/html")) as server:
        async with of(server.url) as client:
            with pytest.raises(ApiError, match="HTTP 200: <!doctype"):
                await client.health_check()
    with OddServer(says(b'{"status": "failing"}', "503 No")) as server:
        async with of(server.url) as client:
            assert await client.health_check() is False


async def test_the_trace_goes_on(monkeypatch) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    with OddServer(says(json.dumps(RESULT).encode())) as server:
        async with of(server.url) as client:
            await client.execute_python("a", "1")
            with tracer.start_as_current_span("outer") as span:
                await client.execute_python("a", "1")
    bare, traced = server.requests
    assert b"traceparent" not in bare.lower()
    assert f"{span.get_span_context().trace_id:032x}".encode() in traced
