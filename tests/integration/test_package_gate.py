"""The gate: what a builder can reach through it, and what not."""

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from mulligan.packages.gate import Gate
from mulligan.packages.indexes import Source, Sources, source
from support import packages
from support.packages import Index

pytestmark = pytest.mark.anyio
BASIC = "Basic " + base64.b64encode(b"somebody:made-up").decode()


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Gate, Index]]:
    """A client on the gate's socket."""
    place = tmp_path / "files"
    packages.wheel(place, "first")
    packages.npm_package(place / "npm", "left")
    (tmp_path / "links").mkdir()
    packages.wheel(tmp_path / "links", "local")
    (tmp_path / "secret.whl").write_text("secret")
    with packages.index(place, BASIC) as served:
        sources = Sources(
            indexes=(source(served.simple, BASIC),),
            links=(source(str(tmp_path / "links")),),
        )
        owner = (os.geteuid(), os.getegid())
        async with Gate(sources, tmp_path / "gate", owner, most_bytes=100_000) as gate:
            transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "gate"))
            async with httpx.AsyncClient(transport=transport, base_url="http://gate") as client:
                yield client, gate, served
    assert not (tmp_path / "gate").exists()


Asked = tuple[httpx.AsyncClient, Gate, Index]


async def test_pages_name_files_of_the_gate_and_files_come(asked: Asked) -> None:
    client, _, served = asked
    page = (await client.get("/simple/0/first/")).json()
    (entry,) = page["files"]
    assert served.url not in str(page)
    assert entry["filename"] == "first-1.0-py3-none-any.whl"
    assert len(entry["hashes"]["sha256"]) == 64
    file = await client.get(entry["url"])
    assert file.content == (served.directory / entry["filename"]).read_bytes()
    assert set(served.seen) == {BASIC}
    links = await client.get("/links/0/")
    address = links.text.partition('href="')[2].partition('"')[0]
    assert (await client.get(address)).content[:2] == b"PK"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/simple/1/first/", 404),
        ("GET", "/simple/0/../first/", 404),
        ("GET", "/simple/0/%2e%2e/", 404),
        ("GET", "/simple/0/First/", 404),
        ("GET", "/simple/0/absent/", 404),
        ("GET", "/simple/99999999999999999999/first/", 404),
        ("GET", "/links/7/", 404),
        ("GET", "/file/00000000000000000000000000000000/first-1.0-py3-none-any.whl", 404),
        ("GET", "/npm/left", 400),
        ("GET", "/npm/-/v1/search", 404),
        ("POST", "/simple/0/first/", 405),
        ("CONNECT", "/", 405),
    ],
)
async def test_nothing_else_is_there(asked: Asked, method: str, path: str, status: int) -> None:
    client, _, served = asked
    request = httpx.Request(method, "http://gate/", headers={"Host": "gate"})
    request.extensions["target"] = path.encode()
    answer = await client.send(request)
    assert answer.status_code == status
    assert all(each == "/simple/absent/" for each in served.asked)


async def test_credentials_go_to_their_origin_alone(asked: Asked, tmp_path: Path) -> None:
    client, gate, served = asked
    own = gate._sources.indexes[0]
    with packages.index(tmp_path / "files") as other:
        replace = gate._replacer(own, "")
        address = replace(f"{other.url}/files/first-1.0-py3-none-any.whl", "x.whl")
        refused = await client.get(address)
        assert refused.status_code == 403  # loopback, and not the index's own
        assert other.asked == []
    metadata = replace("http://169.254.169.254/latest", "x.whl")
    assert (await client.get(metadata)).status_code == 403
    outside = replace((tmp_path / "secret.whl").as_uri(), "secret.whl")
    assert (await client.get(outside)).status_code == 403
    assert served.seen == []


async def test_more_than_a_set_may_have_does_not_come(asked: Asked) -> None:
    client, gate, served = asked
    (served.directory / "first-2.0-py3-none-any.whl").write_bytes(b"x" * 200_000)
    page = (await client.get("/simple/0/first/")).json()
    with pytest.raises(httpx.HTTPError):
        await client.get(page["files"][1]["url"])
    assert "max_set_mb" in (gate.trouble or "")
    assert (await client.get("/simple/0/first/")).status_code == 507


def test_addresses_never_show_credentials() -> None:
    found = source("https://somebody:made-up@packages.invalid/simple/")
    assert found == Source("https://packages.invalid/simple/", BASIC)
    assert "made-up" not in repr(found)
    assert BASIC not in repr(found)
    with_other = Sources(indexes=(source("https://packages.invalid/simple/"),))
    assert Sources(indexes=(found,)).identity() == with_other.identity()
