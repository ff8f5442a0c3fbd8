"""One agent's token opens nothing of another's, in whatever place of a request it is named."""

import subprocess
import typing
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute
from pydantic import BaseModel
from starlette.routing import BaseRoute

from mulligan import settings as settings_module
from mulligan.server.app import create_app
from support import mcp_access
from support.access import (
    ASKING,
    MISSING,
    Ask,
    Case,
    Things,
    client_of,
    make_things,
    make_token,
    normal,
    wait_for_status,
)
from support.host import data_directory
from support.server import Server, clean_environment, command


def run(things: Things, **more: object) -> dict[str, object]:
    return {"agent_id": things.agent, "language": "bash", "code": "echo 1"} | more


def of_vm(path: str, **more: object) -> Case:
    """Names a VM in a path."""
    return lambda _, theirs: Ask(path.format(vm=theirs.vm), **more)


def narrowed(path: str, **more: object) -> Case:
    """Asks for one's own as if it were another agent's."""
    return lambda mine, theirs: Ask(
        path.format(**vars(mine)), query={"agent_id": theirs.agent}, **more
    )


SESSION = "/sessions/{name:path}"


def of_session(what: str, **more: object) -> dict[str, Case]:
    """Names a session in a path."""
    path = "/sessions/{session}" + what
    return {
        "path.name": lambda _, o: Ask(path.format(session=o.session), **more),
        "query.agent_id": narrowed(path, **more),
    }


def in_files(route: str, query: dict[str, str] | None = None, **more: object) -> dict[str, Case]:
    """Names a VM whose files are meant."""
    path = f"/api/vms/{{vm}}/files{route}"
    given = query or {}
    return {
        "path.vm_id": lambda _, o: Ask(path.format(vm=o.vm), given, **more),
        "query.agent_id": lambda m, o: Ask(
            path.format(vm=m.vm), given | {"agent_id": o.agent}, **more
        ),
    }


def answer_of(things: Things, **more: object) -> dict[str, object]:
    text = "```bash\necho 1\n```\nRun this."
    return {
        "agent_id": things.agent,
        "llm_response": text,
        "auto_execute": True,
        "auto_execute_threshold": 0.0,
    } | more


EXECUTE: dict[str, Case] = {
    "body.agent_id": lambda _, o: Ask("", body=run(o)),
    "body.vm_id": lambda m, o: Ask("", body=run(m, vm_id=o.vm)),
    "body.approval": lambda m, o: Ask(
        "", body=run(m, vm_id=m.vm, code=ASKING, approval=o.approval), owner=403
    ),
}


FILE = {"path": "f"}  # which ``make_things`` has left in each VM


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "a test", "version": "1"},
    },
}


def at(path: str, cases: dict[str, Case]) -> dict[str, Case]:
    def placed(case: Case) -> Case:
        def place(mine: Things, theirs: Things) -> Ask:
            ask = case(mine, theirs)
            return Ask(path, ask.query, ask.body, ask.status, ask.owner)

        return place

    return {name: placed(case) for name, case in cases.items()}


def in_batch(case: Case) -> Case:
    """The same as one request of a batch, which is answered as a whole even so."""

    def batch(mine: Things, theirs: Things) -> Ask:
        return Ask(
            "/api/llm/execute/batch", body={"requests": [case(mine, theirs).body]}, status=200
        )

    return batch


# By method and path: for each place that names something, a request that has another's there.
TABLE: dict[tuple[str, str], dict[str, Case]] = {
    ("POST", "/api/llm/execute"): at("/api/llm/execute", EXECUTE),
    ("POST", "/api/llm/execute/stream"): at("/api/llm/execute/stream", EXECUTE)
    | {  # what a person is asked is known once it has started
        "body.approval": lambda m, o: Ask(
            "/api/llm/execute/stream",
            body=run(m, vm_id=m.vm, code=ASKING, approval=o.approval),
            status=200,
        )
    },
    ("POST", "/api/llm/execute/batch"): {
        name.replace("body", "body.requests"): in_batch(case) for name, case in EXECUTE.items()
    },
    ("POST", "/api/llm/parse-execute"): {
        "body.agent_id": lambda _, o: Ask("/api/llm/parse-execute", body=answer_of(o)),
        "body.vm_config.vm_id": lambda m, o: Ask(
            "/api/llm/parse-execute", body=answer_of(m, vm_config={"vm_id": o.vm}), status=200
        ),
    },
    ("GET", "/api/llm/vm-pool/{agent_id}"): {
        "path.agent_id": lambda _, o: Ask(f"/api/llm/vm-pool/{o.agent}")
    },
    ("POST", "/api/vms"): {
        "body.agent_id": lambda _, o: Ask("/api/vms", body={"agent_id": o.agent})
    },
    ("GET", "/api/vms"): {"query.agent_id": narrowed("/api/vms")},
    ("GET", "/api/vms/{vm_id}"): {
        "path.vm_id": of_vm("/api/vms/{vm}"),
        "query.agent_id": narrowed("/api/vms/{vm}"),
    },
    ("DELETE", "/api/vms/{vm_id}"): {
        "path.vm_id": of_vm("/api/vms/{vm}"),
        "query.agent_id": narrowed("/api/vms/{vm}"),
    },
    ("POST", "/api/vms/{vm_id}/stop"): {
        "path.vm_id": of_vm("/api/vms/{vm}/stop"),
        "query.agent_id": narrowed("/api/vms/{vm}/stop"),
    },
    ("GET", "/api/vms/{vm_id}/history"): {
        "path.vm_id": of_vm("/api/vms/{vm}/history"),
        "query.agent_id": narrowed("/api/vms/{vm}/history"),
    },
    ("POST", "/api/vms/{vm_id}/snapshots"): {
        "path.vm_id": of_vm("/api/vms/{vm}/snapshots"),
        "query.agent_id": narrowed("/api/vms/{vm}/snapshots"),
    },
    ("GET", "/api/vms/{vm_id}/snapshots"): {
        "path.vm_id": of_vm("/api/vms/{vm}/snapshots"),
        "query.agent_id": narrowed("/api/vms/{vm}/snapshots"),
    },
    ("DELETE", "/api/vms/{vm_id}/snapshots/{snapshot_id}"): {
        "path.vm_id": lambda _, o: Ask(f"/api/vms/{o.vm}/snapshots/{o.snapshot}"),
        "path.snapshot_id": lambda m, o: Ask(f"/api/vms/{m.vm}/snapshots/{o.snapshot}"),
        "query.agent_id": narrowed("/api/vms/{vm}/snapshots/{snapshot}"),
    },
    ("POST", "/api/vms/{vm_id}/rollback"): {
        "path.vm_id": of_vm("/api/vms/{vm}/rollback"),
        "query.agent_id": narrowed("/api/vms/{vm}/rollback"),
        "body.snapshot_id": lambda m, o: Ask(
            f"/api/vms/{m.vm}/rollback", body={"snapshot_id": o.snapshot}
        ),
        "body.execution_id": lambda m, o: Ask(
            f"/api/vms/{m.vm}/rollback", body={"execution_id": o.execution}
        ),
    },
    ("POST", "/api/vms/{vm_id}/rollback/{snapshot_id}"): {
        "path.vm_id": lambda _, o: Ask(f"/api/vms/{o.vm}/rollback/{o.snapshot}"),
        "path.snapshot_id": lambda m, o: Ask(f"/api/vms/{m.vm}/rollback/{o.snapshot}"),
        "query.agent_id": narrowed("/api/vms/{vm}/rollback/{snapshot}"),
    },
    ("POST", "/api/vms/{vm_id}/fork"): {
        "path.vm_id": of_vm("/api/vms/{vm}/fork"),
        "query.agent_id": narrowed("/api/vms/{vm}/fork"),
        "body.snapshot_id": lambda m, o: Ask(
            f"/api/vms/{m.vm}/fork", body={"snapshot_id": o.snapshot}
        ),
        "body.execution_id": lambda m, o: Ask(
            f"/api/vms/{m.vm}/fork", body={"execution_id": o.execution}
        ),
    },
    ("WEBSOCKET", "/api/vms/{vm_id}/terminal"): {  # agents have none, unless a setting allows it
        "path.vm_id": of_vm("/api/vms/{vm}/terminal", owner=403),
        "query.agent_id": narrowed("/api/vms/{vm}/terminal", owner=403),
    },
    ("GET", "/api/vms/{vm_id}/diff"): {
        "path.vm_id": of_vm("/api/vms/{vm}/diff"),
        "query.agent_id": narrowed("/api/vms/{vm}/diff"),
        "query.from": lambda m, o: Ask(f"/api/vms/{m.vm}/diff", {"from": o.snapshot}),
        "query.to": lambda m, o: Ask(f"/api/vms/{m.vm}/diff", {"to": o.snapshot}),
    },
    ("GET", "/api/vms/{vm_id}/files"): in_files("", FILE),
    ("HEAD", "/api/vms/{vm_id}/files"): in_files("", FILE),
    ("PUT", "/api/vms/{vm_id}/files"): in_files("", FILE, body="new"),
    ("DELETE", "/api/vms/{vm_id}/files"): in_files("", FILE),
    ("GET", "/api/vms/{vm_id}/files/list"): in_files("/list"),
    ("GET", "/api/vms/{vm_id}/files/stat"): in_files("/stat", FILE),
    ("POST", "/api/vms/{vm_id}/files/mkdir"): in_files("/mkdir", body={"path": "d"}),
    ("POST", "/api/vms/{vm_id}/files/move"): in_files("/move", body={"source": "f", "target": "g"}),
    # Its tools see the engine as the agent the session is of; tests of their own try them.
    ("GET", "/api/executions/{execution_id}"): {
        "path.execution_id": lambda _, o: Ask(f"/api/executions/{o.execution}"),
        "query.agent_id": narrowed("/api/executions/{execution}"),
    },
    ("GET", "/api/executions/{execution_id}/events"): {
        "path.execution_id": lambda _, o: Ask(f"/api/executions/{o.execution}/events"),
        "query.agent_id": narrowed("/api/executions/{execution}/events"),
    },
    ("POST", "/api/executions/{execution_id}/cancel"): {
        "path.execution_id": lambda _, o: Ask(f"/api/executions/{o.execution}/cancel"),
        "query.agent_id": narrowed("/api/executions/{execution}/cancel"),
    },
    ("DELETE", "/api/packages/{set_id}"): {  # shared by all: not for agents
        "path.set_id": lambda _, o: Ask(f"/api/packages/{'0' * 32}", status=403, owner=403)
    },
    ("GET", "/api/image-jobs/{job_id}"): {
        "path.job_id": lambda _, o: Ask("/api/image-jobs/image-0", status=403, owner=403)
    },
    ("POST", "/api/image-jobs/{job_id}/cancel"): {
        "path.job_id": lambda _, o: Ask("/api/image-jobs/image-0/cancel", status=403, owner=403)
    },
    ("GET", "/api/approvals"): {"query.agent_id": narrowed("/api/approvals")},
    ("GET", "/api/approvals/{approval_id}"): {
        "path.approval_id": lambda _, o: Ask(f"/api/approvals/{o.approval}")
    },
    ("POST", "/api/approvals/{approval_id}"): {  # one's own: not for agents
        "path.approval_id": lambda _, o: Ask(
            f"/api/approvals/{o.approval}", body={"approve": True}, owner=403
        )
    },
    ("POST", "/sessions"): {
        "body.agent_id": lambda _, o: Ask("/sessions", body={"name": "new", "agent_id": o.agent})
    },
    ("GET", "/sessions"): {"query.agent_id": narrowed("/sessions")},
    ("GET", f"{SESSION}/info"): of_session("/info"),
    ("DELETE", SESSION): of_session(""),
    ("POST", f"{SESSION}/execute"): of_session("/execute", body={"command": "true"})
    | {
        "body.approval": lambda m, o: Ask(
            f"/sessions/{m.session}/execute",
            body={"command": ASKING, "approval": o.approval},
            owner=409,
        )
    },
    ("POST", f"{SESSION}/snapshots"): of_session("/snapshots"),
    ("POST", f"{SESSION}/rollback"): {
        "path.name": lambda _, o: Ask(
            f"/sessions/{o.session}/rollback", body={"snapshot_id": o.kept}
        ),
        "query.agent_id": lambda m, o: Ask(
            f"/sessions/{m.session}/rollback", {"agent_id": o.agent}, {"snapshot_id": m.kept}
        ),
        "body.snapshot_id": lambda m, o: Ask(
            f"/sessions/{m.session}/rollback", body={"snapshot_id": o.kept}
        ),
    },
}
TABLE |= {
    ("POST", "/mcp"): {"query.agent_id": narrowed("/mcp", owner=400)} | mcp_access.cases(),
    ("GET", "/mcp"): {"query.agent_id": narrowed("/mcp", owner=400)},
    ("DELETE", "/mcp"): {"query.agent_id": narrowed("/mcp", owner=400)},
}
OF_NOBODY = {  # they show nothing that belongs to an agent
    ("GET", "/health"),
    ("GET", "/api/whoami"),
    ("GET", "/api/packages"),  # shared by all: for administrators alone
    ("POST", "/api/packages"),
    ("GET", "/api/images"),  # shared by all: for administrators alone
    ("POST", "/api/images"),
    ("GET", "/api/images/{image}"),
    ("PUT", "/api/images/{image}"),
    ("DELETE", "/api/images/{image}"),
    ("GET", "/api/image-jobs"),
    ("GET", "/metrics"),  # of all agents together: for administrators alone
    ("GET", "/openapi.json"),
}
ID_NAMES = ("from", "to", "approval")


def all_routes() -> list[BaseRoute]:
    with data_directory() as path:
        return create_app(settings_module.load(data_dir=path)).routes


def key_of(route: BaseRoute) -> tuple[str, str]:
    if isinstance(route, APIWebSocketRoute):
        return "WEBSOCKET", route.path
    methods = set(getattr(route, "methods", None) or ["ANY"]) - {"OPTIONS"}
    if "GET" in methods:  # which Starlette lets HEAD come along with
        methods -= {"HEAD"}
    return "/".join(sorted(methods)), getattr(route, "path", repr(route))


def places_of(route: BaseRoute) -> set[str]:
    """Where a route takes an id, as far as its signature tells."""
    if not isinstance(route, APIRoute | APIWebSocketRoute):
        return set()
    found = {f"path.{each.alias}" for each in route.dependant.path_params}
    found |= {f"query.{each.alias}" for each in route.dependant.query_params}
    models = [
        model
        for each in route.dependant.body_params
        for model in (each.field_info.annotation, *typing.get_args(each.field_info.annotation))
        if isinstance(model, type) and issubclass(model, BaseModel)
    ]
    found |= {f"body.{name}" for model in models for name in model.model_fields}
    return {
        place for place in found if place.endswith("_id") or place.partition(".")[2] in ID_NAMES
    }


@pytest.mark.parametrize("route", all_routes(), ids=lambda route: " ".join(key_of(route)))
def test_every_place_of_every_route_is_in_the_table(route: BaseRoute) -> None:
    key = key_of(route)
    if key in OF_NOBODY:
        assert not places_of(route)
        return
    assert key in TABLE, "a new route: say in TABLE what it answers about another agent's things"
    missing = places_of(route) - set(TABLE[key])
    assert not missing, f"a new place for an id: {missing}"


def test_the_table_has_no_route_that_is_gone() -> None:
    assert set(TABLE) | OF_NOBODY == {key_of(route) for route in all_routes()}


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Server, dict[str, str]]]:
    """A server, and tokens by the name of their agent."""
    with data_directory() as path, Server(path, MULLIGAN_LOG_LEVEL="warning") as server:
        tokens = {name: make_token(path, "--agent", name)["token"] for name in ("ours", "theirs")}
        tokens["admin"] = make_token(path, "--admin")["token"]
        yield server, tokens


@pytest.fixture(scope="module")
def admin(guarded: tuple[Server, dict[str, str]]) -> Iterator[httpx.Client]:
    server, tokens = guarded
    with client_of(server, tokens["admin"]) as client:
        yield client


@pytest.fixture(scope="module")
def clients(guarded: tuple[Server, dict[str, str]]) -> Iterator[dict[str, httpx.Client]]:
    server, tokens = guarded
    with client_of(server, tokens["ours"]) as ours, client_of(server, tokens["theirs"]) as theirs:
        yield {"ours": ours, "theirs": theirs}


@pytest.fixture(scope="module")
def ours(clients: dict[str, httpx.Client]) -> Things:
    return make_things(clients["ours"], "ours")


@pytest.fixture(scope="module")
def kept(clients: dict[str, httpx.Client]) -> Things:
    """Theirs, of which nothing may ever be touched."""
    return make_things(clients["theirs"], "theirs")


def send(client: httpx.Client, method: str, ask: Ask) -> httpx.Response:
    headers = {"Accept": "application/json, text/event-stream"} | dict(ask.headers)
    body = ask.body
    if method == "WEBSOCKET":  # what is refused is answered as any other request is
        method, body = "GET", None
        headers |= {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "bXVsbGlnYW4gYWNjZXNzIQ==",
        }
    return client.request(method, ask.path, params=ask.query, json=body, headers=headers)


CASES = [
    pytest.param(key[0], case, id=f"{key[0]} {key[1]} {name}")
    for key, cases in TABLE.items()
    for name, case in cases.items()
]


@pytest.mark.parametrize(("method", "case"), CASES)
def test_what_is_anothers_is_answered_as_what_is_not_there(
    clients: dict[str, httpx.Client],
    admin: httpx.Client,
    ours: Things,
    kept: Things,
    method: str,
    case: Case,
) -> None:
    ask = case(ours, kept)
    before = state_of(clients["theirs"], kept)
    refused = send(clients["ours"], method, ask)
    absent = send(clients["ours"], method, case(ours, MISSING))
    assert (refused.status_code, absent.status_code) == (ask.status, ask.status), refused.text
    assert normal(refused.text, kept) == normal(absent.text, MISSING)
    differing = {"date", "content-length", "x-execution-id", "x-request-id"}
    assert {k: v for k, v in refused.headers.items() if k not in differing} == {
        k: v for k, v in absent.headers.items() if k not in differing
    }
    assert state_of(clients["theirs"], kept) == before
    # And it is the right request: whoever has the things gets something else.
    own = make_things(clients["theirs"], "theirs")
    done = send(clients["theirs"], method, case(own, own))
    # Only so many questions of an agent may wait.
    admin.post(f"/api/approvals/{own.approval}", json={"approve": False}).raise_for_status()
    if ask.owner is not None:
        assert done.status_code == ask.owner, done.text
    else:
        assert done.is_success, done.text
        assert (done.status_code, done.text) != (refused.status_code, refused.text)


def state_of(theirs: httpx.Client, kept: Things) -> list[str]:
    """All that can be seen of somebody's things."""
    vm = f"/api/vms/{kept.vm}"
    paths = [vm, f"{vm}/history", f"{vm}/snapshots", f"/api/approvals/{kept.approval}"]
    found = [theirs.get(path) for path in paths]
    assert all(each.is_success for each in found)
    return [each.text for each in found]


def test_metrics_are_not_for_agents(clients: dict[str, httpx.Client]) -> None:
    assert [client.get("/metrics").status_code for client in clients.values()] == [403, 403]


def test_lists_have_what_is_ones_own(
    clients: dict[str, httpx.Client], ours: Things, kept: Things
) -> None:
    for path in ("/api/vms", "/api/approvals"):
        for name, client in clients.items():
            assert {each["agent_id"] for each in client.get(path).json()} == {name}


@pytest.mark.parametrize(
    ("route", "token"),
    [
        (key_of(route), token)
        for route in all_routes()
        if key_of(route) != ("GET", "/health")
        for token in ("none", "wrong", "revoked", "expired", "no bearer", "endless")
        if (key_of(route)[0], token) != ("WEBSOCKET", "endless")  # no line of a handshake: a 400
    ],
    ids=str,
)
def test_nobody_gets_in_without_a_good_token(
    guarded: tuple[Server, dict[str, str]], bad: dict[str, str], route: tuple[str, str], token: str
) -> None:
    server, _ = guarded
    method, path = route
    headers = {} if token == "none" else {"Authorization": bad[token]}
    with client_of(server, None) as client:
        client.headers.update(headers)
        answer = send(client, method.partition("/")[0], Ask(path, body={}))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    if method == "HEAD":
        return
    body = answer.json()
    said = "a token is needed" if token == "none" else "this token is not good here"
    assert body["message"] == f"API error: {said}"
    assert "mulligan token create" in body["remedy"]


@pytest.fixture(scope="module")
def bad(guarded: tuple[Server, dict[str, str]]) -> dict[str, str]:
    """Headers that are no good, by what is wrong with them."""
    server, tokens = guarded
    directory: Path = server.data_dir
    revoked = make_token(directory, "--agent", "ours")
    expired = make_token(directory, "--agent", "ours", "--expires", "1s")
    subprocess.run(
        command("token", "revoke", revoked["id"], "--data-dir", str(directory)),
        check=True,
        capture_output=True,
        env=clean_environment(),
    )
    for token in (revoked, expired):
        wait_for_status(server, token["token"], 401)
    return {
        "wrong": "Bearer mlg_" + "A" * 54,
        "revoked": f"Bearer {revoked['token']}",
        "expired": f"Bearer {expired['token']}",
        "no bearer": f"Basic {tokens['ours']}",
        "endless": "Bearer " + "A" * 20_000,
    }
