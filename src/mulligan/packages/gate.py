"""The only way out of a VM that builds packages: to the configured indexes, and no further.

A builder has no network. It is shown a Unix socket on which this answers plain HTTP/1.1 (``h11``),
one request a connection. It can ask for the page of a project, and for the files those pages
name; whatever else it asks for is not there. Addresses, credentials and certificates stay on this
side: the builder sees paths of the gate.

    GET /simple/<n>/<project>/      the project's page of index n, as JSON (PEP 691)
    GET /links/<n>/                 a flat list of links
    GET /npm/<package>              a package's document of the registry
    GET /file/<key>/<name>          a file one of them named; with ``.metadata`` what is known of it
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import os
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import h11
import httpx

from mulligan.log import get_logger
from mulligan.packages import pages
from mulligan.packages.indexes import Source, Sources
from mulligan.packages.pages import PageError

log = get_logger()

MIB = 1024 * 1024
MOST_PAGE = 128 * MIB
MOST_HEAD = 16 * 1024
MOST_FILES = 2_000_000  # that pages may name
MOST_CONNECTIONS = 200
HEAD_TIMEOUT_S = 30.0
UPSTREAM_TIMEOUT_S = 60.0
PIECE = 64 * 1024
_PROJECT = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_PACKAGE = re.compile(r"(@[a-z0-9~-][a-z0-9._~-]*/)?[A-Za-z0-9~-][A-Za-z0-9._~-]*")
_LOCAL = re.compile(r"127\.0\.0\.1:[0-9]{1,5}")
_PASSED = ("content-type", "content-length", "content-range", "accept-ranges", "etag")
_FILES = (".whl", ".tar.gz", ".zip", ".tgz", ".tar.bz2")


class _RefusalError(Exception):
    """An answer that is none, with its status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Gate:
    """Answers one builder. Use as an async context manager.

    Args:
        sources: what it may ask.
        path: of the socket.
        owner: uid and gid it is given to, where this process may do that.
        most_bytes: of answers in all.

    Attributes:
        trouble: why an index could not be asked, the last time that was so.
    """

    def __init__(
        self, sources: Sources, path: Path, owner: tuple[int, int], *, most_bytes: int
    ) -> None:
        self.trouble: str | None = None
        self._sources = sources
        self._path = path
        self._owner = owner
        self._left = most_bytes
        self._files: dict[str, tuple[str, Source]] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Gate:
        context = ssl.create_default_context(cafile=self._sources.cafile)
        self._client = httpx.AsyncClient(
            verify=context,
            follow_redirects=True,
            timeout=UPSTREAM_TIMEOUT_S,
            headers={"User-Agent": "mulligan"},
        )
        self._server = await asyncio.start_unix_server(self._accept, self._path, limit=MOST_HEAD)
        self._path.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(self._path, *self._owner)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._client is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._client.aclose()
        self._path.unlink(missing_ok=True)

    # Connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) <= MOST_CONNECTIONS:
                await self._serve(reader, writer)
        except (OSError, h11.ProtocolError, TimeoutError):
            pass  # the builder's, which is nobody's trouble but its own
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD)
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await reader.read(PIECE))
        if not isinstance(event, h11.Request):
            return
        started = False
        try:
            async with contextlib.aclosing(self._answer(event)) as answer:
                async for part in answer:
                    started = True
                    data = connection.send(part)
                    if data:
                        self._spend(len(data))
                        writer.write(data)
                        await writer.drain()
        except _RefusalError as refusal:
            if started:
                return
            text = f"{refusal}\n".encode()
            headers = [("content-length", str(len(text))), ("connection", "close")]
            head = h11.Response(status_code=refusal.status, headers=headers)
            body = b"" if event.method == b"HEAD" else text
            for part in (head, *([h11.Data(data=body)] if body else []), h11.EndOfMessage()):
                writer.write(connection.send(part) or b"")
            await writer.drain()

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left <= 0:
            self.trouble = "more was fetched than a set of packages may have (packages.max_set_mb)"
            raise _RefusalError(507, self.trouble)

    # Answers

    async def _answer(self, request: h11.Request) -> AsyncGenerator[h11.Event, None]:
        self._spend(0)
        if request.method not in (b"GET", b"HEAD"):
            raise _RefusalError(405, "only GET and HEAD are answered")
        headers = {name.decode("latin-1"): value for name, value in request.headers}
        parts = request.target.decode("latin-1").partition("?")[0].split("/")
        kind, rest = parts[1] if len(parts) > 1 else "", parts[2:]
        if kind == "file" and len(rest) == 2:  # noqa: PLR2004  (key and name)
            async for part in self._file(rest[0], rest[1], request.method.decode(), headers):
                yield part
            return
        if kind == "simple" and len(rest) in (2, 3) and not any(rest[2:]):
            body, content_type = await self._simple(rest[0], rest[1]), pages.JSON
        elif kind == "links" and len(rest) in (1, 2) and not any(rest[1:]):
            body, content_type = await self._flat(rest[0]), "text/html; charset=utf-8"
        elif kind == "npm" and rest:
            body, content_type = await self._npm("/".join(rest), headers), "application/json"
        else:
            raise _RefusalError(404, "there is nothing at this address")
        for part in _whole(body, content_type, request.method):
            yield part

    async def _simple(self, number: str, project: str) -> bytes:
        found = _numbered(self._sources.indexes, number)
        if not _PROJECT.fullmatch(project):
            raise _RefusalError(404, "that is no name of a project")
        if found.url.startswith("file:"):
            listing = await asyncio.to_thread(_listing, Path(_path_of(found)) / project)
            url = found.url.rstrip("/") + f"/{project}/"
            body, content_type = listing, "text/html"
        else:
            url = found.url.rstrip("/") + f"/{project}/"
            accept = f"{pages.JSON}, text/html;q=0.5"
            body, content_type, url = await self._page(found, url, accept)
        replace = self._replacer(found, "")
        return await asyncio.to_thread(
            self._made, pages.simple_page, body, content_type, url, project, replace
        )

    async def _flat(self, number: str) -> bytes:
        found = _numbered(self._sources.links, number)
        if found.url.startswith("file:"):
            body = await asyncio.to_thread(_listing, Path(_path_of(found)))
            is_page = found.url.endswith(".html")
            url = found.url if is_page else found.url.rstrip("/") + "/"
        else:
            body, _, url = await self._page(found, found.url, "text/html")
        replace = self._replacer(found, "")
        return await asyncio.to_thread(self._made, pages.links_page, body, url, replace)

    async def _npm(self, path: str, headers: dict[str, bytes]) -> bytes:
        name = unquote(path)
        if not _PACKAGE.fullmatch(name):
            raise _RefusalError(404, "that is no name of a package")
        host = headers.get("host", b"").decode("latin-1")
        if not _LOCAL.fullmatch(host):
            raise _RefusalError(400, "the builder asks by its own address")
        scopes = dict(self._sources.scopes)
        found = scopes.get(name.partition("/")[0]) or self._sources.indexes[0]
        url = found.url.rstrip("/") + "/" + name.replace("/", "%2f")
        accept = headers.get("accept", b"application/json").decode("latin-1")[:200]
        body, _, url = await self._page(found, url, accept)
        replace = self._replacer(found, f"http://{host}")
        return await asyncio.to_thread(self._made, pages.npm_document, body, url, replace)

    def _made(self, make: Callable[..., bytes], *arguments: object) -> bytes:
        try:
            made = make(*arguments)
        except PageError as error:
            self.trouble = f"the package index answers what it should not: {error}"
            raise _RefusalError(502, self.trouble) from None
        return made

    def _replacer(self, found: Source, base: str) -> pages.Replace:
        def replace(address: str, name: str) -> str:
            key = hashlib.sha256(address.encode()).hexdigest()[:32]
            if len(self._files) < MOST_FILES:
                self._files[key] = (address, found)
            return f"{base}/file/{key}/{quote(name)}"

        return replace

    # What is asked for

    async def _page(self, found: Source, url: str, accept: str) -> tuple[bytes, str, str]:
        """A page, its type, and where it came from in the end."""
        body = bytearray()
        async with self._asked("GET", url, found, {"Accept": accept}) as response:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MOST_PAGE:
                    raise _RefusalError(502, "the page is too long")
            return bytes(body), response.headers.get("content-type", ""), str(response.url)

    async def _file(
        self, key: str, name: str, method: str, headers: dict[str, bytes]
    ) -> AsyncIterator[h11.Event]:
        known = self._files.get(key)
        if known is None:
            raise _RefusalError(404, "no page named this file")
        address, found = known
        if name.endswith(".metadata"):
            address += ".metadata"
        if address.startswith("file:"):
            if not found.url.startswith("file:"):
                raise _RefusalError(403, "the index names a file of this host")
            data = await asyncio.to_thread(_local_file, address, found)
            for part in _whole(data, "application/octet-stream", method.encode()):
                yield part
            return
        asked = {"Accept-Encoding": "identity"}
        if "range" in headers:
            asked["Range"] = headers["range"].decode("latin-1")
        async with self._asked(method, address, found, asked) as response:
            passed = [(k, v) for k, v in response.headers.items() if k.lower() in _PASSED]
            if "content-encoding" in response.headers:
                raise _RefusalError(502, "the index sends files in an encoding of its own")
            passed.append(("connection", "close"))
            yield h11.Response(status_code=response.status_code, headers=passed)
            if method == "GET":
                async for piece in response.aiter_raw(PIECE):
                    yield h11.Data(data=piece)
            yield h11.EndOfMessage()

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, url: str, found: Source, headers: dict[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """An index's answer; one it refuses is refused here with its own status."""
        assert self._client is not None
        parts = urlsplit(url)
        same = (parts.scheme, parts.hostname, parts.port) == found.origin
        if parts.scheme not in ("http", "https") or not (same or _public(parts.hostname)):
            raise _RefusalError(403, "the index names an address that is not fetched")
        if same and found.authorization is not None:
            headers = headers | {"Authorization": found.authorization}
        try:
            async with self._client.stream(method, url, headers=headers) as response:
                if response.status_code >= 400:  # noqa: PLR2004
                    if response.status_code not in (404, 410, 416):
                        self.trouble = f"the package index answers {response.status_code}"
                    raise _RefusalError(
                        response.status_code, f"{response.status_code} of the index"
                    )
                yield response
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            what = str(error) or type(error).__name__
            self.trouble = f"the package index cannot be reached: {what[:300]}"
            raise _RefusalError(502, "the index cannot be reached") from None


def _whole(body: bytes, content_type: str, method: bytes) -> list[h11.Event]:
    """A whole answer as events."""
    headers = [
        ("content-type", content_type),
        ("content-length", str(len(body))),
        ("connection", "close"),
    ]
    data = [h11.Data(data=body)] if method == b"GET" else []
    return [h11.Response(status_code=200, headers=headers), *data, h11.EndOfMessage()]


def _numbered(sources: tuple[Source, ...], number: str) -> Source:
    if not number.isascii() or not number.isdigit() or len(number) > 4:  # noqa: PLR2004
        raise _RefusalError(404, "there is no such index")
    if int(number) >= len(sources):
        raise _RefusalError(404, "there is no such index")
    return sources[int(number)]


def _public(host: str | None) -> bool:
    """Whether a page may name files there: not by an address inside some network."""
    if not host:
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return host != "localhost" and not host.endswith(".localhost")


def _path_of(found: Source) -> str:
    return unquote(urlsplit(found.url).path)


def _listing(path: Path) -> bytes:
    """A page for a directory of this host, or the page that is there."""
    try:
        if path.is_file():
            return path.read_bytes()[:MOST_PAGE]
        if (path / "index.html").is_file():
            return (path / "index.html").read_bytes()[:MOST_PAGE]
        names = sorted(each.name for each in path.iterdir() if each.name.endswith(_FILES))
    except OSError:
        raise _RefusalError(404, "there is nothing of that name") from None
    lines = (f'<a href="{quote(name)}">x</a>' for name in names)
    return "\n".join(lines).encode()


def _local_file(address: str, found: Source) -> bytes:
    """A file below the directory of a local index."""
    root = Path(_path_of(found)).resolve()
    path = Path(unquote(urlsplit(address).path)).resolve()
    top = root.parent if root.is_file() else root
    try:
        if not path.is_relative_to(top) or not path.is_file():
            raise _RefusalError(404, "there is no such file")
        return path.read_bytes()
    except OSError:
        raise _RefusalError(404, "there is no such file") from None
