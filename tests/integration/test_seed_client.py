"""Every request of the Rust client the wire format comes from, and what it reads of each answer.

The client is crates/terraphim_multi_agent/src/vm_execution of github.com/terraphim/terraphim-ai:
``client.rs``, ``fcctl_bridge.rs`` and ``session_adapter.rs``, the structs in ``models.rs``. A class
here stands for each file, a method for each of its methods that asks a server. They send the bytes
that reqwest and serde_json would, and read answers under the rules of ``support.serde``.
"""

import itertools
from urllib.parse import urlencode

import httpx
import pytest

from support.host import wait_until
from support.serde import (
    I32,
    U32,
    U64,
    Bool,
    Option,
    Rule,
    String,
    Usize,
    anything,
    f64,
    json_macro,
    struct,
    time,
    vec,
    written,
)

# models.rs: the structs the client reads.
HISTORY_CONFIG = struct(
    enabled=Bool,
    snapshot_on_execution=Bool,
    snapshot_on_failure=Bool,
    auto_rollback_on_failure=Bool,
    max_history_entries=Usize,
    persist_history=Bool,
    integration_mode=String,
)
VM_EXECUTION_CONFIG = struct(
    enabled=Bool,
    api_base_url=String,
    vm_pool_size=U32,
    default_vm_type=String,
    execution_timeout_ms=U64,
    allowed_languages=vec(String),
    auto_provision=Bool,
    code_validation=Bool,
    max_code_length=Usize,
    history=Option(HISTORY_CONFIG, null=False),
)
CODE_BLOCK = struct(
    language=String,
    code=String,
    execution_confidence=f64,
    start_pos=Usize,
    end_pos=Usize,
    metadata=Option(anything),
)
VM_EXECUTE_RESPONSE = struct(
    execution_id=String,
    vm_id=String,
    exit_code=I32,
    stdout=String,
    stderr=String,
    duration_ms=U64,
    started_at=time,
    completed_at=time,
    error=Option(String),
)
PARSE_EXECUTE_RESPONSE = struct(
    code_blocks=vec(CODE_BLOCK), execution_results=vec(VM_EXECUTE_RESPONSE), errors=vec(String)
)
VM_INSTANCE = struct(
    id=String,
    name=String,
    vm_type=String,
    status=String,
    ip_address=Option(String),
    created_at=time,
    last_activity=Option(time),
)
VM_POOL_RESPONSE = struct(
    agent_id=String,
    available_vms=vec(VM_INSTANCE),
    in_use_vms=vec(VM_INSTANCE),
    pool_config=VM_EXECUTION_CONFIG,
)
COMMAND_HISTORY_ENTRY = struct(
    id=String,
    vm_id=String,
    agent_id=String,
    command=String,
    language=String,
    snapshot_id=Option(String),
    success=Bool,
    exit_code=I32,
    stdout=String,
    stderr=String,
    executed_at=time,
    duration_ms=U64,
)
U64_MAX = 2**64 - 1
JSON = {"Content-Type": "application/json"}
_numbers = itertools.count(1700000000)


class ApiError(Exception):
    """What the client makes of an answer that is no success: its status and its text."""


def success(response: httpx.Response) -> httpx.Response:
    """``response.status().is_success()``"""
    if not response.is_success:
        raise ApiError(f"HTTP {response.status_code}: {response.text}")
    return response


def read(rule: Rule, response: httpx.Response) -> dict:
    """``response.json::<T>()``"""
    found = success(response).json()
    rule(found, "")
    return found


class Client:
    """``client.rs``"""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def execute_code(self, agent_id: str, language: str, code: str, **options: object) -> dict:
        body = {
            "agent_id": agent_id,
            "language": language,
            "code": code,
            "vm_id": None,
            "requirements": [],
            "timeout_seconds": 30,
            "working_dir": None,
            "metadata": None,
        }
        content = written(**body | options)
        response = self.http.post("/api/llm/execute", content=content, headers=JSON)
        return read(VM_EXECUTE_RESPONSE, response)

    def parse_and_execute(self, agent_id: str, llm_response: str, **options: object) -> dict:
        body = {
            "agent_id": agent_id,
            "llm_response": llm_response,
            "auto_execute": True,
            "auto_execute_threshold": 0.7,
            "vm_config": None,
        }
        content = written(**body | options)
        response = self.http.post("/api/llm/parse-execute", content=content, headers=JSON)
        return read(PARSE_EXECUTE_RESPONSE, response)

    def get_vm_pool(self, agent_id: str) -> dict:
        return read(VM_POOL_RESPONSE, self.http.get(f"/api/llm/vm-pool/{agent_id}"))

    def provision_vm(self, agent_id: str, vm_type: str = "focal-optimized") -> dict:
        content = json_macro({"vm_type": vm_type, "vm_name": f"agent-{agent_id}-vm"})
        made = success(self.http.post("/api/vms", content=content, headers=JSON)).json()
        for field in ("id", "name", "vm_type", "status"):  # else it takes "" or "unknown"
            String(made[field], field)
        return made

    def wait_for_vm_ready(self, vm_id: str) -> dict:
        found: dict = {}

        def ready() -> bool:
            response = self.http.get(f"/api/vms/{vm_id}")
            found.update(response.json() if response.is_success else {})
            return found.get("status", "unknown") in ("running", "ready")

        assert wait_until(ready, 30), found
        assert found["ip_address"] is None or isinstance(found["ip_address"], str)
        return found

    def health_check(self) -> bool:
        return self.http.get("/health").is_success


class Bridge:
    """``fcctl_bridge.rs`` with ``integration_mode`` "http"."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def create_snapshot_http(self, vm_id: str, agent_id: str) -> str:
        body = {
            "name": f"agent-{agent_id}-{next(_numbers)}",
            "description": f"Auto-created snapshot for agent {agent_id}",
        }
        url = f"/api/vms/{vm_id}/snapshots"
        made = success(self.http.post(url, content=json_macro(body), headers=JSON)).json()
        found = made.get("snapshot_id", made.get("id"))
        String(found, "snapshot_id")
        return found

    def query_history_http(
        self, vm_id: str, limit: int | None = None, failures_only: bool = False
    ) -> tuple[list[dict], int]:
        query = urlencode(
            {
                "limit": 100 if limit is None else limit,
                "failures_only": str(failures_only).lower(),
            }
        )
        found = success(self.http.get(f"/api/vms/{vm_id}/history?{query}")).json()
        entries = found.get("history", found.get("entries"))
        # The client passes over an entry it cannot read; none may be lost so.
        vec(COMMAND_HISTORY_ENTRY)(entries, "entries")
        U64(found["total"], "total")
        return entries, found["total"]

    def rollback_http(self, vm_id: str, snapshot_id: str) -> None:
        success(self.http.post(f"/api/vms/{vm_id}/rollback/{snapshot_id}"))


class Adapter:
    """``session_adapter.rs``"""

    def __init__(self, http: httpx.Client, agent_id: str, vm_type: str = "ubuntu") -> None:
        self.http = http
        self.session_name = f"agent-{agent_id}-{next(_numbers)}"
        body = {"name": self.session_name, "vm_type": vm_type, "memory_mb": 2048, "vcpus": 2}
        success(http.post("/sessions", content=json_macro(body), headers=JSON))

    def _post(self, what: str, body: dict[str, object]) -> dict:
        url = f"/sessions/{self.session_name}/{what}"
        return success(self.http.post(url, content=json_macro(body), headers=JSON)).json()

    def execute_command_direct(self, command: str) -> tuple[str, int]:
        result = self._post("execute", {"command": command})
        String(result["output"], "output")  # else it takes ""
        I32(result["exit_code"], "exit_code")  # else it takes 1
        return result["output"], result["exit_code"]

    def create_snapshot_direct(self, name: str) -> str:
        result = self._post("snapshots", {"name": name})
        String(result["snapshot_id"], "snapshot_id")
        return result["snapshot_id"]

    def rollback_direct(self, snapshot_id: str) -> None:
        self._post("rollback", {"snapshot_id": snapshot_id})

    def get_connection_info(self) -> str:
        return success(self.http.get(f"/sessions/{self.session_name}/info")).text

    def close_session(self) -> None:
        success(self.http.delete(f"/sessions/{self.session_name}"))


@pytest.fixture
def client(http: httpx.Client) -> Client:
    return Client(http)


@pytest.fixture
def bridge(http: httpx.Client) -> Bridge:
    return Bridge(http)


def test_execute_code(client: Client) -> None:
    assert client.execute_code("seed", "python", "print(6 * 7)")["stdout"] == "42\n"
    vm = client.provision_vm("other")
    done = client.execute_code(
        "other",
        "bash",
        "pwd; exit 3",
        vm_id=vm["id"],
        working_dir="/tmp",
        timeout_seconds=None,
        metadata={"task": 5, "deep": [None, {"a": 1.5}]},
    )
    assert (done["vm_id"], done["exit_code"], done["stdout"]) == (vm["id"], 3, "/tmp\n")


@pytest.mark.parametrize(
    ("language", "code"),
    [("python", "print('hi')"), ("javascript", "console.log('hi')"), ("bash", "echo hi")],
)
def test_convenience_methods(client: Client, language: str, code: str) -> None:
    if language not in client.http.get("/health").json()["languages"]:
        pytest.skip(f"this host has no {language}")
    assert client.execute_code("seed", language, code)["stdout"] == "hi\n"


def test_what_a_program_may_give_is_read(client: Client) -> None:
    odd = "import sys; sys.stdout.buffer.write(bytes(range(256))); sys.exit(255)"
    done = client.execute_code("seed", "python", odd)
    assert (done["exit_code"], done["stdout"][:2]) == (255, "\0\x01")
    killed = client.execute_code("seed", "bash", "kill -9 $$")
    assert killed["exit_code"] == 137
    late = client.execute_code("seed", "bash", "sleep 60", timeout_seconds=1)
    assert "timeout" in late["error"].lower()


@pytest.mark.parametrize(
    ("options", "variant"),
    [
        ({"language": "cobol"}, "UnsupportedLanguage"),
        ({"code": ""}, "ValidationFailed"),
        ({"vm_id": "vm-none"}, "VmNotAvailable"),
        ({"timeout_seconds": U64_MAX}, "ValidationFailed"),
        ({"timeout_seconds": 0}, "ValidationFailed"),
        ({"requirements": ["-r other.txt"]}, "ValidationFailed"),
    ],
)
def test_refusals_say_why(client: Client, options: dict[str, object], variant: str) -> None:
    """The client shows "HTTP <status>: <text>"; the text is the enum's JSON and words."""
    given = {"language": "python", "code": "print(1)"} | options
    with pytest.raises(ApiError, match=variant):
        client.execute_code("seed", given.pop("language"), given.pop("code"), **given)


def test_parse_and_execute(client: Client) -> None:
    text = "I will run this now:\n\n```python\nprint('é' * 3)\n```\n"
    found = client.parse_and_execute("seed", text, auto_execute_threshold=0.0)
    assert [each["stdout"] for each in found["execution_results"]] == ["ééé\n"]
    # Positions count characters; where Rust's str needs bytes, they are beside them.
    block = found["code_blocks"][0]
    start, end = (block["metadata"][name] for name in ("start_byte", "end_byte"))
    assert "print" in text.encode()[start:end].decode()
    shown = client.parse_and_execute("seed", text, auto_execute=False)
    assert (len(shown["code_blocks"]), shown["execution_results"]) == (1, [])
    for threshold in (0.0, 1.0):
        client.parse_and_execute("seed", "no code", auto_execute_threshold=threshold)


def test_vm_pool(client: Client) -> None:
    assert client.get_vm_pool("pool")["available_vms"] == []
    made = client.provision_vm("pool")
    pool = client.get_vm_pool("pool")
    assert [each["id"] for each in pool["available_vms"] + pool["in_use_vms"]] == [made["id"]]
    assert pool["agent_id"] == "pool"


def test_provision_and_wait(client: Client) -> None:
    made = client.provision_vm("waits")
    assert (made["name"], made["vm_type"]) == ("agent-waits-vm", "focal-optimized")
    assert client.wait_for_vm_ready(made["id"])["id"] == made["id"]
    # The agent's executions go there, though the request named no agent.
    assert client.execute_code("waits", "bash", "true")["vm_id"] == made["id"]


def test_health_check(client: Client) -> None:
    assert client.health_check()


def test_track_execution_and_rollback(client: Client, bridge: Bridge) -> None:
    """``track_execution``, ``auto_rollback_on_failure`` and ``rollback_to_last_success``."""
    done = client.execute_code("tracked", "bash", "echo good > state")
    good = bridge.create_snapshot_http(done["vm_id"], "tracked")
    failed = client.execute_code("tracked", "bash", "echo bad > state; exit 1")
    assert failed["exit_code"] == 1
    pre_rollback = bridge.create_snapshot_http(done["vm_id"], "pre-rollback")
    bridge.rollback_http(done["vm_id"], good)
    assert client.execute_code("tracked", "bash", "cat state")["stdout"] == "good\n"
    bridge.rollback_http(done["vm_id"], pre_rollback)
    assert client.execute_code("tracked", "bash", "cat state")["stdout"] == "bad\n"
    with pytest.raises(ApiError, match=r"HTTP 404.*SnapshotNotFound"):
        bridge.rollback_http(done["vm_id"], "snap-none")


def test_query_history(client: Client, bridge: Bridge) -> None:
    for code in ("echo 1", "exit 2", "sleep 60"):
        done = client.execute_code("asks", "bash", code, timeout_seconds=1)
    with pytest.raises(ApiError):
        client.execute_code("asks", "bash", "rm -rf /")  # refused, and in the history
    entries, total = bridge.query_history_http(done["vm_id"])
    assert total == len(entries) == 4
    failures, count = bridge.query_history_http(done["vm_id"], failures_only=True)
    assert [each["success"] for each in failures] == [False] * count
    assert len(bridge.query_history_http(done["vm_id"], limit=1)[0]) == 1
    assert bridge.query_history_http(done["vm_id"], limit=0) == ([], 4)
    assert bridge.query_history_http(done["vm_id"], limit=U64_MAX)[1] == 4
    with pytest.raises(ApiError, match="HTTP 404"):
        bridge.query_history_http("vm-none")


@pytest.mark.parametrize("agent_id", ["direct", "org/team:7", "a-1"])
def test_sessions(http: httpx.Client, agent_id: str) -> None:
    adapter = Adapter(http, agent_id)
    assert adapter.execute_command_direct("cd /tmp && x=1") == ("", 0)
    assert adapter.execute_command_direct("echo $PWD $x; exit 4") == ("/tmp 1\n", 4)
    snapshot_id = adapter.create_snapshot_direct(f"agent-{agent_id}-{next(_numbers)}")
    adapter.execute_command_direct("cd /; x=2")
    adapter.rollback_direct(snapshot_id)
    assert adapter.execute_command_direct("echo $PWD $x") == ("/tmp 1\n", 0)
    assert adapter.session_name in adapter.get_connection_info()
    adapter.close_session()
    with pytest.raises(ApiError, match="SessionNotFound"):
        adapter.get_connection_info()


def test_a_token_nobody_asked_for_is_no_harm(client: Client) -> None:
    """``with_auth_token`` against a server on a loopback address that has no tokens."""
    client.http.headers["Authorization"] = "Bearer anything"
    assert client.health_check()
    assert client.execute_code("seed", "bash", "echo hi")["stdout"] == "hi\n"
