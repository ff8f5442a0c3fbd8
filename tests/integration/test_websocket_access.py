"""A WebSocket is let in as any other request is: by name, origin and token, and written down."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket

from mulligan.history.tokens import open_tokens
from mulligan.server.access import CallerDependency
from mulligan.server.app import create_app
from mulligan.settings import Settings

pytestmark = pytest.mark.anyio
PATH = "/echo/vm-1"


@pytest.fixture
def tokens(settings: Settings) -> dict[str, str]:
    """A good token of agent a, and a revoked one."""
    with open_tokens(settings.data_dir / "history") as store:
        revoked, of_revoked = store.create("a")
        store.revoke(revoked.id)
        return {"good": store.create("a")[1], "revoked": of_revoked}


@pytest.fixture
async def app(settings: Settings, tokens: dict[str, str]) -> AsyncIterator[FastAPI]:
    made = create_app(settings)

    @made.websocket("/echo/{vm_id}")
    async def echo(socket: WebSocket, caller: CallerDependency) -> None:
        await socket.accept()
        await socket.send_text(f"{caller.kind} {caller.agent()}")
        await socket.close()

    async with made.router.lifespan_context(made):
        yield made


async def connected(
    app: FastAPI, headers: dict[str, str], *, denies: bool = True
) -> list[dict[str, Any]]:
    """What a server would be told to send to a client that wants a WebSocket.

    Args:
        app: the application.
        headers: of the request.
        denies: whether the server can answer a refused one with more than a status.
    """
    sent: list[dict[str, Any]] = []
    given = {"host": "localhost"} | {name.lower(): value for name, value in headers.items()}
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "scheme": "ws",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8080),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}} if denies else {},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def last_audited(settings: Settings) -> dict[str, Any]:
    return json.loads((settings.data_dir / "audit.jsonl").read_text().splitlines()[-1])


async def test_with_a_token(app: FastAPI, tokens: dict[str, str], settings: Settings) -> None:
    headers = {"Authorization": f"Bearer {tokens['good']}", "X-Request-Id": "mine"}
    accepted, text, closed = await connected(app, headers)
    assert accepted["type"] == "websocket.accept"
    assert (b"x-request-id", b"mine") in accepted["headers"]
    assert (text["text"], closed["type"]) == ("agent a", "websocket.close")
    entry = last_audited(settings)
    assert (entry["method"], entry["route"]) == ("WEBSOCKET", "/echo/{vm_id}")
    assert (entry["status"], entry["agent"], entry["ids"]) == (101, "a", {"vm_id": "vm-1"})


REFUSED = [
    ({}, 401),
    ({"Authorization": "Bearer mlg_wrong"}, 401),
    ({"Authorization": "Bearer {revoked}"}, 401),
    ({"Authorization": "Bearer {good}", "Host": "evil.example"}, 403),
    ({"Authorization": "Bearer {good}", "Origin": "https://evil.example"}, 403),
]


@pytest.mark.parametrize(("headers", "status"), REFUSED)
async def test_without(
    app: FastAPI,
    tokens: dict[str, str],
    settings: Settings,
    headers: dict[str, str],
    status: int,
) -> None:
    given = {name: value.format(**tokens) for name, value in headers.items()}
    start, *pieces = await connected(app, given)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
    body = json.loads(b"".join(piece["body"] for piece in pieces))
    assert (b"x-request-id", body["request_id"].encode()) in start["headers"]
    entry = last_audited(settings)
    assert (entry["route"], entry["status"], entry["who"]) == ("/echo/{vm_id}", status, None)
    assert await connected(app, given, denies=False) == [{"type": "websocket.close", "code": 1008}]
    assert last_audited(settings)["status"] == 403  # what servers make of that
