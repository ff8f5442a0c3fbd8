"""The clients, over HTTP and direct, async and blocking."""

import asyncio
import inspect
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import mulligan
from mulligan import HistoryConfig, SyncVmExecutionClient, VmExecuteRequest, VmExecutionClient
from mulligan import settings as settings_module
from mulligan.errors import (
    ApiError,
    ConfigError,
    ConnectionFailed,
    UnsupportedLanguage,
    VmNotAvailable,
)
from mulligan.models import VmExecutionConfig
from support import host

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["http", "direct"])
def client_options(request, server, data_dir: Path) -> dict:
    """What makes a client of either mode."""
    if request.param == "http":
        return {"config": VmExecutionConfig(api_base_url=server.url)}
    config = VmExecutionConfig(history=HistoryConfig(integration_mode="direct"))
    return {"config": config, "settings": settings_module.load(data_dir=data_dir)}


async def test_every_method(client_options: dict) -> None:
    host.check_has("node")
    async with VmExecutionClient(**client_options) as client:
        assert await client.health_check() is True
        assert (await client.execute_python("me", "print(1)")).stdout == "1\n"
        assert (await client.execute_javascript("me", "console.log(2)")).stdout == "2\n"
        assert (await client.execute_bash("me", "echo 3")).stdout == "3\n"
        vm = await client.provision_vm("other")
        assert (await client.wait_for_vm_ready(vm.id, 10)).id == vm.id
        assert [v.id for v in await client.list_vms("other")] == [vm.id]
        assert (await client.get_vm(vm.id)).agent_id == "other"
        request = VmExecuteRequest(agent_id="other", language="bash", code="cat", stdin="x")
        assert (await client.execute_code(request)).stdout == "x"
        await client.delete_vm(vm.id)
        with pytest.raises(VmNotAvailable):
            await client.get_vm(vm.id)


async def test_errors_have_their_types(client_options: dict) -> None:
    async with VmExecutionClient(**client_options) as client:
        with pytest.raises(UnsupportedLanguage, match="Language not supported: cobol") as caught:
            await client.execute_code(VmExecuteRequest(agent_id="a", language="cobol", code="x"))
        assert caught.value.field == "language"
        for odd in ("vm-0", "../x", "a b?c=d#e", "ü"):
            with pytest.raises(VmNotAvailable):
                await client.get_vm(odd)


async def test_many_requests_share_a_client(client_options: dict) -> None:
    async with VmExecutionClient(**client_options) as client:
        answers = await asyncio.gather(
            *(client.execute_python(f"agent-{n % 3}", f"print({n})") for n in range(30))
        )
    assert [answer.stdout for answer in answers] == [f"{n}\n" for n in range(30)]


def test_the_blocking_client(client_options: dict) -> None:
    with SyncVmExecutionClient(**client_options) as client:
        assert client.execute_python("me", "print(1)").stdout == "1\n"
        with pytest.raises(VmNotAvailable):
            client.get_vm("vm-0")
        with pytest.raises(AttributeError):
            client.no_such_method()


def test_a_blocking_client_may_be_closed_twice_and_forgotten(tmp_path: Path) -> None:
    client = SyncVmExecutionClient()
    client.close()
    client.close()
    with pytest.raises(ConnectionFailed, match="closed"):
        client.health_check()
    code = "import mulligan; client = mulligan.SyncVmExecutionClient(); print('end')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"end\n")


def test_the_blocking_client_has_the_same_methods() -> None:
    for name, method in inspect.getmembers(VmExecutionClient, inspect.isfunction):
        if name.startswith("_"):
            continue
        blocking = getattr(SyncVmExecutionClient, name)
        assert inspect.signature(blocking) == inspect.signature(method) or name == "close"
        assert not inspect.iscoroutinefunction(blocking)


def test_a_blocking_client_in_threads(client_options: dict) -> None:
    outputs: dict[int, str] = {}
    with SyncVmExecutionClient(**client_options) as client:

        def one(number: int) -> None:
            outputs[number] = client.execute_python("me", f"print({number})").stdout

        threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outputs == {number: f"{number}\n" for number in range(8)}


async def test_a_server_that_is_not_there() -> None:
    config = VmExecutionConfig(api_base_url="http://127.0.0.1:9")
    async with VmExecutionClient(config) as client:
        with pytest.raises(ConnectionFailed, match="cannot reach") as caught:
            await client.execute_python("a", "1")
        assert "mulligan serve" in (caught.value.remedy or "")
        with pytest.raises(ConnectionFailed):
            await client.health_check()


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (200, b"<html>", "Failed to parse response"),
        (200, b'{"execution_id": 5}', "Failed to parse response"),
        (502, b"bad gateway", "HTTP 502: bad gateway"),
        (500, b'{"error": {"Nonsense": 1}}', "HTTP 500"),
        (404, b"[]", "HTTP 404"),
    ],
)
async def test_a_server_that_is_something_else(status: int, body: bytes, text: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    other = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=other.serve_forever)
    thread.start()
    try:
        config = VmExecutionConfig(api_base_url=f"http://127.0.0.1:{other.server_port}")
        async with VmExecutionClient(config) as client:
            with pytest.raises(ApiError, match=text):
                await client.execute_python("a", "1")
    finally:
        other.shutdown()
        thread.join()
        other.server_close()


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="integration_mode"):
        VmExecutionClient(VmExecutionConfig(history=HistoryConfig(integration_mode="x")))


def test_the_package_says_what_it_is() -> None:
    assert set(mulligan.__all__) <= set(dir(mulligan))
