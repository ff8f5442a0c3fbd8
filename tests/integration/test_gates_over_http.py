"""Gates, approvals and model answers over HTTP, with clients and on the command line."""

import json
import subprocess
import sys

import httpx
import pytest

from mulligan import VmExecuteRequest, VmExecutionClient, VmExecutionConfig
from mulligan.errors import ApprovalDenied, ApprovalRequired, ValidationFailed
from mulligan.models import ParseExecuteRequest
from support.server import Server, clean_environment

ASKED = "git clean -fdx; echo ran"


def execute(http: httpx.Client, code: str, **more: object) -> httpx.Response:
    body = {"agent_id": "ada", "language": "bash", "code": code} | more
    return http.post("/api/llm/execute", json=body)


def test_a_refusal_names_the_rule_and_the_place(http: httpx.Client) -> None:
    answer = execute(http, "true\nrm -rf /no/such/place-at-all/../../../")
    assert answer.status_code == 400
    assert answer.json()["field"] == "code"
    assert "dangerous_pattern: delete-system: " in answer.json()["message"]
    assert "line 2, column 1" in answer.json()["message"]


def test_an_approval_from_question_to_use(http: httpx.Client) -> None:
    waits = execute(http, ASKED)
    assert waits.status_code == 403
    approval = waits.json()["error"]["ApprovalRequired"].partition(":")[0]
    asked = http.get("/api/approvals", params={"state": "pending", "agent_id": "ada"}).json()
    assert [each["id"] for each in asked] == [approval]
    assert http.get(f"/api/approvals/{approval}").json()["code"] == ASKED
    answered = http.post(f"/api/approvals/{approval}", json={"approve": True, "who": "bob"})
    assert answered.json()["state"] == "approved"
    done = execute(http, ASKED, approval=approval).json()
    assert (done["stdout"], done["approval"]) == ("ran\n", approval)
    assert execute(http, ASKED, approval=approval).status_code == 409
    assert http.get(f"/api/approvals/{approval}").json()["state"] == "used"


@pytest.mark.parametrize(
    ("path", "status", "variant"),
    [
        ("/api/approvals/nothing", 404, "ApprovalNotFound"),
        ("/api/approvals?state=surprised", 400, "ValidationFailed"),
        ("/api/approvals?limit=0", 422, "ValidationFailed"),
    ],
)
def test_bad_questions(http: httpx.Client, path: str, status: int, variant: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, list(answer.json()["error"])) == (status, [variant])


def test_a_question_s_answer_has_to_be_one(http: httpx.Client) -> None:
    answer = http.post("/api/approvals/nothing", json={"approve": "yes"})
    assert (answer.status_code, answer.json()["field"]) == (422, "approve")
    assert http.post("/api/approvals/nothing", json={"approve": True}).status_code == 404


def test_a_model_answer(http: httpx.Client) -> None:
    text = "Run this:\n\n```python\nprint(6 * 7)\n```\n\nIt prints:\n\n```text\n42\n```\n"
    body = {"agent_id": "ada", "llm_response": text, "auto_execute": True}
    done = http.post("/api/llm/parse-execute", json=body | {"auto_execute_threshold": 0.7}).json()
    assert [each["language"] for each in done["code_blocks"]] == ["python", "text"]
    assert [each["stdout"] for each in done["execution_results"]] == ["42\n"]
    assert done["errors"] == []
    wrong = http.post("/api/llm/parse-execute", json=body | {"auto_execute_threshold": 7})
    assert (wrong.status_code, wrong.json()["field"]) == (400, "auto_execute_threshold")


def test_the_pool_of_an_agent(http: httpx.Client) -> None:
    vm_id = execute(http, "true", agent_id="pooled").json()["vm_id"]
    pool = http.get("/api/llm/vm-pool/pooled").json()
    assert [each["id"] for each in pool["available_vms"]] == [vm_id]
    assert (pool["in_use_vms"], pool["agent_id"]) == ([], "pooled")
    assert pool["pool_config"]["execution_timeout_ms"] == 30000


@pytest.mark.anyio
async def test_a_vm_that_was_made_becomes_ready_by_itself(http: httpx.Client) -> None:
    made = http.post("/api/vms", json={"vm_type": "focal-optimized", "vm_name": "agent-eve-vm"})
    config = VmExecutionConfig(api_base_url=str(http.base_url))
    assert made.json()["agent_id"] == "eve"

    async with VmExecutionClient(config) as client:
        ready = await client.wait_for_vm_ready(made.json()["id"], 20)
    assert ready.id == made.json()["id"]


@pytest.mark.anyio
async def test_a_client_s_approver_is_asked_by_the_client(server: Server) -> None:
    asked = []

    def approver(question) -> bool:
        asked.append(question.code)
        return "yes" in question.code

    config = VmExecutionConfig(api_base_url=server.url)
    async with VmExecutionClient(config, approver=approver) as client:
        request = VmExecuteRequest(agent_id="asks", language="bash", code=f"{ASKED} yes")
        assert (await client.execute_code(request)).stdout == "ran yes\n"
        with pytest.raises(ApprovalDenied):
            await client.execute_code(request.model_copy(update={"code": f"{ASKED} no"}))
        with pytest.raises(ValidationFailed):
            await client.execute_code(request.model_copy(update={"code": "if"}))
        answer = ParseExecuteRequest(
            agent_id="asks", llm_response="", auto_execute=True, auto_execute_threshold=0.5
        )
        assert (await client.parse_and_execute(answer)).code_blocks == []
        assert (await client.get_vm_pool("asks")).available_vms
    assert asked == [f"{ASKED} yes", f"{ASKED} no"]
    async with VmExecutionClient(config) as client:
        with pytest.raises(ApprovalRequired) as waits:
            await client.execute_code(request)
        assert (await client.get_approval(waits.value.approval_id)).state == "pending"
        await client.answer_approval(waits.value.approval_id, False, "ada", "no")
        assert (await client.list_approvals("denied", "asks"))[0].answered_by == "ada"


def test_on_the_command_line(server: Server, tmp_path) -> None:
    def mulligan(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "mulligan", *arguments, "--server", server.url]
        env = clean_environment()
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=env, check=False
        )

    run = ["run", "--agent", "cli", "-l", "bash", "-c", ASKED]
    waits = mulligan(*run)
    assert (waits.returncode, "Approval required" in waits.stderr) == (125, True)
    (asked,) = json.loads(mulligan("approvals", "ls", "--agent", "cli", "--json").stdout)
    shown = mulligan("approvals", "show", asked["id"]).stdout
    assert ASKED in shown
    assert "bash of agent cli" in shown
    assert mulligan("approvals", "approve", asked["id"]).stdout == f"{asked['id']} approved\n"
    assert mulligan(*run, "--approval", asked["id"]).stdout == "ran\n"
    answer = tmp_path / "answer.md"
    answer.write_text("Run this:\n\n```bash\necho from an answer\n```\n")
    done = mulligan("parse", str(answer), "--execute", "--agent", "cli")
    assert (done.returncode, "from an answer" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/snapshots"),
        ("POST", "/snapshots"),
        ("DELETE", "/snapshots/snap-1"),
        ("POST", "/rollback"),
        ("POST", "/rollback/snap-1"),
        ("POST", "/fork"),
        ("GET", "/diff"),
    ],
)
def test_a_vm_of_another_agent_is_nobody_s(http: httpx.Client, method: str, path: str) -> None:
    vm_id = execute(http, "true", agent_id="alice").json()["vm_id"]
    answer = http.request(method, f"/api/vms/{vm_id}{path}", params={"agent_id": "bob"})
    assert (answer.status_code, list(answer.json()["error"])) == (404, ["VmNotAvailable"])
    assert http.get(f"/api/vms/{vm_id}", params={"agent_id": "alice"}).status_code == 200
