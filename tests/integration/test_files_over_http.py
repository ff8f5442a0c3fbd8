"""Files through a server in a process of its own: ranges, sizes, clients that go away or stop."""

import hashlib
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from mulligan import Vm, VmExecutionError
from mulligan.errors import FileConflict, FileMissing, FileTooLarge
from mulligan.models.execution import DEFAULT_VM_TYPE
from support.host import data_directory, wait_until
from support.server import Server, clean_environment, command

MIB = 1024 * 1024
BLOCK = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(256)) * 128  # 1 MiB


def make_vm(http: httpx.Client, agent: str = "tester") -> str:
    body = {"vm_type": DEFAULT_VM_TYPE, "agent_id": agent}
    made = http.post("/api/vms", json=body)
    assert made.status_code == 201, made.text
    return made.json()["id"]


@pytest.fixture
def vm(http: httpx.Client) -> str:
    return make_vm(http)


def names(http: httpx.Client, vm: str) -> list[str]:
    return [entry["name"] for entry in http.get(f"/api/vms/{vm}/files/list").json()["entries"]]


def run(http: httpx.Client, vm: str, code: str) -> str:
    body = {"agent_id": "tester", "vm_id": vm, "language": "bash", "code": code}
    done = http.post("/api/llm/execute", json=body).json()
    assert done["exit_code"] == 0, done
    return done["stdout"]


def resident(pid: int, what: str = "VmRSS") -> int:
    """Bytes of memory a process has; VmHWM: has had at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024


# Ranges


@pytest.mark.parametrize(
    ("header", "status", "content", "said"),
    [
        (None, 200, b"0123456789", None),
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=4-400", 206, b"456789", "bytes 4-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=3-1", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=0-1", 200, b"0123456789", None),
    ],
)
def test_ranges(
    http: httpx.Client, vm: str, header: str | None, status: int, content: bytes, said: str | None
) -> None:
    url = f"/api/vms/{vm}/files?path=x"
    assert http.put(url, content=b"0123456789").status_code == 200
    headers = {"Range": header} if header else {}
    got = http.get(url, headers=headers)
    assert (got.status_code, got.headers.get("content-range")) == (status, said)
    if content is None:
        assert got.json()["field"] == "Range"
        return
    assert got.content == content
    assert got.headers["content-length"] == str(len(content))
    asked = http.head(url, headers=headers)
    assert (asked.status_code, asked.content) == (status, b"")
    assert asked.headers["content-length"] == str(len(content))


def test_validators(http: httpx.Client, vm: str) -> None:
    url = f"/api/vms/{vm}/files?path=x"
    http.put(url, content=b"0123456789")
    run(http, vm, "touch -d 2020-01-01 x")
    got = http.get(url)
    etag, modified = got.headers["etag"], got.headers["last-modified"]
    assert http.get(url, headers={"If-None-Match": etag}).status_code == 304
    for value in (etag, modified):
        part = http.get(url, headers={"Range": "bytes=1-2", "If-Range": value})
        assert (part.status_code, part.content) == (206, b"12")
    run(http, vm, "echo other > x")
    assert http.get(url, headers={"If-None-Match": etag}).status_code == 200
    whole = http.get(url, headers={"Range": "bytes=1-2", "If-Range": etag})
    assert (whole.status_code, whole.content) == (200, b"other\n")


def test_a_browser_runs_nothing(http: httpx.Client, vm: str) -> None:
    url = f"/api/vms/{vm}/files"
    name = 'a"b\r\nX-Evil: 1.html'
    http.put(url, params={"path": name}, content=b"<script>alert(1)</script>")
    got = http.get(url, params={"path": name})
    assert got.status_code == 200
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-disposition"].startswith("attachment; filename*=UTF-8''a%22b")
    assert "sandbox" in got.headers["content-security-policy"]
    assert "x-evil" not in got.headers


# Errors


def test_errors_name_field_and_remedy(http: httpx.Client, vm: str) -> None:
    url = f"/api/vms/{vm}/files"
    run(http, vm, "mkdir -p d/e; mkfifo p")
    table = [
        ("GET", {"path": "nothing"}, 404, "path"),
        ("GET", {"path": "d"}, 409, "path"),
        ("GET", {"path": "p"}, 409, "path"),
        ("GET", {"path": "a\0b"}, 400, "path"),
        ("GET", {"path": "x" * 5000}, 400, "path"),
        ("GET", {"path": ""}, 400, "path"),
        ("GET", {"path": "/proc/1/environ"}, 403, "path"),
        ("GET", {}, 422, "path"),
        ("PUT", {"path": "d"}, 409, "path"),
        ("PUT", {"path": "p"}, 409, "path"),
        ("PUT", {"path": "n/x"}, 404, "path"),
        ("PUT", {"path": "x", "mode": "rw"}, 400, "mode"),
        ("DELETE", {"path": "d"}, 409, "path"),
        ("DELETE", {"path": "/", "recursive": "true"}, 409, "path"),
        ("DELETE", {"path": "nothing"}, 404, "path"),
    ]
    for method, params, status, field in table:
        got = http.request(method, url, params=params)
        assert (got.status_code, got.json()["field"]) == (status, field), (method, params, got.text)
    for name, body, status, field in [
        ("mkdir", {"path": "d"}, 409, "path"),
        ("mkdir", {"path": "d", "force": True}, 422, "force"),
        ("move", {"source": "p", "target": "d"}, 409, "target"),
        ("move", {"source": "nothing", "target": "x"}, 404, "source"),
        ("move", {"source": "d"}, 422, "target"),
    ]:
        got = http.post(f"{url}/{name}", json=body)
        assert (got.status_code, got.json()["field"]) == (status, field), (name, body, got.text)
    assert http.get(f"{url}/list", params={"limit": 0}).status_code == 422
    raw = http.get(f"{url}?path=%ff%fe")
    assert raw.status_code == 404
    assert sorted(names(http, vm)) == ["d", "p"]


def test_another_agents_files_are_not_there(http: httpx.Client, vm: str) -> None:
    url, other = f"/api/vms/{vm}/files", {"agent_id": "other"}
    http.put(f"{url}?path=x", content=b"mine")
    for method, path, body in [
        ("GET", "?path=x", None),
        ("HEAD", "?path=x", None),
        ("PUT", "?path=x", None),
        ("DELETE", "?path=x", None),
        ("GET", "/list", None),
        ("GET", "/stat?path=x", None),
        ("POST", "/mkdir", {"path": "y"}),
        ("POST", "/move", {"source": "x", "target": "y"}),
    ]:
        query = httpx.QueryParams(urlsplit(path).query).merge(other)
        got = http.request(method, f"{url}{urlsplit(path).path}", params=query, json=body)
        assert got.status_code == 404, (method, path)
    assert http.get(f"{url}?path=x").content == b"mine"


# Sizes


def body_of(size: int) -> Iterator[bytes]:
    for start in range(0, size, MIB):
        yield BLOCK[: min(MIB, size - start)]


def up_and_down(size: int) -> tuple[int, int, int]:
    """Sends a file and fetches it again; the server's memory before, and at most meanwhile."""
    with (
        data_directory() as path,
        Server(path) as server,
        httpx.Client(base_url=server.url, timeout=600, trust_env=False) as http,
    ):
        vm = make_vm(http)
        url = f"/api/vms/{vm}/files?path=big"
        for _ in range(3):  # whatever the first requests load
            http.put(url, content=body_of(2 * MIB))
            assert http.get(url).content == b"".join(body_of(2 * MIB))
        before = resident(server.pid)
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # the peak counts from here
        sent = http.put(url, content=body_of(size), headers={"Content-Length": str(size)})
        assert sent.json()["size"] == size, sent.text
        after_up = resident(server.pid, "VmHWM")
        expected, found, got = hashlib.sha256(), hashlib.sha256(), 0
        for block in body_of(size):
            expected.update(block)
        with http.stream("GET", url) as response:
            for chunk in response.iter_raw():
                found.update(chunk)
                got += len(chunk)
        assert (got, found.digest()) == (size, expected.digest())
        return before, after_up, resident(server.pid, "VmHWM")


def test_300_megabytes_in_little_memory() -> None:
    before, _, most = up_and_down(300 * MIB)
    assert most - before < 32 * MIB, (before, most)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_2_gigabytes_in_little_memory() -> None:
    before, after_up, most = up_and_down(2048 * MIB)
    print(f"server: {before / MIB:.1f} MiB before, {after_up / MIB:.1f} up, {most / MIB:.1f} down")
    assert most - before < 32 * MIB, (before, most)


def test_bodies_are_bounded(data_dir: Path) -> None:
    limits = {"MULLIGAN_FILES__MAX_FILE_BYTES": str(3 * MIB), "MULLIGAN_MAX_REQUEST_BYTES": "2048"}
    with (
        Server(data_dir, **limits) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http,
    ):
        vm = make_vm(http)
        url = f"/api/vms/{vm}/files"
        assert http.put(f"{url}?path=fits", content=bytes(3 * MIB)).status_code == 200
        for content in (bytes(4 * MIB), body_of(4 * MIB)):
            refused = http.put(f"{url}?path=big", content=content)
            assert refused.status_code == 413
            assert "max_file_bytes" in refused.json()["remedy"]
        assert names(http, vm) == ["fits"]
        long = {"path": "x" * 1000}
        assert http.post(f"{url}/mkdir", json=long).status_code == 400
        assert http.post(f"{url}/mkdir", content=b" " * 3000).status_code == 413


# Clients that go away, or stop


@contextmanager
def raw(server: Server) -> Iterator[socket.socket]:
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        yield connection


def processes(http: httpx.Client, vm: str) -> int:
    return int(run(http, vm, "set -- /proc/[0-9]*; echo $#"))


def test_who_leaves_half_way_leaves_nothing(server: Server, http: httpx.Client, vm: str) -> None:
    http.put(f"/api/vms/{vm}/files?path=big", content=body_of(20 * MIB))
    before = processes(http, vm)
    with raw(server) as connection:
        connection.sendall(
            f"PUT /api/vms/{vm}/files?path=half HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Length: {100 * MIB}\r\n\r\n".encode()
            + BLOCK * 8
        )
        assert wait_until(lambda: processes(http, vm) > before)
    assert wait_until(lambda: processes(http, vm) == before)
    with raw(server) as connection:
        connection.sendall(
            f"GET /api/vms/{vm}/files?path=big HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert processes(http, vm) > before
    assert wait_until(lambda: processes(http, vm) == before)
    assert run(http, vm, "ls -A") == "big\n"


def test_who_stops_reading_or_sending_is_given_up(data_dir: Path) -> None:
    with (
        Server(data_dir, MULLIGAN_FILES__IDLE_SECONDS="0.5") as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http,
    ):
        vm = make_vm(http)
        http.put(f"/api/vms/{vm}/files?path=big", content=body_of(40 * MIB))
        before, memory = processes(http, vm), resident(server.pid)
        with raw(server) as reader, raw(server) as sender:
            reader.sendall(
                f"GET /api/vms/{vm}/files?path=big HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            sender.sendall(
                f"PUT /api/vms/{vm}/files?path=half HTTP/1.1\r\nHost: localhost\r\n"
                f"Content-Length: {100 * MIB}\r\n\r\n".encode()
                + BLOCK
            )
            assert reader.recv(1000).startswith(b"HTTP/1.1 200")
            assert sender.recv(1000).startswith(b"HTTP/1.1 408")
            assert wait_until(lambda: processes(http, vm) == before)
            assert resident(server.pid) - memory < 16 * MIB
            got = 0
            while chunk := reader.recv(MIB):
                got += len(chunk)
            assert got < 40 * MIB  # an end that comes too early
        assert names(http, vm) == ["big"]


# Clients


def test_the_same_from_python(server: Server, tmp_path: Path) -> None:
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_bytes(BLOCK * 3)
    told: list[tuple[int, int | None]] = []

    def progress(done: int, total: int | None) -> None:
        told.append((done, total))

    with Vm("python", server=server.url) as vm:
        assert vm.write_file("d/x", "text ü", parents=True).size == 7
        assert vm.read_file("d/x") == "text ü".encode()
        for offset, length in [(0, 4), (5, None), (3, 0), (100, None), (2, 100)]:
            end = None if length is None else offset + length
            assert vm.read_file("d/x", offset, length) == "text ü".encode()[offset:end]
        assert [entry.name for entry in vm.list_files("d").entries] == ["x"]
        assert vm.upload(local, "big", progress=progress).size == 3 * MIB
        assert told[-1] == (3 * MIB, 3 * MIB)
        assert vm.download("big", back, progress=progress) == 3 * MIB
        assert back.read_bytes() == local.read_bytes()
        assert b"".join(vm.stream_file("big", 10, 5)) == BLOCK[10:15]
        assert vm.move_file("big", "d/big").path == "/workspace/d/big"
        assert vm.make_directory("e/f", parents=True).type == "directory"
        with pytest.raises(FileConflict):
            vm.delete_file("d")
        undo = vm.delete_file("d", recursive=True).snapshot_before
        with pytest.raises(FileMissing):
            vm.stat_file("d")
        vm.rollback(undo)
        with pytest.raises(FileMissing, match="no such file"):
            vm.download("nothing", back)
        assert back.read_bytes() == local.read_bytes()
        with pytest.raises(VmExecutionError, match="on this machine"):
            vm.upload(tmp_path / "nothing", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "local"]


def test_a_refused_upload_says_why(data_dir: Path, tmp_path: Path) -> None:
    """Though the server stops reading before all is sent."""
    local = tmp_path / "local"
    local.write_bytes(BLOCK * 20)
    with (
        Server(data_dir, MULLIGAN_FILES__MAX_FILE_BYTES=str(2 * MIB)) as server,
        Vm("python", server=server.url) as vm,
        pytest.raises(FileTooLarge),
    ):
        vm.upload(local, "x")


def test_the_same_on_the_command_line(server: Server, http: httpx.Client, tmp_path: Path) -> None:
    vm = make_vm(http, "cli")
    env = clean_environment(MULLIGAN_SERVER=server.url)

    def files(*arguments: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        done = subprocess.run(
            command("files", *arguments),
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env=env,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr.decode()

    (tmp_path / "local").write_bytes(BLOCK)
    assert files("put", vm, "local", "d/x", "-p")[0] == 0
    assert files("put", vm, "-", "d/y", "--mode", "0755", stdin=b"piped\x1b[2J")[0] == 0
    code, listed, _ = files("ls", vm, "d")
    assert code == 0
    rows = [line.split() for line in listed.decode().splitlines()]
    assert [(row[0], row[-1]) for row in rows] == [("0644", "x"), ("0755", "y")]
    assert files("cat", vm, "d/y")[1] == b"piped\x1b[2J"
    assert files("cat", vm, "d/x")[1] == BLOCK
    assert files("get", vm, "d/x")[0] == 0
    assert (tmp_path / "x").read_bytes() == BLOCK
    code, _, said = files("rm", vm, "d")
    assert code == 125
    assert "recursive" in said
    assert files("rm", "-r", vm, "d")[0] == 0
    assert files("ls", vm)[1] == b"nothing is there\n"
