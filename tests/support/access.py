"""Agents with tokens, what each of them has, and every way to name what is another's."""

import itertools
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from support.host import wait_until
from support.server import Server, clean_environment, command


def make_token(data_dir: Path, *arguments: str) -> dict[str, Any]:
    """What ``mulligan token create --json`` prints."""
    done = subprocess.run(
        command("token", "create", "--json", "--data-dir", str(data_dir), *arguments),
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(),
    )
    return json.loads(done.stdout)


@contextmanager
def client_of(server: Server, token: str | None) -> Iterator[httpx.Client]:
    """A client that shows a token."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False, headers=headers) as client:
        yield client


@dataclass(frozen=True)
class Things:
    """Ids of what an agent has, one of each kind."""

    agent: str
    vm: str
    execution: str
    snapshot: str
    approval: str
    session: str
    kept: str
    """A snapshot of the session."""


MISSING = Things(
    "agent-of-nobody",
    "vm-" + "0" * 16,
    "exec-" + "0" * 16,
    "snap-" + "0" * 16,
    "approval-" + "0" * 16,
    "session-none",
    "snap-" + "1" * 16,
)
_numbers = itertools.count(1)
ASKING = "git clean -fdx"  # a gate wants a person asked about it


def make_things(client: httpx.Client, agent: str) -> Things:
    """A VM of an agent in which something has run, and what came of that."""
    vm = client.post("/api/vms", json={"agent_id": agent}).json()["id"]
    run = {"agent_id": agent, "vm_id": vm, "language": "bash"}
    ran = client.post("/api/llm/execute", json=run | {"code": "date > f"})
    assert ran.status_code == 200, ran.text
    kept = client.post(f"/api/vms/{vm}/snapshots", json={"name": "mine"})
    asked = client.post("/api/llm/execute", json=run | {"code": ASKING}).json()
    assert "ApprovalRequired" in asked["error"], asked
    approval = asked["error"]["ApprovalRequired"].partition(":")[0]
    session = f"session-{next(_numbers)}"
    client.post("/sessions", json={"name": session, "agent_id": agent})
    state = client.post(f"/sessions/{session}/snapshots").json()["snapshot_id"]
    execution = ran.json()["execution_id"]
    return Things(agent, vm, execution, kept.json()["id"], approval, session, state)


@dataclass(frozen=True)
class Ask:
    """A request."""

    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    status: int = 404
    """Of the answer to whoever names what is not his, or is not there."""
    owner: int | None = None
    """Of the answer to whoever has it; None: any that is no error."""
    headers: dict[str, str] = field(default_factory=dict)


Case = Callable[[Things, Things], Ask]
"""What an agent asks for that has the first things, and names the second in one place."""


def normal(text: str, things: Things) -> str:
    """An answer in which ids are those of ``MISSING``, and nothing is of one request alone."""
    for name, value in asdict(things).items():
        text = text.replace(value, asdict(MISSING)[name])
    return re.sub('"request_id":"[^"]*"|exec-[0-9a-f]{16}', "", text)


def wait_for_status(server: Server, token: str, status: int) -> None:
    """Returns when a token is answered so; a server looks for changes every half second."""
    with client_of(server, token) as client:
        assert wait_until(lambda: client.get("/api/vms").status_code == status, 10), status
