"""Who is let in and what of it is written down, at a server a user would start."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mulligan import SyncVmExecutionClient, VmExecutionConfig
from mulligan.errors import ApprovalRequired, Forbidden, Unauthorized
from mulligan.models import VmExecuteRequest
from support import host
from support.access import client_of, make_token, wait_for_status
from support.server import Server, clean_environment, command

RUN = {"agent_id": "a", "language": "bash", "code": "echo 1"}
ANYWHERE = ("--host", "0.0.0.0")


def mulligan(directory: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(MULLIGAN_DATA_DIR=str(directory), **env),
        check=False,
    )


def audited(directory: Path, *arguments: str) -> list[dict[str, Any]]:
    done = mulligan(directory, "audit", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Server, dict[str, Any], dict[str, Any]]]:
    """A server with limits, an administrator's token, and one of agent a."""
    limits = {"running_executions": 1, "vms": 2, "stored_mb": 8}
    with host.data_directory() as path:
        admin, agent = make_token(path, "--admin"), make_token(path, "--agent", "a")
        env = {f"MULLIGAN_LIMITS__{name.upper()}": str(most) for name, most in limits.items()}
        with Server(path, MULLIGAN_CORS_ORIGINS='["https://app.example"]', **env) as server:
            yield server, admin, agent


@pytest.fixture
def admin(guarded: tuple[Server, dict[str, Any], dict[str, Any]]) -> Iterator[httpx.Client]:
    with client_of(guarded[0], guarded[1]["token"]) as client:
        yield client


@pytest.fixture
def agent(guarded: tuple[Server, dict[str, Any], dict[str, Any]]) -> Iterator[httpx.Client]:
    with client_of(guarded[0], guarded[2]["token"]) as client:
        yield client


def test_an_open_server_asks_for_tokens_once_there_is_one(data_dir: Path) -> None:
    with Server(data_dir) as server, client_of(server, None) as client:
        assert client.post("/api/llm/execute", json=RUN).json()["stdout"] == "1\n"
        token = make_token(data_dir, "--agent", "a")
        wait_for_status(server, "", 401)
        wait_for_status(server, token["token"], 200)
        assert client.get("/health").status_code == 200
        assert mulligan(data_dir, "token", "revoke", token["id"]).returncode == 0
        wait_for_status(server, token["token"], 401)
        wait_for_status(server, "", 401)  # nobody revokes the last one to let all in
        assert mulligan(data_dir, "token", "rm", token["id"]).returncode == 0
        wait_for_status(server, "", 200)


def test_nothing_listens_to_others_without_a_good_token(data_dir: Path) -> None:
    def refused() -> None:
        done = mulligan(data_dir, "serve", "--port", "0", *ANYWHERE)
        assert done.returncode == 125
        assert "refusing to listen on 0.0.0.0: there is no access token" in done.stderr
        assert "mulligan token create" in done.stderr

    refused()
    assert list(data_dir.iterdir()) == []
    token = make_token(data_dir, "--admin")
    mulligan(data_dir, "token", "revoke", token["id"])
    refused()
    make_token(data_dir, "--admin", "--expires", "1s")
    assert host.wait_until(
        lambda: '"expired"' in mulligan(data_dir, "token", "ls", "--json").stdout, 30
    )
    refused()


def test_with_one_it_listens_and_asks_for_it(data_dir: Path) -> None:
    good = make_token(data_dir, "--admin")["token"]
    hosts = '["mulligan.example"]'
    with Server(data_dir, *ANYWHERE, MULLIGAN_ALLOWED_HOSTS=hosts) as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        with client_of(server, good) as client:
            named = {"Host": "mulligan.example:80"}
            assert client.get("/api/vms", headers=named).status_code == 200
            page = named | {"Origin": "https://elsewhere.example"}  # it would need the token
            assert client.get("/api/vms", headers=page).status_code == 200
            wrong = client.get("/api/vms", headers={"Host": "evil.example"})
            assert (wrong.status_code, wrong.json()["field"]) == (403, "Host")
            del client.headers["Authorization"]
            assert client.get("/api/vms", headers=named).status_code == 401


def test_the_commands(data_dir: Path) -> None:
    made = mulligan(data_dir, "token", "create", "--agent", "a", "--expires", "30d", "--name", "ci")
    secret = made.stdout.strip()
    assert re.fullmatch(r"mlg_[A-Za-z0-9_-]{54}", secret)
    assert secret not in made.stderr
    (listed,) = json.loads(mulligan(data_dir, "token", "ls", "--json").stdout)
    assert secret.startswith(listed["begins"])
    assert (listed["agent_id"], listed["name"], listed["state"]) == ("a", "ci", "good")
    assert secret not in mulligan(data_dir, "token", "ls").stdout
    assert "is good still" in mulligan(data_dir, "token", "rm", listed["id"]).stderr
    for arguments, said in (
        (("create",), "--agent NAME or --admin"),
        (("create", "--agent", "a", "--admin"), "--agent NAME or --admin"),
        (("create", "--agent", "a b"), "agent_id must be"),
        (("create", "--admin", "--expires", "soon"), "no time span"),
        (("revoke", "token-none"), "there is no token of that id"),
        (("revoke", secret), "there is no token of that id"),
    ):
        done = mulligan(data_dir, "token", *arguments)
        assert (done.returncode, done.stdout) == (125, "")
        assert said in done.stderr
        assert secret not in done.stderr


def test_commands_show_their_token(
    guarded: tuple[Server, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    server, _, agent = guarded
    path = tmp_path / "token"
    path.write_text(agent["token"] + "\n")
    listing = ("vm", "ls")
    assert mulligan(server.data_dir, *listing, MULLIGAN_TOKEN=agent["token"]).returncode == 0
    assert mulligan(server.data_dir, *listing, MULLIGAN_TOKEN_FILE=str(path)).returncode == 0
    assert mulligan(server.data_dir, "--token-file", str(path), *listing).returncode == 0
    done = mulligan(server.data_dir, *listing)
    assert "a token is needed" in done.stderr
    done = mulligan(server.data_dir, *listing, MULLIGAN_TOKEN="mlg_nonsense")
    assert "this token is not good here" in done.stderr
    assert "mlg_nonsense" not in done.stderr


def test_clients_say_what_it_was(
    guarded: tuple[Server, dict[str, Any], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, admin, agent = guarded
    config = VmExecutionConfig(api_base_url=server.url)

    def approvals(token: str | None) -> SyncVmExecutionClient:
        return SyncVmExecutionClient(config, auth_token=token)

    with approvals(None) as client, pytest.raises(Unauthorized, match="a token is needed"):
        client.list_approvals()
    monkeypatch.setenv("MULLIGAN_TOKEN", admin["token"])
    with approvals(None) as client:
        client.list_approvals()
    with approvals("") as client, pytest.raises(Unauthorized, match="a token is needed"):
        client.list_approvals()
    run = VmExecuteRequest(agent_id="a", language="bash", code="git clean -fd")
    with approvals(agent["token"]) as client:
        with pytest.raises(ApprovalRequired) as asked:
            client.execute_code(run)
        with pytest.raises(Forbidden, match="for administrators"):
            client.answer_approval(asked.value.approval_id, approve=True)


def test_the_seeds_client_names_no_agent(agent: httpx.Client, admin: httpx.Client) -> None:
    body = {"vm_type": "focal-optimized", "vm_name": "agent-somebody-vm"}
    made = agent.post("/api/vms", json=body)
    assert made.json()["agent_id"] == "a"
    assert agent.delete(f"/api/vms/{made.json()['id']}").status_code == 204
    made = admin.post("/api/vms", json=body)
    assert made.json()["agent_id"] == "somebody"


def test_agents_do_not_answer_what_they_are_asked(agent: httpx.Client, admin: httpx.Client) -> None:
    asked = agent.post("/api/llm/execute", json=RUN | {"code": "git clean -fdx"}).json()
    path = "/api/approvals/" + asked["error"]["ApprovalRequired"].partition(":")[0]
    refused = agent.post(path, json={"approve": True})
    assert refused.status_code == 403
    assert "for administrators" in refused.json()["message"]
    assert agent.get(path).json()["state"] == "pending"
    assert admin.post(path, json={"approve": False, "who": "ada"}).json()["state"] == "denied"


def check_too_many(response: httpx.Response, said: str) -> None:
    body = response.json()
    assert response.status_code == 429, body
    assert int(response.headers["retry-after"]) >= 1
    assert list(body["error"]) == ["ApiError"]
    assert said in body["message"]
    assert "limits." in body["remedy"]


def test_a_second_execution_while_one_may_run(
    guarded: tuple[Server, dict[str, Any], dict[str, Any]], agent: httpx.Client
) -> None:
    code = "echo started; sleep 60"
    with agent.stream("POST", "/api/llm/execute/stream", json=RUN | {"code": code}) as events:
        execution = events.headers["x-execution-id"]
        next(line for line in events.iter_lines() if "started" in line)
        check_too_many(agent.post("/api/llm/execute", json=RUN), "runs 1 executions")
        done = agent.post("/api/llm/execute/batch", json={"requests": [RUN]}).json()
        assert "runs 1 executions" in done["results"][0]["error"]["message"]
        assert agent.post(f"/api/executions/{execution}/cancel").status_code == 200
    assert agent.post("/api/llm/execute", json=RUN).json()["stdout"] == "1\n"


def test_more_vms_than_an_agent_may_have(agent: httpx.Client, admin: httpx.Client) -> None:
    before = [vm["id"] for vm in agent.get("/api/vms").json()]
    made = [agent.post("/api/vms", json={}).json()["id"] for _ in range(2 - len(before))]
    vm = [*before, *made][0]
    check_too_many(agent.post("/api/vms", json={}), "has 2 VMs and may have 2")
    check_too_many(agent.post(f"/api/vms/{vm}/fork", json={"count": 1}), "has 2 VMs")
    check_too_many(admin.post("/api/vms", json={"agent_id": "a"}), "has 2 VMs")
    assert admin.post("/api/vms", json={"agent_id": "b"}).status_code == 201
    for each in [*before, *made]:
        assert agent.delete(f"/api/vms/{each}").status_code == 204


def test_more_bytes_than_an_agent_may_keep(admin: httpx.Client) -> None:
    mine = RUN | {"agent_id": "hoarder"}
    fill = mine | {"code": "head -c 12M /dev/urandom > big"}
    ran = admin.post("/api/llm/execute", json=fill).json()
    assert ran["exit_code"] == 0
    vm = f"/api/vms/{ran['vm_id']}"
    for path, body in (
        ("/api/llm/execute", mine),
        ("/api/vms", {"agent_id": "hoarder"}),
        (f"{vm}/snapshots", {}),
        (f"{vm}/fork", {}),
    ):
        refused = None

        def is_refused(path: str = path, body: dict[str, Any] = body) -> bool:
            nonlocal refused
            refused = admin.post(path, json=body)
            return refused.status_code == 429

        # What was counted is good for five seconds.
        assert host.wait_until(is_refused, 30)
        assert refused is not None
        check_too_many(refused, "on disk and may have 8 MB")
    assert admin.delete(vm).status_code == 204
    assert admin.post("/api/llm/execute", json=mine).json()["stdout"] == "1\n"


def test_more_requests_than_an_agent_may_send(data_dir: Path) -> None:
    admin, agent = make_token(data_dir, "--admin"), make_token(data_dir, "--agent", "a")
    second = make_token(data_dir, "--agent", "a")
    env = {"LIMITS__REQUESTS_PER_SECOND": "0.01", "LIMITS__REQUEST_BURST": "3"}
    with (
        Server(data_dir, **{f"MULLIGAN_{name}": value for name, value in env.items()}) as server,
        client_of(server, agent["token"]) as client,
        client_of(server, second["token"]) as same,
        client_of(server, admin["token"]) as other,
    ):
        assert [client.get("/api/vms").status_code for _ in range(3)] == [200] * 3
        refused = same.get("/api/vms")
        check_too_many(refused, "too many requests a second")
        assert int(refused.headers["retry-after"]) > 50
        assert client.get("/health").status_code == 200
        assert [other.get("/api/vms").status_code for _ in range(10)] == [200] * 10


def test_every_answer_has_the_requests_id(
    guarded: tuple[Server, dict[str, Any], dict[str, Any]], agent: httpx.Client
) -> None:
    server = guarded[0]
    done = agent.post("/api/llm/execute", json=RUN, headers={"X-Request-Id": "mine-1:2.3_x"})
    assert done.headers["x-request-id"] == "mine-1:2.3_x"

    def logged() -> set[str]:
        lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
        return {line["event"] for line in lines if line.get("request_id") == "mine-1:2.3_x"}

    assert host.wait_until(lambda: "executed" in logged(), 20), server.log()
    made = set()
    for unfit in ("", "x" * 129, "a b", "a\tb", "caf\xe9", '"', "<x>"):
        headers = {"X-Request-Id": unfit.encode("latin-1")}
        for path, status in (("/health", 200), ("/api/vms/vm-none", 404), ("/nowhere", 404)):
            answer = agent.get(path, headers=headers)
            assert answer.status_code == status
            found = answer.headers["x-request-id"]
            assert re.fullmatch(r"req-[0-9a-f]{16}", found)
            assert status == 200 or answer.json()["request_id"] == found
            made.add(found)
    assert len(made) == 21


def test_pages_of_the_origins_that_were_named(
    guarded: tuple[Server, dict[str, Any], dict[str, Any]], agent: httpx.Client
) -> None:
    wanted = {"Origin": "https://app.example"}
    with client_of(guarded[0], None) as nobody:  # a browser asks without the token
        asks = wanted | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        assert nobody.options("/api/llm/execute", headers=asks).status_code == 200
        other = asks | {"Origin": "https://other.example"}
        assert nobody.options("/api/llm/execute", headers=other).status_code == 403
        assert nobody.get("/api/vms", headers=wanted).headers["access-control-allow-origin"]
    answer = agent.get("/api/vms", headers=wanted)
    assert answer.headers["access-control-allow-origin"] == wanted["Origin"]
    assert "access-control-allow-credentials" not in answer.headers


def test_who_asked_for_what_and_nothing_else_of_it(
    guarded: tuple[Server, dict[str, Any], dict[str, Any]], agent: httpx.Client
) -> None:
    server, admins, agents = guarded
    body = RUN | {"code": "echo not-in-the-audit; echo $PRIVATE", "stdin": "not-in-the-audit-2"}
    body |= {"secrets": {"PRIVATE": "not-in-the-audit-3"}}
    ran = agent.post("/api/llm/execute", json=body)
    assert ran.status_code == 200
    path = f"/api/vms/{ran.json()['vm_id']}"
    agent.get(f"{path}/history", params={"search": "not-in-the-audit-4"})
    agent.get("/api/vms/" + "v" * 3000)
    agent.get("/not-in-the-audit-5")
    agent.post("/api/llm/execute", content="not-in-the-audit-6", headers={"X-Key": "v"})
    agent.get(f"{path}?not-in-the-audit-7_id=x&token={agents['token']}")
    entries = audited(server.data_dir)
    text = (server.data_dir / "audit.jsonl").read_text()
    assert "not-in-the-audit" not in text
    assert agents["token"] not in text
    assert admins["token"] not in text
    by_id = {entry["request_id"]: entry for entry in entries}
    entry = by_id[ran.headers["x-request-id"]]
    assert entry | {"time": ""} == {
        "time": "",
        "request_id": ran.headers["x-request-id"],
        "client": "127.0.0.1",
        "who": "agent",
        "agent": "a",
        "token": agents["id"],
        "method": "POST",
        "route": "/api/llm/execute",
        "ids": {
            "agent_id": "a",
            "vm_id": ran.json()["vm_id"],
            "execution_id": ran.json()["execution_id"],
        },
        "status": 200,
    }
    refused = client_of(server, "mlg_wrong")
    with refused as client:
        found = client.delete(path).headers["x-request-id"]
    (last,) = audited(server.data_dir, "--limit", "1")
    assert (last["request_id"], last["status"], last["who"]) == (found, 401, None)
    assert (last["route"], last["ids"]) == ("/api/vms/{vm_id}", {"vm_id": ran.json()["vm_id"]})
    assert {each["agent"] for each in audited(server.data_dir, "--agent", "a")} <= {"a", None}
    assert audited(server.data_dir, "--since", "1h")[-1] == last
    assert audited(server.data_dir, "--since", "2999-01-01T00:00Z") == []
    shown = mulligan(server.data_dir, "audit").stdout
    assert "POST /api/llm/execute" in shown


def test_an_audit_log_that_cannot_be_written_is_told(
    guarded: tuple[Server, dict[str, Any], dict[str, Any]], agent: httpx.Client
) -> None:
    """Requests go on: else a full disk would keep out who is to free it."""
    server = guarded[0]
    path, aside = server.data_dir / "audit.jsonl", server.data_dir / "aside"
    path.rename(aside)
    path.mkdir()
    try:
        assert agent.get("/api/vms").status_code == 200
        sick = agent.get("/health")
        assert sick.json()["status"] != "ok"
        assert "audit" in sick.text
        assert os.strerror(21) not in sick.text  # the log has it
        assert '"audit_not_written"' in server.log()
    finally:
        path.rmdir()
        aside.rename(path)
    assert agent.get("/api/vms").status_code == 200
    assert agent.get("/health").json()["status"] == "ok"
    assert audited(server.data_dir)[-2]["lost"] >= 1
