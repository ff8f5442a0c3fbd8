"""Sessions: VMs with a name and a shell that goes on from command to command."""

import itertools
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from support.server import Server

_numbers = itertools.count(1)


class Session:
    """A session of the tests' own."""

    def __init__(self, http: httpx.Client, **fields: object) -> None:
        self.http = http
        self.name = f"agent-tester-{next(_numbers)}"
        response = http.post("/sessions", json={"name": self.name} | fields)
        assert response.status_code == 201, response.text
        self.made = response.json()
        self.name = self.made["name"]

    def run(self, command: str, **more: object) -> dict[str, object]:
        body = {"command": command} | more
        response = self.http.post(f"/sessions/{self.name}/execute", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def output(self, command: str) -> object:
        return self.run(command)["output"]


@pytest.fixture
def session(http: httpx.Client) -> Iterator[Session]:
    made = Session(http)
    yield made
    http.delete(f"/sessions/{made.name}")


def refused(response: httpx.Response, status: int, variant: str, field: str | None) -> None:
    body = response.json()
    assert (response.status_code, list(body["error"]), body["field"]) == (status, [variant], field)


def test_a_shell_goes_on(session: Session) -> None:
    assert session.output("cd /tmp; x=5; f() { echo f$1; }") == ""
    assert session.output("pwd; echo $x; f 1") == "/tmp\n5\nf1\n"
    failed = session.run("echo out; echo err >&2; ( exit 3 )")
    assert failed["exit_code"] == 3
    assert sorted(str(failed["output"]).split()) == ["err", "out"]
    assert session.run("exit 7")["exit_code"] == 7
    assert session.output("echo $x in $PWD") == "5 in /tmp\n"


def test_what_is_honoured_and_what_is_not(http: httpx.Client) -> None:
    session = Session(http, vm_type="ubuntu", memory_mb=2048, vcpus=2)
    assert (session.made["memory_mb"], session.made["vcpus"]) in ((2048, 2), (None, None))
    held = session.made["memory_mb"] is not None
    assert len(session.made["notes"]) == (0 if held else 2)
    assert all("nothing on this host holds" in note for note in session.made["notes"])
    more = Session(http, vm_type="ubuntu", memory_mb=2**20)
    assert any("has no more than 2048" in note for note in more.made["notes"])
    assert (session.made["agent_id"], session.made["vm_type"]) == ("tester", "ubuntu")
    assert Session(http).made["notes"] == []


def test_its_commands_are_executions(http: httpx.Client, session: Session) -> None:
    done = session.run("echo seen")
    history = http.get(f"/api/vms/{session.made['vm_id']}/history").json()
    assert [entry["command"] for entry in history["entries"]] == ["echo seen"]
    assert history["entries"][0]["id"] == done["execution_id"]
    status = http.get(f"/api/executions/{done['execution_id']}").json()
    assert status["agent_id"] == "tester"
    blocked = http.post(f"/sessions/{session.name}/execute", json={"command": "rm -rf /"})
    refused(blocked, 400, "ValidationFailed", "command")
    assert http.get(f"/sessions/{session.name}/info").json()["commands"] >= 1


def test_snapshots_take_files_and_variables_back(http: httpx.Client, session: Session) -> None:
    session.run("x=before; echo before > file")
    kept = http.post(f"/sessions/{session.name}/snapshots", json={"name": "good"})
    assert kept.status_code == 201
    snapshot_id = kept.json()["snapshot_id"]
    session.run("x=after; echo after > file; cd /")
    back = http.post(f"/sessions/{session.name}/rollback", json={"snapshot_id": snapshot_id})
    assert (back.status_code, back.json()["restored_snapshot_id"]) == (200, snapshot_id)
    assert session.output("echo $x; cat file") == "before\nbefore\n"
    missing = http.post(f"/sessions/{session.name}/rollback", json={"snapshot_id": "snap-none"})
    refused(missing, 404, "SnapshotNotFound", "snapshot_id")


def test_info_list_and_end(http: httpx.Client) -> None:
    session = Session(http)
    info = http.get(f"/sessions/{session.name}/info").json()
    assert (info["name"], info["vm_id"]) == (session.name, session.made["vm_id"])
    assert session.name in [each["name"] for each in http.get("/sessions").json()]
    assert http.get("/sessions?agent_id=nobody").json() == []
    assert http.get(f"/api/vms/{session.made['vm_id']}").json()["name"] == session.name
    assert http.delete(f"/sessions/{session.name}").status_code == 204
    for response in (
        http.get(f"/sessions/{session.name}/info"),
        http.delete(f"/sessions/{session.name}"),
        http.post(f"/sessions/{session.name}/execute", json={"command": "true"}),
        http.post(f"/sessions/{session.name}/snapshots", json={"name": "x"}),
        http.post(f"/sessions/{session.name}/rollback", json={"snapshot_id": "x"}),
    ):
        refused(response, 404, "SessionNotFound", "name")
    assert http.get(f"/api/vms/{session.made['vm_id']}").status_code == 404


def test_a_vm_is_no_session_and_neither_is_a_fork(http: httpx.Client, session: Session) -> None:
    vm = http.post("/api/vms", json={"agent_id": "tester", "vm_name": "plain"}).json()
    refused(http.get(f"/sessions/{vm['name']}/info"), 404, "SessionNotFound", "name")
    forked = http.post(f"/api/vms/{session.made['vm_id']}/fork").json()["vms"][0]
    refused(http.get(f"/sessions/{forked['name']}/info"), 404, "SessionNotFound", "name")


def test_names_are_each_agents_own(http: httpx.Client) -> None:
    name = f"build-{uuid.uuid4()}"
    for agent in ("one", "two"):
        made = http.post("/sessions", json={"name": name, "agent_id": agent})
        assert (made.status_code, made.json()["agent_id"]) == (201, agent)
    again = http.post("/sessions", json={"name": name, "agent_id": "two"})
    refused(again, 409, "SessionExists", "name")
    refused(http.get(f"/sessions/{name}/info"), 400, "ValidationFailed", "agent_id")
    for agent in ("one", "two"):
        found = http.get(f"/sessions/{name}/info?agent_id={agent}").json()
        assert found["agent_id"] == agent
    refused(http.get(f"/sessions/{name}/info?agent_id=three"), 404, "SessionNotFound", "name")


def test_of_two_who_want_a_name_one_gets_it(http: httpx.Client) -> None:
    body = {"name": f"race-{uuid.uuid4()}", "agent_id": "racer"}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: http.post("/sessions", json=body).status_code, range(8)))
    assert sorted(found) == [201] + [409] * 7


@pytest.mark.parametrize(
    ("name", "agent"),
    [
        ("agent-a/b-1700000000", "a/b"),
        ("agent-x-1-2", "x-1"),
        ("agent-x", "agent-x"),
        ("scratch", "scratch"),
        ("execute", "execute"),
        ("a/execute", "a/execute"),
    ],
)
def test_whose_a_session_is(http: httpx.Client, name: str, agent: str) -> None:
    assert http.post("/sessions", json={"name": name}).json()["agent_id"] == agent
    assert http.get(f"/sessions/{name}/info").json()["name"] == name
    done = http.post(f"/sessions/{name}/execute", json={"command": "echo here"})
    assert done.json()["output"] == "here\n"
    assert http.delete(f"/sessions/{name}").status_code == 204


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"name": ""}, 400, "name"),
        ({"name": "a b"}, 400, "name"),
        ({"name": "../x"}, 400, "name"),
        ({"name": "a\n"}, 400, "name"),
        ({"name": "x" * 201}, 400, "name"),
        ({"name": None}, 422, "name"),
        ({}, 422, "name"),
        ({"name": "x", "agent_id": ""}, 400, "agent_id"),
        ({"name": "x" * 150}, 400, "agent_id"),
        ({"name": "x", "vm_type": "vax"}, 400, "vm_type"),
        ({"name": "x", "memory_mb": 0}, 400, "memory_mb"),
        ({"name": "x", "vcpus": -1}, 422, "vcpus"),
        ({"name": "x", "vcpus": "2"}, 422, "vcpus"),
        ({"name": "x", "cpus": 2}, 422, "cpus"),
    ],
)
def test_bad_sessions(http: httpx.Client, fields: dict, status: int, field: str) -> None:
    refused(http.post("/sessions", json=fields), status, "ValidationFailed", field)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"command": ""}, 400, "command"),
        ({"command": "echo \0"}, 400, "command"),
        ({"command": "#" * 10001}, 400, "command"),
        ({"command": "true", "timeout_seconds": 0}, 400, "timeout_seconds"),
        ({}, 422, "command"),
    ],
)
def test_bad_commands(session: Session, body: dict, status: int, field: str) -> None:
    response = session.http.post(f"/sessions/{session.name}/execute", json=body)
    refused(response, status, "ValidationFailed", field)


def test_a_command_that_takes_too_long(session: Session) -> None:
    session.run("x=1")
    done = session.run("echo first; sleep 60", timeout_seconds=1)
    assert (done["outcome"], done["exit_code"], done["output"]) == ("timeout", 124, "first\n")
    assert "timeout" in str(done["error"])


def test_keys_go_with_sessions(session: Session) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    url = f"/sessions/{session.name}/execute"
    body = {"command": "n=$((n + 1)); echo $n"}
    first = session.http.post(url, json=body, headers=headers)
    again = session.http.post(url, json=body, headers=headers)
    assert first.content == again.content
    assert session.output("echo $n") == "1\n"


def test_sessions_survive_a_restart(data_dir: Path) -> None:
    with Server(data_dir) as server, httpx.Client(base_url=server.url, trust_env=False) as http:
        made = Session(http)
        made.run("echo kept > file")
    with Server(data_dir) as server, httpx.Client(base_url=server.url, trust_env=False) as http:
        found = http.get(f"/sessions/{made.name}/info").json()
        assert (found["vm_id"], found["commands"]) == (made.made["vm_id"], 1)
        url = f"/sessions/{made.name}/execute"
        assert http.post(url, json={"command": "cat file"}).json()["output"] == "kept\n"
