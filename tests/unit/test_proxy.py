"""The proxy: what it passes on, what it refuses, and what it writes down."""

import asyncio
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.upstream import OK, Upstream, fronted, listening

pytestmark = pytest.mark.anyio


def get(url: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    host = url.partition("://")[2].partition("/")[0]
    lines = [f"{method} {url} HTTP/{version}", f"Host: {host}", *headers, "Connection: close"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def test_a_request_is_passed_on_and_written_down() -> None:
    server = Upstream()
    async with listening(server.serve) as port, fronted([f"127.0.0.1:{port}"]) as front:
        url = f"http://127.0.0.1:{port}/a/b?c=d"
        answer = await front.raw(get(url, "X-Own: 1", "Proxy-Authorization: Basic eDp5"))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nok")
        (head,) = server.heads
        assert (
            head
            == (
                f"GET /a/b?c=d HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Own: 1\r\n"
                "Connection: close\r\n\r\n"
            ).encode()
        )
        (note,) = await front.noted()
    assert (note.host, note.port, note.via, note.verdict) == ("127.0.0.1", port, "http", "allowed")
    assert note.bytes_up == len(head)
    assert note.bytes_down == len(OK)
    assert note.address == "127.0.0.1"
    assert note.certain


async def test_a_tunnel_passes_bytes_both_ways_and_half_closes() -> None:
    async def backwards(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        writer.close()

    async with listening(backwards) as port, fronted([f"127.0.0.1:{port}"]) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        target = f"127.0.0.1:{port}"
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nabc".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.write(b"def" * 100_000)
        writer.write_eof()
        assert await reader.read() == (b"abc" + b"def" * 100_000)[::-1]
        writer.close()
        (note,) = await front.noted()
    assert (note.via, note.verdict, note.reason) == ("connect", "allowed", None)
    assert note.bytes_up == note.bytes_down == 300_003


def rows(table: list[tuple]) -> dict[str, list]:
    """A table's rows as cases, called by their first column."""
    return {"argvalues": [row[1:] for row in table], "ids": [row[0] for row in table]}


REFUSED = [
    ("not on the list", "http://other.example/", 403, "not on the allow-list"),
    ("another port", "http://127.0.0.1:1/", 403, "not on the allow-list"),
    ("resolves to loopback", "http://inward.example/", 403, r"not public \(loopback\)"),
    ("resolves to metadata", "http://meta.example/", 403, "metadata"),
    ("resolves to a mapped address", "http://mapped.example/", 403, r"not public \(private\)"),
    ("resolves to nothing", "http://gone.example/", 502, "cannot be resolved"),
    ("metadata", "http://169.254.169.254/latest/", 403, "not on the allow-list"),
    ("metadata as a number", "http://2852039166/latest/", 403, "not on the allow-list"),
    ("metadata in octal", "http://0251.0376.0251.0376/", 403, "not on the allow-list"),
    ("loopback, mapped", "http://[::ffff:127.0.0.1]/", 403, "not on the allow-list"),
    ("loopback by a short form", "http://127.1/", 403, "not on the allow-list"),
    ("a user", "http://good.example@127.0.0.1/", 400, "names a user"),
    ("another scheme", "ftp://good.example/", 501, "reached by CONNECT"),
    ("no host", "http:///x", 400, "is no host"),
    ("a broken port", "http://good.example:x/", 400, "no port number"),
    ("a fragment", "http://good.example/#x", 400, "a character that no path has"),
]
NAMES = {
    "inward.example": ["127.0.0.1"],
    "meta.example": ["169.254.169.254"],
    "mapped.example": ["::ffff:10.0.0.1"],
}
BY_NAME = ["good.example", "inward.example", "meta.example", "mapped.example", "gone.example"]


@pytest.mark.parametrize(("url", "status", "why"), **rows(REFUSED))
async def test_what_may_not_be_reached_is_refused(url: str, status: int, why: str) -> None:
    async with fronted(BY_NAME, NAMES) as front:
        answer = (await front.raw(get(url))).decode()
        assert answer.startswith(f"HTTP/1.1 {status} ")
        (note,) = await front.noted()
        assert note.verdict == ("failed" if status == 502 else "refused")
        assert re.search(why, answer)
        assert re.search(why, note.reason or "")
        if note.host:
            target = f"{url.split('/')[2]}:443".replace(":1:443", ":1")
            tunnel = await front.raw(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert tunnel.startswith(f"HTTP/1.1 {status} ".encode())


async def test_a_name_that_is_not_on_the_list_is_not_even_resolved() -> None:
    async with fronted(["good.example"], NAMES) as front:
        await front.raw(get("http://exfiltrated-data.evil.example/"))
        assert front.asked == []


async def test_a_connection_goes_to_the_address_that_was_checked() -> None:
    """The name leads elsewhere at every look: only the first counts."""
    server = Upstream()
    answers = iter([["192.0.2.1", "127.0.0.1"], ["127.0.0.2"]])

    class Turning(dict):
        def __contains__(self, name: object) -> bool:
            return True

        def __getitem__(self, name: str) -> list[str]:
            return next(answers)

    async with listening(server.serve) as port:
        allow = [f"turning.example:{port}", f"127.0.0.1:{port}"]
        async with fronted(allow, Turning()) as front:
            url = f"http://turning.example:{port}/"
            assert b" 200 " in await front.raw(get(url))
            assert b" 403 " in await front.raw(get(url))
            first, second = await front.noted(2)
    assert (first.address, second.address) == ("127.0.0.1", None)
    assert server.peers == 1


SMUGGLING = [
    ("two lengths", "Content-Length: 3\r\nTransfer-Encoding: chunked", 400),
    ("lengths that differ", "Content-Length: 3\r\nContent-Length: 4", 400),
    ("a length that is none", "Content-Length: +3", 400),
    ("another coding", "Transfer-Encoding: gzip, chunked", 501),
    ("two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
    ("another Host", "", 400),
    ("a blank before the colon", "X-A : b", 400),
]


@pytest.mark.parametrize(("headers", "status"), **rows(SMUGGLING))
async def test_what_two_could_read_in_two_ways_is_not_passed_on(headers: str, status: int) -> None:
    server = Upstream()
    async with listening(server.serve) as port, fronted([f"127.0.0.1:{port}"]) as front:
        host = f"127.0.0.1:{port}" if headers else "other.example"
        lines = [
            f"POST http://127.0.0.1:{port}/ HTTP/1.1",
            f"Host: {host}",
            headers,
            "",
            "0",
            "",
            "",
        ]
        if not headers:
            del lines[2]
        answer = await front.raw("\r\n".join(lines).encode())
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert (await front.noted())[0].verdict == "refused"
    assert server.peers == 0


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-T: u\r\n\r\n",
    ],
)
async def test_content_is_passed_on_in_either_form(framing: str) -> None:
    server = Upstream()
    async with listening(server.serve) as port, fronted([f"127.0.0.1:{port}"]) as front:
        url = f"http://127.0.0.1:{port}/"
        request = f"POST {url} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{framing}"
        assert b" 200 " in await front.raw(request.encode())
    assert server.bodies == [b"hello"]


async def test_a_connection_takes_many_requests_also_all_at_once() -> None:
    server = Upstream()
    async with listening(server.serve) as port, fronted([f"127.0.0.1:{port}"]) as front:
        url = f"http://127.0.0.1:{port}/"
        going_on = get(url).replace(b"Connection: close\r\n", b"")
        answer = await front.raw(going_on * 4 + get(url))
        assert answer.count(b"\r\n\r\nok") == 5
        assert len(await front.noted(5)) == 5


OK_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWERS = [
    ("without a length", b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
    (
        "in chunks",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"abc",
    ),
    ("after another", b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, b"ok"),
    ("none at all", b"", b" 502 "),
    ("no HTTP", b"SSH-2.0-OpenSSH\r\n\r\n", b" 502 "),
    (
        "two lengths",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b" 502 ",
    ),
    ("a switch nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b" 502 "),
    ("an endless head", b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000, b" 502 "),
]


@pytest.mark.parametrize(("answer", "expected"), **rows(ANSWERS))
async def test_answers_are_passed_back_in_every_form(answer: bytes, expected: bytes) -> None:
    server = Upstream(answer)
    async with listening(server.serve) as port, fronted([f"127.0.0.1:{port}"]) as front:
        given_back = await front.raw(get(f"http://127.0.0.1:{port}/"))
        assert expected in given_back
        old = await front.raw(get(f"http://127.0.0.1:{port}/", version="1.0"))
        assert expected in old
        assert b"chunked" not in old
        head = await front.raw(get(f"http://127.0.0.1:{port}/", method="HEAD"))
        assert head.endswith(b"\r\n\r\n")


async def test_a_head_that_does_not_end_is_given_up() -> None:
    async with fronted([], header_seconds=0.2, header_bytes=1000) as front:
        assert await front.raw(b"GET http://a.example/ HT") == b""
        assert b" 431 " in await front.raw(b"GET http://a.example/" + b"a" * 5000)


async def test_a_connection_on_which_nothing_moves_is_closed() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with (
        listening(silent) as port,
        fronted([f"127.0.0.1:{port}"], idle_seconds=0.2) as front,
    ):
        target = f"127.0.0.1:{port}"
        assert b" 504 " in await front.raw(get(f"http://{target}/"))
        opened = await front.raw(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in opened
        _, note = await front.noted(2)
    assert note.verdict == "allowed"
    assert "nothing moved" in (note.reason or "")


async def test_a_program_that_goes_takes_its_connections_along() -> None:
    server = Upstream(answer=b"")
    reading = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        reading.set()
        await reader.read()
        server.closed.set()
        writer.close()

    async with listening(slow) as port, fronted([f"127.0.0.1:{port}"]) as front:
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(get(f"http://127.0.0.1:{port}/"))
        async with asyncio.timeout(20):
            await reading.wait()
            writer.close()
            await server.closed.wait()
        (note,) = await front.noted()
        assert "the program closed" in (note.reason or "")
        assert front.proxy.connections == 0


async def test_no_more_connections_than_there_may_be() -> None:
    async with fronted([], connections=2) as front:
        held = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(2)]
        async with asyncio.timeout(20):
            while front.proxy.connections < 2:
                await asyncio.sleep(0.01)
        assert await front.raw(b"") == b""
        (note,) = await front.noted()
        assert note.reason == "the VM had 2 connections open"
        for _, writer in held:
            writer.close()


async def test_a_vm_has_so_many_bytes_and_no_more() -> None:
    server = Upstream()
    async with (
        listening(server.serve) as port,
        fronted([f"127.0.0.1:{port}"], total_bytes=50) as front,
    ):
        url = f"http://127.0.0.1:{port}/"
        assert b" 200 " in await front.raw(get(url))
        assert b"has had the 50 bytes" in await front.raw(get(url))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [b"GET ", b"CONNECT ", b"http://", b"a.example:80", b" HTTP/1.1\r\n", b"Host: "]
                + [
                    b"\r\n\r\n",
                    b"Content-Length: 4\r\n",
                    b"Transfer-Encoding: chunked\r\n",
                    b"0\r\n",
                ]
            ),
        ),
        max_size=12,
    )
)
def test_any_bytes_are_answered_or_closed_and_nobody_is_reached(pieces: list[bytes]) -> None:
    async def attempt() -> None:
        async with fronted([], header_seconds=5.0) as front:
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(b"".join(pieces))
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 20)
            writer.close()
            assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))

    asyncio.run(attempt())
