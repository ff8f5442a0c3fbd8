"""The same key never runs twice, whatever happens in between, and gets the first answer."""

import json
import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from support.host import wait_until
from support.server import Server

COUNT = "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) | tee n"


def key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}


def execute(http: httpx.Client, headers: dict[str, str], **changes: object) -> httpx.Response:
    body = {"agent_id": "once", "language": "bash", "code": COUNT} | changes
    return http.post("/api/llm/execute", json=body, headers=headers)


def client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60, trust_env=False)


@pytest.fixture
def vm(http: httpx.Client) -> Iterator[dict[str, object]]:
    made = http.post("/api/vms", json={"agent_id": "vm-once"}).json()
    yield made
    http.delete(f"/api/vms/{made['id']}")


def same(first: httpx.Response, again: httpx.Response) -> None:
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]


def refused(response: httpx.Response, status: int, variant: str, field: str) -> None:
    body = response.json()
    assert (response.status_code, list(body["error"]), body["field"]) == (status, [variant], field)
    assert body["message"]


def test_the_first_answer_comes_again(http: httpx.Client) -> None:
    headers = key()
    first = execute(http, headers, agent_id="again")
    same(first, execute(http, headers, agent_id="again"))
    # The same request is the same with options left out or null, and fields in any order.
    same(first, execute(http, headers, agent_id="again", vm_id=None, requirements=[]))
    assert execute(http, key(), agent_id="again").json()["stdout"] == "2\n"


def test_without_a_key_it_runs_each_time(http: httpx.Client) -> None:
    assert execute(http, {}, agent_id="bare").json()["stdout"] == "1\n"
    assert execute(http, {}, agent_id="bare").json()["stdout"] == "2\n"


def test_a_failing_program_and_a_timeout_come_again(http: httpx.Client) -> None:
    for changes in ({"code": "exit 3"}, {"code": "sleep 60", "timeout_seconds": 1}):
        headers = key()
        same(execute(http, headers, **changes), execute(http, headers, **changes))


def test_a_key_with_another_request_is_refused(http: httpx.Client) -> None:
    headers = key()
    execute(http, headers)
    body = {"agent_id": "once", "language": "bash", "code": COUNT}
    for other in (
        execute(http, headers, code="echo other"),
        http.post("/api/llm/execute/stream", json=body, headers=headers),
        http.post("/api/vms", json={"agent_id": "once"}, headers=headers),
    ):
        refused(other, 409, "IdempotencyKeyReused", "Idempotency-Key")


def test_keys_are_each_agents_own(http: httpx.Client) -> None:
    headers = key()
    one = execute(http, headers, agent_id="one")
    two = execute(http, headers, agent_id="two")
    assert one.json()["vm_id"] != two.json()["vm_id"]
    assert "idempotent-replayed" not in two.headers


def test_what_was_refused_does_not_use_up_the_key(http: httpx.Client) -> None:
    headers = key()
    assert execute(http, headers, agent_id="refused", code=" ").status_code == 400
    assert execute(http, headers, agent_id="refused", language="cobol").status_code == 400
    assert execute(http, headers, agent_id="refused", vm_id="vm-none").status_code == 404
    assert execute(http, headers, agent_id="refused").json()["stdout"] == "1\n"


def test_a_key_whose_first_request_runs_waits_for_it(http: httpx.Client, server: Server) -> None:
    headers = key()
    code = f"sleep 1; {COUNT}"
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda _: execute(http, headers, agent_id="many", code=code), range(8))
        )
    assert {each.status_code for each in found} == {200}
    assert len({each.content for each in found}) == 1
    assert sum("idempotent-replayed" not in each.headers for each in found) == 1
    assert found[0].json()["stdout"] == "1\n"


@pytest.mark.parametrize("form", ['"quoted \\" key"', "plain key", "k" * 255])
def test_keys_are_texts(http: httpx.Client, form: str) -> None:
    headers = {"Idempotency-Key": form}
    first = execute(http, headers, agent_id=f"texts-{len(form)}")
    same(first, execute(http, headers, agent_id=f"texts-{len(form)}"))


def test_a_string_and_its_text_are_one_key(http: httpx.Client) -> None:
    text = str(uuid.uuid4())
    first = execute(http, {"Idempotency-Key": text})
    same(first, execute(http, {"Idempotency-Key": f'"{text}"'}))


@pytest.mark.parametrize("bad", ["", "k" * 256, "\xe9", '"open', '"', "a\tb"])
def test_what_is_no_key(http: httpx.Client, bad: str) -> None:
    response = execute(http, {"Idempotency-Key": bad.encode("latin-1")})  # type: ignore[dict-item]
    refused(response, 422, "ValidationFailed", "Idempotency-Key")


def test_two_keys_are_none(http: httpx.Client) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    body = {"agent_id": "once", "language": "bash", "code": COUNT}
    response = http.post("/api/llm/execute", json=body, headers=headers)
    refused(response, 400, "ValidationFailed", "Idempotency-Key")


def test_a_request_nested_too_deeply(http: httpx.Client) -> None:
    deep = "[" * 900 + "]" * 900
    content = f'{{"agent_id": "a", "language": "bash", "code": "echo 1", "metadata": {deep}}}'
    headers = key() | {"Content-Type": "application/json"}
    response = http.post("/api/llm/execute", content=content, headers=headers)
    assert response.status_code in (200, 400)


def test_every_operation_once(http: httpx.Client, vm: dict[str, object]) -> None:
    path = f"/api/vms/{vm['id']}"
    batch = {"requests": [{"agent_id": "vm-once", "language": "bash", "code": COUNT}]}
    text = "```bash\n" + COUNT + "\n```"
    answer = {
        "agent_id": "vm-once",
        "llm_response": f"Run this:\n\n{text}\n",
        "auto_execute": True,
        "auto_execute_threshold": 0.0,
    }
    for url, body, status in (
        ("/api/llm/execute/batch", batch, 200),
        ("/api/llm/parse-execute", answer, 200),
        (f"{path}/snapshots", {"name": "kept"}, 201),
        (f"{path}/fork", {"count": 2}, 201),
        (f"{path}/rollback", {}, 200),
        ("/api/vms", {"agent_id": "vm-once"}, 201),
    ):
        headers = key()
        first = http.post(url, json=body, headers=headers)
        assert first.status_code == status, first.text
        same(first, http.post(url, json=body, headers=headers))
    snapshots = [each for each in http.get(f"{path}/snapshots").json() if each["name"] == "kept"]
    assert len(snapshots) == 1
    headers = key()
    first = http.post(f"{path}/rollback/{snapshots[0]['id']}", headers=headers)
    same(first, http.post(f"{path}/rollback/{snapshots[0]['id']}", headers=headers))
    assert len(http.get("/api/vms?agent_id=vm-once").json()) == 4
    history = http.get(f"{path}/history").json()
    assert history["total"] == 2


def test_files_are_compared_by_what_is_in_them(http: httpx.Client, vm: dict[str, object]) -> None:
    path = f"/api/vms/{vm['id']}/files?path=f"
    for size in (10, 3_000_000):  # one that is written at once, and one that comes in pieces
        headers, content = key(), b"x" * size

        def pieces(content: bytes = content) -> Iterator[bytes]:
            yield content[:7]
            yield content[7:]

        first = http.put(path, content=content, headers=headers)
        assert (first.status_code, first.json()["size"]) == (200, size)
        http.put(path, content=b"of somebody else")
        same(first, http.put(path, content=content, headers=headers))
        same(first, http.put(path, content=pieces(), headers=headers))
        assert http.get(path).content == b"of somebody else"
        other = http.put(path, content=b"y" * size, headers=headers)
        refused(other, 409, "IdempotencyKeyReused", "Idempotency-Key")
        refused(
            http.put(f"{path}&mode=600", content=content, headers=headers),
            409, "IdempotencyKeyReused", "Idempotency-Key",
        )  # fmt: skip


def test_an_upload_that_breaks_off_leaves_its_key(
    http: httpx.Client, server: Server, vm: dict[str, object]
) -> None:
    path, headers = f"/api/vms/{vm['id']}/files?path=broken", key()
    for size in (100, 3_000_000):
        asked = f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n"
        asked += f"Idempotency-Key: {headers['Idempotency-Key']}\r\n\r\nsome of it"
        with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port)) as connection:
            connection.sendall(asked.encode())
            connection.shutdown(socket.SHUT_WR)
            assert b"200" not in connection.recv(100)
    assert http.get(path).status_code == 404
    done = http.put(path, content=b"all of it", headers=headers)
    assert (done.status_code, "idempotent-replayed" in done.headers) == (200, False)
    same(done, http.put(path, content=b"all of it", headers=headers))


def test_what_is_gone_is_gone_once(http: httpx.Client) -> None:
    path = f"/api/vms/{http.post('/api/vms', json={'agent_id': 'gone'}).json()['id']}"
    kept = http.post(f"{path}/snapshots").json()["id"]
    for url in (f"{path}/snapshots/{kept}", path):
        headers = key()
        first = http.delete(url, headers=headers)
        again = http.delete(url, headers=headers)
        assert (first.status_code, again.status_code, again.content) == (204, 204, b"")
        assert "content-type" not in again.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert http.delete(url).status_code == 404


def events(response: httpx.Response) -> list[tuple[str, dict[str, object]]]:
    found = []
    for block in response.text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")
        )
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_a_stream_is_joined(http: httpx.Client) -> None:
    headers = key()
    body = {"agent_id": "joined", "language": "bash", "code": f"echo before; sleep 1; {COUNT}"}
    started = threading.Event()
    found: list[httpx.Response] = []

    def listen() -> None:
        with http.stream("POST", "/api/llm/execute/stream", json=body, headers=headers) as response:
            started.set()
            response.read()
            found.append(response)

    first = threading.Thread(target=listen)
    first.start()
    assert started.wait(30)
    again = http.post("/api/llm/execute/stream", json=body, headers=headers)
    first.join(30)
    assert again.headers["idempotent-replayed"] == "true"
    assert events(again) == events(found[0])
    assert events(again)[-1][1]["stdout"] == "before\n1\n"


def test_across_a_restart(data_dir: Path) -> None:
    headers, other, streamed = key(), key(), key()
    body = {"agent_id": "once", "language": "bash", "code": "echo streamed"}
    with Server(data_dir) as server, client(server.url) as http:
        first = execute(http, headers)
        made = http.post("/api/vms", json={"agent_id": "once"}, headers=other)
        stream = http.post("/api/llm/execute/stream", json=body, headers=streamed)
    with Server(data_dir) as server, client(server.url) as http:
        same(first, execute(http, headers))
        same(made, http.post("/api/vms", json={"agent_id": "once"}, headers=other))
        refused(execute(http, headers, code="true"), 409, "IdempotencyKeyReused", "Idempotency-Key")
        again = http.post("/api/llm/execute/stream", json=body, headers=streamed)
        assert again.headers["x-execution-id"] == stream.headers["x-execution-id"]
        assert events(again)[-1][1]["stdout"] == "streamed\n"
        assert len(http.get("/api/vms").json()) == 2
        assert execute(http, key()).json()["stdout"] == "2\n"


@pytest.mark.parametrize("kind", ["execute", "stream", "batch"])
def test_kill_9_in_the_middle(data_dir: Path, kind: str) -> None:
    """What was begun does not run again, and both the answer and the history say it is lost."""
    headers = key()
    one = {"agent_id": "once", "language": "bash", "code": "echo ran >> log; sleep 300"}
    url = "/api/llm/execute" + ("" if kind == "execute" else f"/{kind}")
    body = one if kind != "batch" else {"requests": [one]}

    def ask(url_: str) -> None:
        with client(url_) as http, pytest.raises(httpx.HTTPError):
            http.post(url, json=body, headers=headers)

    with Server(data_dir) as server, client(server.url) as http:
        asking = threading.Thread(target=ask, args=(server.url,))
        asking.start()
        vms: list[dict[str, object]] = []

        def runs() -> bool:
            vms[:] = http.get("/api/vms").json()
            if not vms:
                return False
            probe = {
                "agent_id": "once",
                "language": "bash",
                "code": "cat log",
                "vm_id": vms[0]["id"],
            }
            return http.post("/api/llm/execute", json=probe).json()["stdout"] == "ran\n"

        assert wait_until(runs, 30)
        server.kill()
        asking.join(30)
    with Server(data_dir) as server, client(server.url) as http:
        entries = http.get(f"/api/vms/{vms[0]['id']}/history").json()["entries"]
        lost = [each for each in entries if each["outcome"] == "lost"]
        assert [each["command"] for each in lost] == [one["code"]]
        for _ in range(2):
            again = http.post(url, json=body, headers=headers)
            refused(again, 409, "IdempotencyKeyLost", "Idempotency-Key")
            if kind != "batch":
                assert lost[0]["id"] in again.json()["message"]
        probe = {"agent_id": "once", "language": "bash", "code": "cat log"}
        assert http.post("/api/llm/execute", json=probe).json()["stdout"] == "ran\n"


def test_an_answer_too_large_to_keep_comes_from_the_history(data_dir: Path) -> None:
    with (
        Server(data_dir, MULLIGAN_IDEMPOTENCY__MAX_BYTES="100") as server,
        client(server.url) as http,
    ):
        headers = key()
        first = execute(http, headers)
        again = execute(http, headers)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json()["execution_id"] == first.json()["execution_id"]
        assert again.json()["stdout"] == first.json()["stdout"] == "1\n"
        made = key()
        assert http.post("/api/vms", json={"agent_id": "x"}, headers=made).status_code == 201
        refused(
            http.post("/api/vms", json={"agent_id": "x"}, headers=made),
            409, "IdempotencyKeyLost", "Idempotency-Key",
        )  # fmt: skip
        assert len(http.get("/api/vms?agent_id=x").json()) == 1


def test_what_is_kept_is_what_went_out(data_dir: Path) -> None:
    secret = "s3cr3t-" + uuid.uuid4().hex
    with Server(data_dir) as server, client(server.url) as http:
        headers = key()
        changes = {"code": "echo $TOKEN", "secrets": {"TOKEN": secret}}
        first = execute(http, headers, **changes)
        assert secret not in first.text
        same(first, execute(http, headers, **changes))
    found = [path for path in data_dir.rglob("*") if path.is_file()]
    assert found
    assert not [path for path in found if secret.encode() in path.read_bytes()]
