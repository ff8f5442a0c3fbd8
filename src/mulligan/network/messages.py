"""What a request to the proxy asks for, and what of it goes on; pure functions.

Requests are parsed once, by h11, and written anew from what was understood: nothing of a request is
passed on that the other side could read differently (RFC 9112, sections 3.2, 6.3 and 11.2; RFC
9110, section 7.6.1 for what is between two neighbours only).
"""

from __future__ import annotations

from dataclasses import dataclass

import h11

from mulligan.network import names
from mulligan.network.names import Host

HTTP_PORT = 80
# What belongs to one connection; what Connection names goes, too.
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"content-length",  # written anew
        b"host",  # written anew
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
Headers = list[tuple[bytes, bytes]]


class BadRequestError(Exception):
    """A request that is answered with an error and not passed on.

    Attributes:
        status: of the answer.
    """

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Outgoing:
    """A request as it goes on.

    Attributes:
        host, port: who is asked.
        method, target, headers: in the form of a request to a server itself.
        has_body: whether content follows.
    """

    host: Host
    port: int
    method: bytes
    target: bytes
    headers: Headers
    has_body: bool


def tunnel(request: h11.Request) -> tuple[Host, int]:
    """Whom a CONNECT asks for.

    Raises:
        BadRequestError: nobody, or it has content.
    """
    if _has(request, b"content-length") or _has(request, b"transfer-encoding"):
        raise BadRequestError("a CONNECT has no content")
    return _authority(request.target, None)


def forward(request: h11.Request) -> Outgoing:
    """What goes on of a request with a whole URL for target.

    Raises:
        BadRequestError: it is none that can be passed on.
    """
    target = request.target
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https", b"ftp", b"ws", b"wss"):
        raise BadRequestError("this is a proxy: ask for a whole URL, or use CONNECT")
    if scheme.lower() != b"http":
        raise BadRequestError(f"{scheme.decode().lower()} URLs are reached by CONNECT", 501)
    end = min((rest.find(mark) for mark in (b"/", b"?") if mark in rest), default=len(rest))
    host, port = _authority(rest[:end], HTTP_PORT)
    path = rest[end:] or b"/"
    if not path.startswith(b"/"):
        path = b"/" + path
    return _onward(request, host, port, path, HTTP_PORT)


def inside(request: h11.Request, host: Host, port: int, default_port: int) -> Outgoing:
    """What goes on of a request inside a tunnel that was opened to a host.

    Raises:
        BadRequestError: it is for somebody else, or none that can be passed on.
    """
    if not request.target.startswith(b"/"):
        raise BadRequestError("a request in a tunnel has a path for target")
    return _onward(request, host, port, request.target, default_port)


def _onward(
    request: h11.Request, host: Host, port: int, target: bytes, default_port: int
) -> Outgoing:
    if request.method == b"TRACE":
        raise BadRequestError("TRACE is not passed on", 405)
    if b"#" in target or b"\\" in target:
        raise BadRequestError("the target has a character that no path has")
    given = [value for name, value in request.headers if name == b"host"]
    for value in given:
        try:
            same = names.authority(value.decode("ascii"), default_port) == (host, port)
        except ValueError:
            same = False
        if not same:
            raise BadRequestError("the Host header names another host than the request's target")
    chunked = _has(request, b"transfer-encoding")
    lengths = [value for name, value in request.headers if name == b"content-length"]
    if chunked and (lengths or request.http_version != b"1.1"):
        raise BadRequestError("the request has two lengths")
    shown = names.shown(host, port)
    own = shown.rpartition(":")[0] if port == default_port else shown
    headers = [(b"Host", own.encode()), *end_to_end(request.headers)]
    if chunked:
        headers.append((b"Transfer-Encoding", b"chunked"))
    elif lengths:
        headers.append((b"Content-Length", lengths[0]))
    headers.append((b"Connection", b"close"))
    has_body = chunked or bool(lengths and lengths[0].strip(b"0"))
    return Outgoing(host, port, request.method, target, headers, has_body)


def end_to_end(headers: h11._headers.Headers) -> Headers:
    """Headers without what is between two neighbours only."""
    named = {
        token.strip().lower()
        for name, value in headers
        if name == b"connection"
        for token in value.split(b",")
    }
    return [
        (raw, value)
        for raw, (name, value) in zip(_raw_names(headers), headers, strict=True)
        if name not in HOP_BY_HOP and name not in named
    ]


def _raw_names(headers: h11._headers.Headers) -> list[bytes]:
    return [name for name, _ in headers.raw_items()]


def _authority(text: bytes, default_port: int | None) -> tuple[Host, int]:
    try:
        return names.authority(text.decode("ascii"), default_port)
    except ValueError as error:
        raise BadRequestError(f"the host of the request {error}") from None


def _has(request: h11.Request, name: bytes) -> bool:
    return any(each == name for each, _ in request.headers)
