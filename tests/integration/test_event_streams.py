"""Executions over HTTP that are listened to: events, resuming, slow readers, cancel, batches."""

import asyncio
import os
import threading
from collections.abc import Iterator

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent

from support import host
from support.server import Server

pytestmark = pytest.mark.anyio

OPEN_STREAMS = int(os.environ.get("MULLIGAN_TEST_STREAMS", "100"))
BUFFER = 262_144
GATED = "echo one; while [ ! -e go ]; do sleep 0.02; done; rm go; echo two"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    settings = {
        "MULLIGAN_STREAMS__HEARTBEAT_SECONDS": "0.2",
        "MULLIGAN_STREAMS__BUFFER_BYTES": str(BUFFER),
        "MULLIGAN_STREAMS__KEEP_ENDED_BYTES": str(512 << 20),
        "MULLIGAN_OUTPUT_LIMIT_BYTES": str(64 << 20),
    }
    with host.data_directory() as path, Server(path, **settings) as running:
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client


def body(code: str, agent: str = "a", language: str = "bash", **more) -> dict:
    return {"agent_id": agent, "language": language, "code": code} | more


def start(http: httpx.Client, code: str, **more):
    """The stream of a new execution: a context manager that gives the response."""
    params = {"cancel_on_disconnect": "true"} if more.pop("cancel", False) else {}
    return http.stream("POST", "/api/llm/execute/stream", json=body(code, **more), params=params)


def detached(http: httpx.Client, code: str, **more) -> str:
    """The id of an execution that nobody listens to."""
    with start(http, code, **more) as response:
        return response.headers["x-execution-id"]


def events(response: httpx.Response) -> list[ServerSentEvent]:
    return list(EventSource(response).iter_sse())


def plain(found: list[ServerSentEvent]) -> list[tuple[str, str, str]]:
    return [(each.id, each.event, each.data) for each in found]


def listen(http: httpx.Client, execution_id: str, **headers: str) -> list[ServerSentEvent]:
    with http.stream("GET", f"/api/executions/{execution_id}/events", headers=headers) as response:
        assert response.status_code == 200, response.read()
        return events(response)


def go(http: httpx.Client, agent: str) -> None:
    assert http.post("/api/llm/execute", json=body("touch go", agent)).json()["exit_code"] == 0


def state(http: httpx.Client, execution_id: str) -> dict:
    return http.get(f"/api/executions/{execution_id}").json()


def outcome(http: httpx.Client, execution_id: str) -> str | None:
    return (state(http, execution_id)["result"] or {}).get("outcome")


def test_events_come_as_they_happen(http: httpx.Client) -> None:
    with start(http, GATED, agent="live") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        source = EventSource(response).iter_sse()
        first, second = next(source), next(source)
        assert (first.event, second.event, second.json()) == (
            "started",
            "stdout",
            {"text": "one\n"},
        )
        go(http, "live")
        rest = list(source)
    assert [each.event for each in rest] == ["stdout", "result"]
    assert [each.id for each in [first, second, *rest]] == ["1", "2", "3", "4"]
    result = rest[-1].json()
    assert (result["stdout"], result["exit_code"]) == ("one\ntwo\n", 0)
    assert result["execution_id"] == first.json()["execution_id"]
    assert state(http, result["execution_id"])["result"] == result


def test_a_character_that_is_written_in_two_halves(http: httpx.Client) -> None:
    code = r"printf 'a\xc3'; sleep 0.5; printf '\xa9z\xff'"
    with start(http, code) as response:
        found = events(response)
    texts = [each.json()["text"] for each in found if each.event == "stdout"]
    assert texts[0][0] == "a"  # where pieces end is a matter of time
    assert "".join(texts) == "aéz\ufffd"
    assert found[-1].json()["stdout"] == "aéz\ufffd"


def test_silence_has_heartbeats(http: httpx.Client) -> None:
    with start(http, GATED, agent="quiet") as response:
        for line in response.iter_lines():
            if line.startswith(":"):
                go(http, "quiet")
                break
        assert outcome(http, response.headers["x-execution-id"]) in (None, "success")


def test_a_client_that_goes_away_and_comes_back(http: httpx.Client) -> None:
    execution_id = detached(http, GATED, agent="back")
    assert state(http, execution_id)["state"] == "running"
    go(http, "back")
    whole = listen(http, execution_id)
    first, *middle, last = [each.event for each in whole]
    assert (first, set(middle), last) == ("started", {"stdout"}, "result")
    for seen in range(1, len(whole)):
        again = listen(http, execution_id, **{"Last-Event-ID": str(seen)})
        assert plain(again) == plain(whole[seen:])
    # How many there are is a matter of time: what was written may come in one piece.
    before, end = len(whole) - 1, len(whole)
    assert listen(http, execution_id, **{"Last-Event-ID": str(before)})[0].event == "result"
    path = f"/api/executions/{execution_id}/events"
    assert http.get(path, params={"after": end}).status_code == 204


@pytest.mark.parametrize(
    ("headers", "params", "status", "field"),
    [
        ({"Last-Event-ID": "99"}, {}, 400, "after"),
        ({"Last-Event-ID": "9" * 30}, {}, 400, "Last-Event-ID"),
        ({"Last-Event-ID": "²"}, {}, 400, "Last-Event-ID"),
        ({"Last-Event-ID": "-1"}, {}, 400, "Last-Event-ID"),
        ({}, {"after": "99"}, 400, "after"),
        ({}, {"after": "-1"}, 422, "after"),
        ({}, {"agent_id": "somebody"}, 404, "execution_id"),
    ],
)
def test_positions_that_cannot_be(http: httpx.Client, headers, params, status, field) -> None:
    execution_id = detached(http, "echo x")
    encoded = {name: value.encode() for name, value in headers.items()}
    answer = http.get(f"/api/executions/{execution_id}/events", headers=encoded, params=params)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text


@pytest.mark.parametrize("execution_id", ["exec-0", "x" * 3000, "a%00b", "..%2f..%2fetc"])
def test_executions_that_are_not_there(http: httpx.Client, execution_id: str) -> None:
    path = f"/api/executions/{execution_id}"
    for answer in (http.get(path), http.get(f"{path}/events"), http.post(f"{path}/cancel")):
        assert answer.status_code == 404, answer.text
        assert set(answer.json()) == {"error", "message", "field", "remedy", "request_id"}


def test_what_is_refused_is_refused_as_ever(http: httpx.Client) -> None:
    for wrong, status in ((body("x", language="cobol"), 400), (body("x") | {"y": 1}, 422)):
        plain = http.post("/api/llm/execute", json=wrong)
        streamed = http.post("/api/llm/execute/stream", json=wrong)
        told, as_ever = streamed.json(), plain.json()
        assert told.pop("request_id") != as_ever.pop("request_id")
        assert (streamed.status_code, told) == (status, as_ever)


def sleepers(server: Server) -> list[int]:
    """Processes of the server's VMs that sleep for 307 seconds."""
    below = host.descendants(server.pid)
    return [pid for pid in below if host.command_line(pid) == b"sleep\x00307\x00"]


def test_cancel(http: httpx.Client, server: Server) -> None:
    with start(http, "echo begun; (setsid sleep 307 &); sleep 307", agent="cancelled") as response:
        source = EventSource(response).iter_sse()
        execution_id = next(source).json()["execution_id"]
        assert next(source).json()["text"] == "begun\n"
        path = f"/api/executions/{execution_id}/cancel"
        assert http.post(path, params={"agent_id": "other"}).status_code == 404
        assert host.wait_until(lambda: len(sleepers(server)) == 2)
        first = http.post(path).json()
        last = list(source)[-1]
    assert (last.event, last.json()["outcome"]) == ("result", "cancelled")
    assert (last.json()["error"], last.json()["stdout"]) == ("Execution cancelled", "begun\n")
    assert first["result"] == last.json()
    assert http.post(path).json() == first
    rows = http.get(f"/api/vms/{first['vm_id']}/history").json()["entries"]
    assert [(row["id"], row["outcome"]) for row in rows] == [(execution_id, "cancelled")]
    assert not sleepers(server)


def test_cancel_of_one_that_somebody_waits_for(http: httpx.Client, server: Server) -> None:
    answers: list[httpx.Response] = []

    def wait() -> None:
        answers.append(
            httpx.post(
                f"{server.url}/api/llm/execute", json=body("sleep 300", "waited"), timeout=60
            )
        )

    waiting = threading.Thread(target=wait)
    waiting.start()
    found: list[dict] = []

    def runs() -> list[dict]:
        for vm in http.get("/api/vms", params={"agent_id": "waited"}).json():
            found[:] = http.get(f"/api/vms/{vm['id']}/history").json()["entries"]
        return found

    assert host.wait_until(runs)
    path = f"/api/executions/{found[0]['id']}"
    assert host.wait_until(lambda: http.post(f"{path}/cancel").json()["state"] == "ended")
    waiting.join(30)
    assert answers[0].json()["outcome"] == "cancelled"
    assert http.get(path).json()["result"]["outcome"] == "cancelled"


def test_a_client_that_wants_its_execution_to_end_with_it(http: httpx.Client) -> None:
    execution_id = detached(http, "sleep 300", cancel=True)
    assert host.wait_until(lambda: outcome(http, execution_id) == "cancelled")
    error = state(http, execution_id)["result"]["error"]
    # It may have gone before the program started.
    assert error in (
        "Execution cancelled: its client went away",
        "Execution cancelled before it started",
    )


def test_a_slow_reader_misses_some_and_slows_nobody(http: httpx.Client, server: Server) -> None:
    size = 32 << 20
    code = f"import sys\nfor i in range({size // 1024}): sys.stdout.write('%1023d\\n' % i)"
    with start(http, code, agent="slow", language="python") as response:
        execution_id = response.headers["x-execution-id"]
        # Nothing is read until the program has ended by itself.
        assert host.wait_until(lambda: outcome(http, execution_id) == "success", 60)
        found = events(response)
    gaps = [each.json()["dropped_bytes"] for each in found if each.event == "gap"]
    texts = [each.json()["text"] for each in found if each.event == "stdout"]
    assert gaps
    assert sum(gaps) + sum(map(len, texts)) == size
    assert "".join(texts).endswith(f"{size // 1024 - 1:1023d}\n")
    assert len(found[-1].json()["stdout"]) == size
    late = listen(http, execution_id)
    assert [each.event for each in late][:2] == ["started", "gap"]
    assert len(late[-2].json()["text"]) <= 65536


async def test_many_open_streams(server: Server) -> None:
    """On one execution and on many; afterwards the server lets go of their descriptors."""
    descriptors = f"/proc/{server.pid}/fd"
    async with httpx.AsyncClient(
        base_url=server.url, timeout=120, trust_env=False, limits=httpx.Limits(max_connections=None)
    ) as http:

        async def one(path: str, agent: str | None = None) -> list[ServerSentEvent]:
            more = {} if agent is None else {"json": body("cat go || true", agent)}
            async with http.stream("GET" if agent is None else "POST", path, **more) as response:
                assert response.status_code == 200
                return [each async for each in EventSource(response).aiter_sse()]

        async with http.stream(
            "POST", "/api/llm/execute/stream", json=body(GATED, "many")
        ) as response:
            execution_id = response.headers["x-execution-id"]
        while (await http.get(f"/api/executions/{execution_id}")).json()["last_event"] < 2:
            await asyncio.sleep(0.02)  # its VM boots
        before = len(os.listdir(descriptors))
        path = f"/api/executions/{execution_id}/events"
        listening = [asyncio.create_task(one(path)) for _ in range(OPEN_STREAMS)]
        while len(os.listdir(descriptors)) < before + OPEN_STREAMS - 2:
            await asyncio.sleep(0.05)
        await http.post("/api/llm/execute", json=body("touch go", "many"))
        heard = await asyncio.gather(*listening)
        assert {str(plain(each)) for each in heard} == {str(plain(heard[0]))}
        assert heard[0][-1].json()["stdout"] == "one\ntwo\n"
        others = await asyncio.gather(
            *(one("/api/llm/execute/stream", "many") for _ in range(min(OPEN_STREAMS, 50)))
        )
        assert all(each[-1].event == "result" for each in others)
    # The database keeps the connections it came to need.
    while len(os.listdir(descriptors)) > before + OPEN_STREAMS // 4:
        await asyncio.sleep(0.05)


def test_a_batch_with_one_bad_request(http: httpx.Client) -> None:
    requests = [
        body("echo 1 > f; echo first", "batch"),
        body("echo x", "batch", "cobol"),
        body("cat f; echo second", "batch"),
        body("x", "batch") | {"nonsense": 1},
        "no request",
        body("echo third; exit 3", "another"),
        body("echo x", "batch", vm_id="vm-0"),
    ]
    answer = http.post("/api/llm/execute/batch", json={"requests": requests})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert len(results) == len(requests)
    good = [each["result"] and each["result"]["stdout"] for each in results]
    assert good == ["first\n", None, "1\nsecond\n", None, None, "third\n", None]
    bad = [each["error"] and each["error"]["field"] for each in results]
    assert bad == [None, "language", None, "nonsense", "body", None, "vm_id"]
    assert all(
        results[n]["result"]["snapshot_before"] for n in (0, 2, 5)
    )  # none ran beside another
    assert http.post("/api/llm/execute/batch", json={"requests": []}).json() == {"results": []}


@pytest.mark.parametrize(
    ("sent", "status"),
    [({"requests": [{}] * 101}, 400), ({}, 422), ({"requests": 5}, 422), ({"request": []}, 422)],
)
def test_a_batch_that_is_none(http: httpx.Client, sent, status: int) -> None:
    answer = http.post("/api/llm/execute/batch", json=sent)
    assert (answer.status_code, bool(answer.json()["field"])) == (status, True)


def test_what_is_kept_is_bounded_and_the_history_has_the_rest() -> None:
    with host.data_directory() as path:
        with (
            Server(path, MULLIGAN_STREAMS__KEEP_ENDED="2") as server,
            httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http,
        ):
            ids = []
            for number in range(4):  # one after the other, so that they end in this order
                ids.append(detached(http, f"echo {number}", agent="kept"))
                assert host.wait_until(lambda: outcome(http, ids[-1]) == "success")
            assert [state(http, each)["last_event"] for each in ids] == [None, None, 3, 3]
            old = listen(http, ids[0])
            assert [each.event for each in old] == ["gap", "result"]
            assert (old[0].json(), old[1].json()["stdout"]) == ({"dropped_bytes": 2}, "0\n")
            with start(http, "echo running; sleep 300", agent="kept") as response:
                source = EventSource(response).iter_sse()
                next(source), next(source)
                stopped = response.headers["x-execution-id"]
                server.process.terminate()
                last = list(source)[-1]  # a server that stops says so to those who listen
                assert last.event == "error"
                assert last.json()["error"] == {"ExecutionFailed": "the VM ended: it was stopped"}
        with (
            Server(path) as server,
            httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http,
        ):
            again = listen(http, ids[3], **{"Last-Event-ID": "2"})
            assert [each.event for each in again] == ["gap", "result"]
            assert again[1].json()["stdout"] == "3\n"
            assert (state(http, stopped)["state"], outcome(http, ids[3])) == ("failed", "success")
            assert http.post(f"/api/executions/{stopped}/cancel").json() == state(http, stopped)


def test_every_route_is_described(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    paths = described["paths"]
    for path, method in (
        ("/api/llm/execute/stream", "post"),
        ("/api/llm/execute/batch", "post"),
        ("/api/executions/{execution_id}", "get"),
        ("/api/executions/{execution_id}/events", "get"),
        ("/api/executions/{execution_id}/cancel", "post"),
    ):
        assert paths[path][method]["summary"]
    stream = paths["/api/llm/execute/stream"]["post"]["responses"]
    assert "event: result" in stream["200"]["content"]["text/event-stream"]["example"]
    requests = described["components"]["schemas"]["BatchRequest"]["properties"]["requests"]
    assert "POST /api/llm/execute" in requests["description"]
