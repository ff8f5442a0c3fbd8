"""The HTTP API, in the words a client of the plain wire format uses."""

import httpx
import pytest

# What serde writes for a request of the wire format: every field, options as null.
SEED_REQUEST = {
    "agent_id": "agent-7",
    "language": "python",
    "code": "print(6 * 7)",
    "vm_id": None,
    "requirements": [],
    "timeout_seconds": 30,
    "working_dir": None,
    "metadata": None,
}
SEED_RESPONSE = {
    "execution_id": str,
    "vm_id": str,
    "exit_code": int,
    "stdout": str,
    "stderr": str,
    "duration_ms": int,
    "started_at": str,
    "completed_at": str,
}


def execute(http: httpx.Client, **changes: object) -> httpx.Response:
    return http.post("/api/llm/execute", json=SEED_REQUEST | changes)


def test_health(http: httpx.Client) -> None:
    body = http.get("/health").json()
    assert body["status"] == "ok"
    assert "python" in body["languages"]


def test_an_execution_in_the_wire_format(http: httpx.Client) -> None:
    body = execute(http).json()
    for name, kind in SEED_RESPONSE.items():
        assert type(body[name]) is kind, name
    assert (body["exit_code"], body["stdout"], body["error"]) == (0, "42\n", None)
    assert body["started_at"].endswith("Z")


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "print('hi')"),
        ("javascript", "console.log('hi')"),
        ("bash", "echo hi"),
        ("rust", 'fn main() { println!("hi"); }'),
    ],
)
def test_every_language(http: httpx.Client, language: str, code: str) -> None:
    if language not in http.get("/health").json()["languages"]:
        pytest.skip(f"this host has no {language}")
    body = execute(http, language=language, code=code, timeout_seconds=60).json()
    assert (body["exit_code"], body["stdout"]) == (0, "hi\n"), body


def test_options_may_be_absent(http: httpx.Client) -> None:
    response = http.post(
        "/api/llm/execute", json={"agent_id": "a", "language": "bash", "code": "echo 1"}
    )
    assert response.json()["stdout"] == "1\n"


def test_an_agents_executions_share_a_vm_and_agents_do_not(http: httpx.Client) -> None:
    first = execute(http, agent_id="one", language="bash", code="echo mine > f").json()
    again = execute(http, agent_id="one", language="bash", code="cat f").json()
    other = execute(http, agent_id="two", language="bash", code="cat f").json()
    assert (again["vm_id"], again["stdout"]) == (first["vm_id"], "mine\n")
    assert other["vm_id"] != first["vm_id"]
    assert other["exit_code"] != 0


def test_the_life_of_a_vm(http: httpx.Client) -> None:
    made = http.post("/api/vms", json={"vm_type": "focal-optimized", "vm_name": "agent-seven-vm"})
    assert made.status_code == 201
    vm = made.json()
    assert (vm["agent_id"], vm["name"], vm["ip_address"]) == ("seven", "agent-seven-vm", None)
    assert http.get(f"/api/vms/{vm['id']}").json()["id"] == vm["id"]
    assert vm["id"] in [v["id"] for v in http.get("/api/vms").json()]
    assert [v["id"] for v in http.get("/api/vms?agent_id=seven").json()] == [vm["id"]]
    assert execute(http, agent_id="seven", vm_id=vm["id"]).json()["vm_id"] == vm["id"]
    assert http.get(f"/api/vms/{vm['id']}").json()["status"] == "ready"
    assert http.delete(f"/api/vms/{vm['id']}").status_code == 204
    assert http.get(f"/api/vms/{vm['id']}").status_code == 404
    assert http.delete(f"/api/vms/{vm['id']}").status_code == 404


def test_a_failing_program_is_no_error(http: httpx.Client) -> None:
    response = execute(http, code="import sys; sys.exit(3)")
    assert (response.status_code, response.json()["exit_code"]) == (200, 3)


def test_a_timeout_is_told_in_the_words_of_the_format(http: httpx.Client) -> None:
    body = execute(http, code="while True: pass", timeout_seconds=1).json()
    assert (body["error"], body["outcome"]) == ("Execution timeout after 1000ms", "timeout")
    assert body["exit_code"] == 124


def test_output_that_is_no_text_is_made_one(http: httpx.Client) -> None:
    body = execute(http, code="import sys; sys.stdout.buffer.write(b'a\\xff\\0b')").json()
    assert body["stdout"] == "a\ufffd\0b"


def test_the_api_describes_itself(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/health", "/api/llm/execute", "/api/vms", "/api/vms/{vm_id}"} <= set(paths)
