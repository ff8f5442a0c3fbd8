"""What a web page may not drive: requests and WebSockets of other names and origins."""

import json
from typing import Any

import pytest
from starlette.types import Message

from mulligan.server.limits import LocalOnly

pytestmark = pytest.mark.anyio
DENIAL = "websocket.http.response"

WRONG = [
    ("a page of another origin", "127.0.0.1:8080", "http://evil.example"),
    ("a page that was opened from a file", "127.0.0.1:8080", "null"),
    ("a name that leads here", "evil.example:8080", None),
    ("a name that begins like ours", "localhost.evil.example", None),
    ("no name", "", None),
    ("no URL", "[::1", None),
]
RIGHT = [
    ("a program", "127.0.0.1:8080", None),
    ("by name", "localhost:8080", None),
    ("IPv6", "[::1]:8080", None),
    ("a page of this machine", "localhost:8080", "http://localhost:3000"),
]


async def ask(kind: str, host: str, origin: str | None, *, denial: bool = True) -> list[Message]:
    """What a server is told to send; an empty list where the application was reached."""
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    scope: dict[str, Any] = {"type": kind, "headers": headers, "method": "GET", "path": "/"}
    if denial:
        scope["extensions"] = {DENIAL: {}}
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": f"{kind}.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def behind(*_: object) -> None:
        return None

    await LocalOnly(behind, "127.0.0.1")(scope, receive, send)
    return sent


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(("host", "origin"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG])
async def test_what_is_of_elsewhere_is_refused(kind: str, host: str, origin: str | None) -> None:
    start, body = await ask(kind, host, origin)
    prefix = "websocket." if kind == "websocket" else ""
    assert start["type"] == f"{prefix}http.response.start"
    assert start["status"] == 403
    assert json.loads(body["body"])["field"] in ("Host", "Origin")


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(("host", "origin"), [row[1:] for row in RIGHT], ids=[r[0] for r in RIGHT])
async def test_what_is_of_here_is_let_in(kind: str, host: str, origin: str | None) -> None:
    assert await ask(kind, host, origin) == []


async def test_a_server_that_cannot_answer_a_handshake_closes_it() -> None:
    sent = await ask("websocket", "evil.example", None, denial=False)
    assert [message["type"] for message in sent] == ["websocket.close"]
