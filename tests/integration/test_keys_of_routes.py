"""Every route that changes something takes an Idempotency-Key, and does what it does once."""

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from mulligan import settings as settings_module
from mulligan.images.store import ImageRecord, store_of
from mulligan.models import utc_now
from mulligan.server.app import create_app
from mulligan.server.once import NAME
from support import packages
from support.host import data_directory
from support.images import small_root

pytestmark = pytest.mark.anyio
CHANGES = {"POST", "PUT", "PATCH", "DELETE"}
# A protocol of its own, whose requests have ids of their own: docs/http-api.md says so.
OTHERS = {("POST", "/mcp"), ("DELETE", "/mcp")}
RUN = {"agent_id": "a", "language": "bash", "code": "date +%N >> log; cat log"}
ASKING = "git clean -fdx"


@dataclass
class Case:
    """A request, sent anew each time it is called for.

    Attributes:
        path: where to.
        body: JSON, or bytes.
        again: in its place when it is another request.
        status: of the first answer.
    """

    path: str
    body: object = None
    again: object = None
    status: int = 200


@dataclass
class Place:
    """An application in this process, and a way to ask it."""

    app: FastAPI
    http: httpx.AsyncClient

    async def vm(self) -> str:
        made = await self.http.post("/api/vms", json={"agent_id": "a"})
        return made.json()["id"]

    async def session(self) -> str:
        name = f"s-{uuid.uuid4().hex[:8]}"
        await self.http.post("/sessions", json={"name": name, "agent_id": "a"})
        return name

    async def kept(self, path: str) -> str:
        answer = (await self.http.post(f"{path}/snapshots")).json()
        return answer.get("id") or answer["snapshot_id"]

    async def approval(self) -> str:
        asked = (await self.http.post("/api/llm/execute", json=RUN | {"code": ASKING})).json()
        return asked["error"]["ApprovalRequired"].partition(":")[0]

    async def wrote(self, vm: str) -> str:
        path = f"/api/vms/{vm}/files"
        (await self.http.put(path, params={"path": "f"}, content=b"1")).raise_for_status()
        return path

    def image(self) -> str:
        store = store_of(self.app.state.engine.settings)
        digest = f"sha256:{uuid.uuid4().hex * 2}"
        tree = store.work / uuid.uuid4().hex / "tree"
        tree.mkdir(parents=True)
        fields = {"kind": "tar", "source": "a test", "programs": {}, "search": [], "env": {}}
        size = {"entries": 0, "bytes": 0, "shell": "/bin/sh", "machine": "x"}
        record = ImageRecord(digest=digest, created_at=utc_now(), **fields, **size)
        store.add("gone", record, tree)
        tree.parent.rmdir()
        return "gone"


Make = Callable[[Place], Awaitable[Case]]
TABLE: dict[tuple[str, str], Make] = {}


def case(method: str, path: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        TABLE[method, path] = make
        return make

    return add


def of_vm(what: str, body: object = None, again: object = None, status: int = 200) -> Make:
    async def make(place: Place) -> Case:
        return Case(f"/api/vms/{await place.vm()}{what}", body, again, status)

    return make


ONE = "/sessions/{name:path}"
VM = "/api/vms/{vm_id}"
TEXT = "Run this:\n\n```bash\necho 1\n```\n"
ANSWER = {
    "agent_id": "a",
    "llm_response": TEXT,
    "auto_execute": True,
    "auto_execute_threshold": 0.0,
}


def fixed(*fields: object, status: int = 200) -> Make:
    async def make(_: Place) -> Case:
        return Case(*fields, status=status)  # type: ignore[arg-type]

    return make


WARM = {"requirements": ["library"]}
OTHER = RUN | {"code": "echo other"}
TABLE |= {
    ("POST", "/api/llm/execute"): fixed("/api/llm/execute", RUN, OTHER),
    ("POST", "/api/llm/execute/stream"): fixed("/api/llm/execute/stream", RUN, OTHER),
    ("POST", "/api/llm/execute/batch"): fixed(
        "/api/llm/execute/batch", {"requests": [RUN]}, {"requests": [OTHER]}
    ),
    ("POST", "/api/llm/parse-execute"): fixed(
        "/api/llm/parse-execute", ANSWER, ANSWER | {"llm_response": TEXT + "."}
    ),
    ("POST", "/api/vms"): fixed(
        "/api/vms", {"agent_id": "a"}, {"agent_id": "a", "disk_mb": 9}, status=201
    ),
    ("POST", f"{VM}/stop"): of_vm("/stop"),
    ("DELETE", VM): of_vm("", status=204),
    ("POST", f"{VM}/snapshots"): of_vm("/snapshots", {"name": "a"}, {"name": "b"}, 201),
    ("POST", f"{VM}/fork"): of_vm("/fork", {"count": 1}, {"count": 2}, 201),
    ("POST", f"{VM}/files/mkdir"): of_vm("/files/mkdir", {"path": "d"}, {"path": "e"}),
    ("PUT", f"{VM}/files"): of_vm("/files?path=f", b"one", b"two"),
    ("POST", "/sessions"): fixed(
        "/sessions", {"name": "one", "agent_id": "a"}, {"name": "two", "agent_id": "a"}, status=201
    ),
    ("POST", "/api/images"): fixed(
        "/api/images", {"name": "b"}, {"name": "b", "packages": ["jq"]}, status=202
    ),
    ("POST", "/api/packages"): fixed("/api/packages", WARM, WARM | {"refresh": True}),
}


@case("POST", f"{VM}/rollback")
async def _(place: Place) -> Case:
    path = f"/api/vms/{await place.vm()}"
    return Case(f"{path}/rollback", {"snapshot_id": await place.kept(path)}, {})


@case("POST", f"{VM}/rollback/{{snapshot_id}}")
async def _(place: Place) -> Case:
    path = f"/api/vms/{await place.vm()}"
    return Case(f"{path}/rollback/{await place.kept(path)}")


@case("DELETE", f"{VM}/snapshots/{{snapshot_id}}")
async def _(place: Place) -> Case:
    path = f"/api/vms/{await place.vm()}"
    return Case(f"{path}/snapshots/{await place.kept(path)}", status=204)


@case("POST", f"{VM}/files/move")
async def _(place: Place) -> Case:
    path = await place.wrote(await place.vm())
    return Case(f"{path}/move", {"source": "f", "target": "g"}, {"source": "f", "target": "h"})


@case("DELETE", f"{VM}/files")
async def _(place: Place) -> Case:
    return Case(f"{await place.wrote(await place.vm())}?path=f")


@case("POST", "/api/executions/{execution_id}/cancel")
async def _(place: Place) -> Case:
    ran = (await place.http.post("/api/llm/execute", json=RUN)).json()
    return Case(f"/api/executions/{ran['execution_id']}/cancel")


@case("POST", "/api/approvals/{approval_id}")
async def _(place: Place) -> Case:
    path = f"/api/approvals/{await place.approval()}"
    return Case(path, {"approve": True}, {"approve": False})


@case("DELETE", ONE)
async def _(place: Place) -> Case:
    return Case(f"/sessions/{await place.session()}", status=204)


@case("POST", f"{ONE}/execute")
async def _(place: Place) -> Case:
    path = f"/sessions/{await place.session()}/execute"
    return Case(path, {"command": "date +%N"}, {"command": "true"})


@case("POST", f"{ONE}/snapshots")
async def _(place: Place) -> Case:
    path = f"/sessions/{await place.session()}/snapshots"
    return Case(path, {"name": "a"}, {"name": "b"}, 201)


@case("POST", f"{ONE}/rollback")
async def _(place: Place) -> Case:
    path = f"/sessions/{await place.session()}"
    return Case(f"{path}/rollback", {"snapshot_id": await place.kept(path)}, {"snapshot_id": "x"})


@case("DELETE", "/api/images/{image}")
async def _(place: Place) -> Case:
    return Case(f"/api/images/{place.image()}", status=204)


@case("PUT", "/api/images/{image}")
async def _(_: Place) -> Case:
    return Case("/api/images/small", small_root(), b"something else", 202)


@case("POST", "/api/image-jobs/{job_id}/cancel")
async def _(place: Place) -> Case:
    job = (await place.http.put("/api/images/stopped", content=small_root())).json()
    return Case(f"/api/image-jobs/{job['id']}/cancel")


@case("DELETE", "/api/packages/{set_id}")
async def _(place: Place) -> Case:
    made = (await place.http.post("/api/packages", json=WARM)).json()
    return Case(f"/api/packages/{made['id']}", status=204)


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """An index of packages, and a mmdebstrap that makes nothing."""
    program = tmp_path / "bin" / "mmdebstrap"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "index").mkdir()
    packages.wheel(tmp_path / "index", "library")
    with packages.index(tmp_path / "index") as served:
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", served.simple)
        yield


@pytest.fixture
async def place(around: None, data_dir: Path) -> AsyncIterator[Place]:
    app = create_app(settings_module.load(data_dir=data_dir, vm_pool_size=0))
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(base_url="http://localhost", transport=transport, timeout=60) as http,
    ):
        yield Place(app, http)


def changing() -> dict[tuple[str, str], APIRoute]:
    """The routes that change something."""
    with data_directory() as path:
        routes = create_app(settings_module.load(data_dir=path)).routes
    return {
        (method, route.path): route
        for route in routes
        if isinstance(route, APIRoute)
        for method in (route.methods or set()) & CHANGES
        if (method, route.path) not in OTHERS
    }


def headers_of(route: APIRoute) -> set[str]:
    """The headers a route takes, its dependencies' too."""
    found, left = set(), [route.dependant]
    while left:
        each = left.pop()
        found |= {header.alias for header in each.header_params}
        left += each.dependencies
    return found


def test_every_route_that_changes_something_takes_a_key() -> None:
    without = [key for key, route in changing().items() if NAME not in headers_of(route)]
    assert not without, "give it a KeyDependency (server/once.py), or say in OTHERS why not"


def test_every_such_route_is_in_the_table() -> None:
    assert set(TABLE) == set(changing()), "a new route: say in TABLE how it is asked"


@pytest.mark.long
async def test_each_is_done_once(place: Place) -> None:
    for (method, route), make in TABLE.items():
        case = await make(place)
        key = {NAME: str(uuid.uuid4())}

        async def send(body: object, method=method, case=case, key=key) -> httpx.Response:
            given = {"content": body} if isinstance(body, bytes) else {"json": body}
            return await place.http.request(method, case.path, headers=key, **given)

        first, again = await send(case.body), await send(case.body)
        assert first.status_code == case.status, (method, route, first.text)
        assert (again.status_code, again.content) == (case.status, first.content), route
        assert again.headers.get("idempotent-replayed") == "true", (method, route)
        assert "idempotent-replayed" not in first.headers
        if case.again is not None:
            other = await send(case.again)
            assert (other.status_code, *other.json()["error"]) == (409, "IdempotencyKeyReused")
