"""The time machine over HTTP and the command line."""

import json

import httpx
import pytest

from support import host
from support.server import Server


def execute(url: str, code: str, agent: str = "a") -> dict:
    body = {"agent_id": agent, "language": "bash", "code": code}
    answer = httpx.post(f"{url}/api/llm/execute", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def call(method: str, url: str, **more) -> httpx.Response:
    return httpx.request(method, url, timeout=60, trust_env=False, **more)


def test_every_route_of_the_past() -> None:
    with host.data_directory() as path, Server(path) as server:
        vm_id = execute(server.url, "echo one > a")["vm_id"]
        vm = f"{server.url}/api/vms/{vm_id}"
        made = call("POST", f"{vm}/snapshots", json={"name": "n", "description": "d"})
        assert made.status_code == 201
        snapshot = made.json()
        failed = execute(server.url, "echo two > a; exit 2")
        found = call("GET", f"{vm}/history", params={"limit": 10, "failures_only": "true"}).json()
        assert (found["total"], found["entries"][0]["id"]) == (1, failed["execution_id"])
        assert found["entries"][0]["snapshot_id"] == failed["snapshot_after"]
        changes = call("GET", f"{vm}/diff", params={"from": snapshot["id"]}).json()
        assert [entry["path"] for entry in changes["entries"]] == ["/workspace/a"]
        forked = call("POST", f"{vm}/fork", json={"count": 2}).json()
        assert len(forked["vms"]) == 2
        back = call("POST", f"{vm}/rollback/{snapshot['id']}").json()
        assert (back["success"], back["restored_snapshot_id"]) == (True, snapshot["id"])
        assert execute(server.url, "cat a")["stdout"] == "one\n"
        to = {"execution_id": failed["execution_id"], "create_pre_rollback_snapshot": True}
        assert call("POST", f"{vm}/rollback", json=to).json()["pre_rollback_snapshot_id"]
        listed = [each["id"] for each in call("GET", f"{vm}/snapshots").json()]
        assert snapshot["id"] in listed
        assert call("DELETE", f"{vm}/snapshots/{snapshot['id']}").status_code == 204
        gone = call("POST", f"{vm}/rollback/{snapshot['id']}")
        assert gone.status_code == 404
        assert gone.json()["error"] == {"SnapshotNotFound": snapshot["id"]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "fork", {"count": 0}, 400),
        ("POST", "fork", {"count": -1}, 400),
        ("POST", "fork", {"count": 1_000_000}, 400),
        ("POST", "fork", {"count": "2"}, 422),
        ("POST", "rollback", {"snapshot_id": "nope"}, 404),
        ("POST", "rollback", {"snapshot": "nope"}, 422),
        ("POST", "rollback", {"snapshot_id": "a", "last_success": True}, 400),
        ("POST", "snapshots", {"name": "x\x00"}, 400),
        ("GET", "history?limit=-1", None, 422),
        ("GET", "history?start_date=yesterday", None, 422),
        ("GET", "diff?from=nope", None, 404),
        ("DELETE", "snapshots/nope", None, 404),
    ],
)
def test_bad_input(served: tuple[str, str], method: str, path: str, body, status: int) -> None:
    url, vm_id = served
    answer = call(method, f"{url}/api/vms/{vm_id}/{path}", **({"json": body} if body else {}))
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert set(told) == {"error", "message", "field", "remedy", "request_id"}
    assert told["field"]
    assert execute(url, "cat a")["stdout"] == "one\n"


@pytest.fixture(scope="module")
def served():
    with host.data_directory() as path, Server(path) as server:
        yield server.url, execute(server.url, "echo one > a")["vm_id"]


def test_across_processes(mulligan) -> None:
    mulligan("run", "-l", "bash", "-c", "echo one > f")
    mulligan("run", "-l", "bash", "-c", "echo two > f; touch g")
    assert "+ /workspace/g" in mulligan("diff")
    assert "is back at snap-" in mulligan("rollback")
    assert mulligan("run", "-l", "bash", "-c", "cat f; ls") == "one\nf\n"
    assert json.loads(mulligan("history", "--json"))["total"] == 3
    assert "echo two > f; touch g" in mulligan("history")
    kept = mulligan("snapshot", "create", "good").strip()
    assert kept in mulligan("snapshot", "ls")
    assert len(mulligan("fork", "-n", "2").split()) == 2
    assert "Snapshot not found: nope" in mulligan("rollback", "nope", fails=125)
    assert "count must be between" in mulligan("fork", "-n", "0", fails=125)
    assert "removed" in mulligan("snapshot", "rm", kept)


@pytest.fixture
def mulligan():
    import os
    import subprocess
    import sys

    with host.data_directory() as path:
        environment = os.environ | {"MULLIGAN_DATA_DIR": str(path / "data")}

        def run(*arguments: str, fails: int = 0) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "mulligan", *arguments],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == fails, done.stderr
            return done.stderr if fails else done.stdout

        yield run
