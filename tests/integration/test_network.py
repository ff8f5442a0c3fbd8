"""VMs with a network: who they reach, by which programs, and what the history says of it."""

import asyncio
import base64
import functools
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.errors import ConfigError, ValidationFailed
from mulligan.models import (
    NetworkConnection,
    RollbackTo,
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)
from mulligan.network.addresses import Address
from mulligan.network.authority import Authority
from support import host
from support.upstream import Upstream, listening

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_driver")]
NAMES = {
    "server.example": "127.0.0.1",
    "other.example": "127.0.0.1",
    "meta.example": "169.254.169.254",
}
VALUE = "made-up-value-" + "4711"


async def resolve(name: str) -> Sequence[Address]:
    if name not in NAMES:
        raise OSError("no such name")
    return [ip_address(NAMES[name])]


class Agent:
    """Runs programs, and knows what they reached."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def run(self, code: str, language: str = "python", **more: Any) -> VmExecuteResponse:
        host.check_has_what_it_types(code)
        request = VmExecuteRequest(agent_id="a", language=language, code=code, **more)
        return await self.engine.execute(request)

    def reached(self, execution_id: str) -> list[NetworkConnection]:
        entry = self.engine.history.get(execution_id)
        assert entry is not None
        return entry.network

    async def when(self, execution_id: str, count: int) -> list[NetworkConnection]:
        """What it reached, when there is so much of it."""
        async with asyncio.timeout(30):
            while len(self.reached(execution_id)) < count:
                await asyncio.sleep(0.02)
        return self.reached(execution_id)


@asynccontextmanager
async def networked(allow: list[str], **options: Any) -> AsyncIterator[Agent]:
    vm_type = {"network": "allowlist", "allow": allow} | options.pop("vm_type", {})
    before = host.descriptors()
    with host.data_directory() as directory:
        chosen = settings_module.load(
            data_dir=directory,
            hooks={"enabled": options.pop("hooks", False)},
            vm_types={"focal-optimized": vm_type, "closed": {}},
            **options,
        )
        async with Engine(chosen, resolver=resolve) as engine:
            assert engine.drivers.of_type("focal-optimized").name == os.environ["MULLIGAN_DRIVER"]
            yield Agent(engine)
    assert host.descriptors() <= before + 1


PROGRAMS = {
    "urllib": ("python", "import urllib.request as u; print(u.urlopen('{url}').read().decode())"),
    "requests": ("python", "import requests; print(requests.get('{url}').text)"),
    "curl": ("bash", "curl -sSf {url}; echo"),
    "curl, by a tunnel": ("bash", "curl -sSfp {url}; echo"),
    "node:http": (
        "javascript",
        "const p = new URL(process.env.HTTP_PROXY); require('http').get({{host: p.hostname,"
        " port: p.port, path: '{url}', headers: {{Host: new URL('{url}').host}}}},"
        " r => r.on('data', d => console.log(String(d))))",
    ),
}


def check_has(program: str, agent: Agent) -> None:
    if program == "requests":
        python = agent.engine.fleet.images.host.python
        if os.system(f"{python} -c 'import requests' 2>/dev/null"):
            pytest.skip("the VMs' Python has no requests")
    if program.startswith("node") and "javascript" not in agent.engine.fleet.images.host.toolchains:
        pytest.skip("this host has no Node.js")


@pytest.mark.parametrize("program", PROGRAMS)
async def test_programs_reach_who_is_allowed(program: str) -> None:
    server = Upstream()
    language, code = PROGRAMS[program]
    async with (
        listening(server.serve) as port,
        networked([f"server.example:{port}", f"127.0.0.1:{port}"]) as agent,
    ):
        check_has(program, agent)
        done = await agent.run(code.format(url=f"http://server.example:{port}/x"), language)
        assert (done.stdout.strip(), done.exit_code) == ("ok", 0), done.stderr
        (note,) = agent.reached(done.execution_id)
        assert (note.host, note.port, note.verdict) == ("server.example", port, "allowed")
        assert note.certain
        assert note.bytes_down == len(server.answer)
        refused = await agent.run(code.format(url=f"http://other.example:{port}/x"), language)
        assert "ok" not in refused.stdout
        (note,) = agent.reached(refused.execution_id)
        assert (note.host, note.verdict) == ("other.example", "refused")
        assert note.reason == "it is not on the allow-list"
    assert server.peers == 1


LOOK = """
import json, os, socket
told = {"routes": len(open("/proc/net/route").readlines()) - 1}
told["interfaces"] = [name for _, name in socket.if_nameindex()]
for name in ("example.org", "server.example"):
    try:
        socket.getaddrinfo(name, 80)
        told[name] = "resolved"
    except socket.gaierror as error:
        told[name] = "unknown"
try:
    socket.socket().connect(("127.0.0.1", %d))
    told["direct"] = "connected"
except OSError as error:
    told["direct"] = error.strerror
print(json.dumps(told))
"""


async def test_there_is_no_other_way_out_and_nobody_who_resolves_names() -> None:
    server = Upstream()
    async with listening(server.serve) as port, networked([f"127.0.0.1:{port}"]) as agent:
        done = await agent.run(LOOK % port)
        assert json.loads(done.stdout) == {
            "routes": 0,
            "interfaces": ["lo"],
            "example.org": "unknown",
            "server.example": "unknown",
            "direct": "Connection refused",
        }
    assert server.peers == 0


async def test_names_that_lead_inwards_are_refused_and_a_closed_type_has_no_proxy() -> None:
    async with networked(["*.example"]) as agent:
        done = await agent.run(
            "curl -s http://meta.example/; curl -s http://server.example/", "bash"
        )
        assert done.stdout.count("is refused: its address is not public") == 2
        closed = await agent.engine.create_vm(VmCreateRequest(agent_id="a", vm_type="closed"))
        assert (closed.network, closed.allow) == ("none", None)
        done = await agent.run("env | grep -ci proxy", "bash", vm_id=closed.id)
        assert done.stdout == "0\n"


async def test_executions_at_the_same_time_each_have_their_own_connections() -> None:
    server = Upstream()
    code = "sleep 0.{0}; curl -s http://{0}.example/; curl -s http://127.0.0.1:{1}/{0}; sleep 0.2"
    async with listening(server.serve) as port, networked([f"127.0.0.1:{port}"]) as agent:
        runs = [agent.run(code.format(number, port), "bash") for number in range(5)]
        for number, done in enumerate(await asyncio.gather(*runs)):
            notes = agent.reached(done.execution_id)
            assert [(note.host, note.certain) for note in notes] == [
                (f"{number}.example", True),
                ("127.0.0.1", True),
            ]


async def test_what_an_execution_left_behind_is_still_its_own() -> None:
    server = Upstream()
    late = "sleep 1; curl -s http://127.0.0.1:{}/late"
    code = f"nohup setsid bash -c '{late}' >/dev/null 2>&1 & sleep 0.1"
    async with listening(server.serve) as port, networked([f"127.0.0.1:{port}"]) as agent:
        done = await agent.run(code.format(port), "bash")
        assert done.background_processes
        other = await agent.run("sleep 2", "bash")
        (note,) = await agent.when(done.execution_id, 1)
        assert (note.verdict, note.certain) == ("allowed", True)
        assert agent.reached(other.execution_id) == []


async def test_connections_end_with_their_program_and_with_a_rollback() -> None:
    opened, gone = asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.set()
        await reader.read()
        gone.set()
        writer.close()

    connect = (
        "import os, socket\ns = socket.create_connection(('127.0.0.1', 3128))\n"
        "s.sendall(b'CONNECT 127.0.0.1:{0} HTTP/1.1\\r\\nHost: 127.0.0.1:{0}\\r\\n\\r\\n')\n"
        "print(s.recv(100).split()[1].decode())"
    )
    async with listening(hold) as port, networked([f"127.0.0.1:{port}"]) as agent:
        await agent.run("echo before > note", "bash")
        done = await agent.run(connect.format(port))
        assert done.stdout == "200\n"
        async with asyncio.timeout(20):
            await gone.wait()
        gone.clear()
        cell = await agent.run(connect.format(port), kernel="main")
        assert cell.stdout == "200\n"
        again = await agent.run(
            "import time; time.sleep(0.3); print(s.fileno() > 0)", kernel="main"
        )
        assert again.stdout == "True\n"
        assert not gone.is_set()
        await agent.engine.past.rollback(done.vm_id, RollbackTo(execution_id=done.execution_id))
        async with asyncio.timeout(20):
            await gone.wait()
        (note,) = await agent.when(cell.execution_id, 1)
        assert note.verdict == "allowed"


async def test_a_vm_can_be_held_to_less_than_its_type_and_never_to_more() -> None:
    async with networked(["*.example:80", "10.0.0.5:80"]) as agent:
        engine = agent.engine

        async def make(**options: Any):
            return await engine.create_vm(VmCreateRequest(agent_id="a", **options))

        none = await make(network="none")
        assert (none.network, none.allow) == ("none", None)
        less = await make(allow=["SERVER.example:80"])
        assert (less.network, less.allow) == ("allowlist", ["server.example:80"])
        done = await agent.run("curl -s http://other.example/", "bash", vm_id=less.id)
        assert "not on the allow-list" in done.stdout
        for options, field in [
            ({"allow": ["example.org"]}, "allow"),
            ({"allow": ["server.example:443"]}, "allow"),
            ({"allow": ["no host"]}, "allow"),
            ({"network": "full"}, "network"),
            ({"network": "some"}, "network"),
            ({"vm_type": "closed", "network": "allowlist"}, "network"),
            ({"vm_type": "closed", "allow": ["server.example:80"]}, "allow"),
        ]:
            with pytest.raises(ValidationFailed) as refused:
                await make(**options)
            assert refused.value.field == field


BAD_TYPES = [
    ({"network": "full"}, "vm_types.t.network", "not offered"),
    ({"network": "allowlist"}, "vm_types.t", "needs an allow"),
    ({"network": "none", "allow": ["a.example"]}, "vm_types.t", 'for network = "allowlist"'),
    ({"network": "allowlist", "allow": ["http://a.example"]}, "vm_types.t.allow", "is a URL"),
    ({"network": "allowlist", "allow": ["localhost"]}, "vm_types.t.allow", "127.0.0.1"),
    (
        {
            "network": "allowlist",
            "allow": ["a.example"],
            "secrets": {"K": {"value_from": "env:K", "hosts": ["b.example"]}},
        },
        "vm_types.t",
        "secrets.K.hosts has b.example",
    ),
    (
        {
            "network": "allowlist",
            "allow": ["*"],
            "secrets": {"K": {"value_from": "env:K", "hosts": ["*"]}},
        },
        "vm_types.t.secrets.K.hosts",
        "must name hosts",
    ),
    (
        {
            "network": "allowlist",
            "allow": ["a.example"],
            "secrets": {"K": {"value_from": "value", "hosts": ["a.example"]}},
        },
        "vm_types.t.secrets.K.value_from",
        "env:NAME or file:/path",
    ),
]


@pytest.mark.parametrize(("vm_type", "field", "why"), BAD_TYPES)
def test_settings_say_which_key_is_wrong(vm_type: dict, field: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings_module.load(vm_types={"focal-optimized": {}, "t": vm_type})
    assert refused.value.field == field
    assert why in str(refused.value)


# Secrets

USE = """
import json, os, urllib.request
key = os.environ["KEY"]
request = urllib.request.Request("{url}?k=" + key, data=("body " + key).encode())
request.add_header("Authorization", "Bearer " + key)
with urllib.request.urlopen(request) as answer:
    print(answer.headers["X-Echo"] == key, answer.read().decode() == "it was " + key, len(key))
"""


def keeping(*hosts: str) -> dict[str, Any]:
    return {"secrets": {"KEY": {"value_from": "env:MADE_UP_KEY", "hosts": list(hosts)}}}


def echoing() -> Upstream:
    body = b"it was " + VALUE.encode()
    head = b"HTTP/1.1 200 OK\r\nX-Echo: %s\r\nContent-Length: %d\r\n\r\n"
    return Upstream(head % (VALUE.encode(), len(body)) + body)


SEARCH = r"""
import os, subprocess
found = []
wanted = bytes.fromhex("{}")
for base in ("/workspace", "/home", "/tmp", "/run", "/etc", "/var", "/dev/shm"):
    for directory, _, files in os.walk(base):
        for name in files:
            path = os.path.join(directory, name)
            try:
                with open(path, "rb") as file:
                    if wanted in file.read(1 << 24):
                        found.append(path)
            except OSError:
                pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try:
            with open(f"/proc/{{pid}}/{{name}}", "rb") as file:
                if wanted in file.read():
                    found.append(pid + name)
        except OSError:
            pass
print(found)
"""


async def test_a_secret_arrives_and_is_nowhere_in_the_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_UP_KEY", VALUE)
    server, other = echoing(), Upstream()
    async with listening(server.serve) as port, listening(other.serve) as elsewhere:
        allow = [f"127.0.0.1:{port}", f"127.0.0.1:{elsewhere}"]
        async with networked(allow, vm_type=keeping(allow[0])) as agent:
            done = await agent.run(USE.format(url=f"http://127.0.0.1:{port}/"))
            assert done.stdout == f"True True {len(VALUE)}\n", done.stderr
            (head,), (body,) = server.heads, server.bodies
            assert f"/?k={VALUE} ".encode() in head
            assert f"Authorization: Bearer {VALUE}\r\n".encode() in head
            assert body == f"body {VALUE}".encode()
            (note,) = agent.reached(done.execution_id)
            assert note.secrets == ["KEY"]
            searched = await agent.run(SEARCH.format(VALUE.encode().hex()))
            assert searched.stdout == "[]\n"
            code = "curl -s -u user:$KEY -d $KEY http://127.0.0.1:{}/"
            await agent.run(code.format(elsewhere), "bash")
            assert VALUE.encode() not in other.heads[0] + other.bodies[0]
            await agent.run(code.format(port), "bash")
            basic = base64.b64encode(f"user:{VALUE}".encode())
            assert basic in server.heads[1]
            assert server.bodies[1] == VALUE.encode()


async def test_a_secret_goes_into_https_and_only_to_who_proves_who_he_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MADE_UP_KEY", VALUE)
    known, stranger = Authority(), Authority()
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(known.pem())
    server, impostor = echoing(), Upstream()
    async with (
        listening(server.serve, ssl=known.context("server.example")) as port,
        listening(impostor.serve, ssl=stranger.context("other.example")) as wrong,
    ):
        hosts = [f"server.example:{port}", f"other.example:{wrong}"]
        allow = [*hosts, f"127.0.0.1:{port}", f"127.0.0.1:{wrong}"]
        network = {"ca_file": str(ca_file)}
        async with networked(allow, vm_type=keeping(*hosts), network=network) as agent:
            done = await agent.run(USE.format(url=f"https://server.example:{port}/"))
            assert done.stdout == f"True True {len(VALUE)}\n", done.stderr
            assert f"Bearer {VALUE}\r\n".encode() in server.heads[0]
            (note,) = agent.reached(done.execution_id)
            assert (note.via, note.verdict, note.secrets) == ("https", "allowed", ["KEY"])
            code = 'curl -sS -H "X: $KEY" https://server.example:{}/ | sed "s/$KEY/placeholder/"'
            done = await agent.run(code.format(port), "bash")
            assert done.stdout == "it was placeholder", done.stderr
            done = await agent.run(USE.format(url=f"https://other.example:{wrong}/"))
            assert "502" in done.stderr
            (note,) = agent.reached(done.execution_id)
            assert "certificate is not good" in (note.reason or "")
    assert impostor.heads == []


async def test_outputs_have_no_secret_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program could be told the value by whoever else has it."""
    monkeypatch.setenv("MADE_UP_KEY", VALUE)
    async with networked(["a.example"], vm_type=keeping("a.example"), hooks=True) as agent:
        done = await agent.run(f"print('{VALUE[:9]}' + '{VALUE[9:]}')")
        assert done.stdout == "[redacted:secret KEY]\n"


async def test_a_vm_whose_secret_is_missing_does_not_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MADE_UP_KEY", raising=False)
    async with networked(["a.example"], vm_type=keeping("a.example")) as agent:
        with pytest.raises(ConfigError, match="no such variable") as refused:
            await agent.run("print(1)")
        assert refused.value.field == "vm_types.focal-optimized.secrets.KEY.value_from"


async def test_a_spare_vm_has_its_network_and_its_agent_its_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MADE_UP_KEY", VALUE)
    server = echoing()
    async with listening(server.serve) as port:
        allow = [f"127.0.0.1:{port}"]
        vm_type = keeping(*allow) | {"warm": 1}
        async with networked(allow, vm_type=vm_type, hooks=True) as agent:
            spares = agent.engine.fleet.spares
            spares.tend()
            async with asyncio.timeout(60):
                while not spares.ready("focal-optimized", None):
                    await asyncio.sleep(0.05)
            done = await agent.run(USE.format(url=f"http://127.0.0.1:{port}/"))
            assert done.stdout == f"True True {len(VALUE)}\n", done.stderr
            assert [note.secrets for note in agent.reached(done.execution_id)] == [["KEY"]]
            told = await agent.run(f"print('{VALUE[:9]}' + '{VALUE[9:]}')")
            assert told.stdout == "[redacted:secret KEY]\n"


# Package managers, each from an index of the test's own

INFO = "tiny_made_up-1.0.dist-info"
WHEEL = "tiny_made_up-1.0-py3-none-any.whl"


@functools.cache  # archives have the time they were made in them
def wheel() -> bytes:
    """The smallest package that can be installed and imported."""
    files = {
        "tiny_made_up.py": "answer = 42\n",
        f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: tiny-made-up\nVersion: 1.0\n",
        f"{INFO}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{INFO}/RECORD": "",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


@functools.cache
def npm_package() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in (
            ("package/package.json", '{"name": "tiny-made-up", "version": "1.0.0"}'),
            ("package/index.js", "module.exports = 42\n"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


class Index(http.server.BaseHTTPRequestHandler):
    """An index of Python packages and a registry of npm's, with one package each."""

    def do_GET(self) -> None:
        base = f"http://127.0.0.1:{self.server.server_address[1]}"
        package = npm_package()
        version = {
            "name": "tiny-made-up",
            "version": "1.0.0",
            "dist": {
                "tarball": f"{base}/tiny.tgz",
                "shasum": hashlib.sha1(package, usedforsecurity=False).hexdigest(),
            },
        }
        document = {
            "name": "tiny-made-up",
            "dist-tags": {"latest": "1.0.0"},
            "versions": {"1.0.0": version},
        }
        answers = {
            "/simple/tiny-made-up/": ("text/html", f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()),
            f"/{WHEEL}": ("application/zip", wheel()),
            "/tiny-made-up": ("application/json", json.dumps(document).encode()),
            "/tiny.tgz": ("application/octet-stream", package),
        }
        kind, body = answers.get(self.path, ("text/plain", b""))
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def index() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


PIP = """
python3 -m pip install -q --no-cache-dir --disable-pip-version-check --target lib \\
  --index-url http://127.0.0.1:{0}/simple tiny-made-up 2>&1 | grep -v '^WARNING'
PYTHONPATH=lib python3 -c 'import tiny_made_up; print(tiny_made_up.answer)'
"""
NPM = """
npm install --no-audit --no-fund --registry http://127.0.0.1:{0}/ tiny-made-up >&2
node -e 'console.log(require("tiny-made-up"))'
"""


@pytest.mark.parametrize(("program", "script"), [("pip", PIP), ("npm", NPM)])
async def test_package_managers_install_through_it(program: str, script: str, index: int) -> None:
    async with networked([f"127.0.0.1:{index}"]) as agent:
        there = await agent.run(f"python3 -m {program} --version || {program} --version", "bash")
        if there.exit_code:
            pytest.skip(f"VMs of this host have no {program}")
        code = f"cd /workspace; {script.format(index)}"
        done = await agent.run(code, "bash", timeout_seconds=100)
        assert done.stdout == "42\n", done.stderr
        notes = agent.reached(done.execution_id)
        assert {note.verdict for note in notes} == {"allowed"}
        assert {(note.host, note.port) for note in notes} == {("127.0.0.1", index)}


FETCH = "fetch('{}').then(r => r.text()).then(console.log, e => {{ process.exitCode = 1 }})"


async def test_fetch_of_node_where_it_heeds_proxies() -> None:
    host.check_has("node")
    server = Upstream()
    async with listening(server.serve) as port, networked([f"server.example:{port}"]) as agent:
        told = await agent.run("console.log(process.versions.node)", "javascript")
        major, minor = (int(part) for part in told.stdout.split(".")[:2])
        heeds = major >= 25 or (major, minor) >= (24, 5) or (major == 22 and minor >= 21)
        done = await agent.run(FETCH.format(f"http://server.example:{port}/"), "javascript")
        assert (done.stdout == "ok\n") is heeds
        assert server.peers == int(heeds)
