"""Connections as frames: the agent's side and the host's, joined, and each alone with a liar."""

import asyncio
import contextlib
import errno
import json
import random
import socket
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.engine.vms.links import MOST_LINKS, Link, Links
from mulligan.guest import frames, room
from mulligan.guest import links as guest
from mulligan.guest.loop import Loop

pytestmark = pytest.mark.anyio
WINDOW = frames.LINK_WINDOW


class Joined:
    """Both sides, with a stream of frames between them that moves when it is turned."""

    def __init__(self) -> None:
        self._up, self._down = bytearray(), bytearray()
        self._from_agent = frames.Decoder(frames.OF_LINKS)
        self._from_host = frames.Decoder(frames.TO_LINKS)
        self._loop = Loop()
        self.kinds: list[int] = []
        self.agent = guest.Links(self._loop, self._say)
        self.host = Links(self._down.extend, self._drained, idle=20)
        self.port = self.agent._listener.getsockname()[1]

    def _say(self, kind: int, channel: int, payload: bytes | dict[str, object]) -> None:
        self.kinds.append(kind)
        self._up += frames.encode(kind, channel, payload)

    async def _drained(self) -> None:
        await asyncio.sleep(0)

    async def turn(self) -> None:
        """Moves frames for as long as this is not cancelled."""
        while True:
            self._loop.step(0)
            up, down = bytes(self._up), bytes(self._down)
            self._up.clear()
            self._down.clear()
            for frame in self._from_agent.feed(up):
                self.host.take(frame)
            for frame in self._from_host.feed(down):
                self.agent.take(frame)
            await asyncio.sleep(0 if up or down else 0.001)

    async def connected(self) -> tuple[Link, socket.socket]:
        """A connection: the host's end of it, and the program's."""
        loop = asyncio.get_running_loop()
        program = socket.socket()
        program.setblocking(False)
        await loop.sock_connect(program, ("127.0.0.1", self.port))
        async with asyncio.timeout(20):
            link, port = await self.host.accept()
        assert port == program.getsockname()[1]
        return link, program


@pytest.fixture
async def joined(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guest, "PORT", 0)
    both = Joined()
    turning = asyncio.create_task(both.turn())
    async with asyncio.timeout(60):
        yield both
    turning.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await turning
    both.agent.renew()
    both.agent._listener.close()
    both._loop._epoll.close()


async def everything(link: Link) -> bytes:
    data = b""
    while piece := await link.receive(20):
        data += piece
    return data


async def read(program: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while piece := await loop.sock_recv(program, 1 << 16):
        data += piece
    return data


@pytest.mark.parametrize("size", [0, 1, WINDOW, 5 * WINDOW + 1])
async def test_bytes_go_both_ways_at_once_and_each_way_ends_by_itself(joined, size: int) -> None:
    up, down = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    link, program = await joined.connected()

    async def send_down() -> None:
        await link.send(down)
        await link.finish()

    async def send_up() -> None:
        await asyncio.get_running_loop().sock_sendall(program, up)
        program.shutdown(socket.SHUT_WR)

    with program:
        answers = await asyncio.gather(everything(link), read(program), send_up(), send_down())
    assert answers[:2] == [up, down]
    assert (link.received, link.sent) == (size, size)
    link.close()
    while joined.host._links or joined.agent._links:
        await asyncio.sleep(0)


async def test_no_more_is_on_the_way_than_a_window(joined) -> None:
    """Where nobody takes it, it waits in the program, or in who sends to it."""
    link, program = await joined.connected()
    with program:
        program.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sending = asyncio.create_task(link.send(bytes(64 * WINDOW)))
        filling = asyncio.create_task(
            asyncio.get_running_loop().sock_sendall(program, bytes(64 * WINDOW))
        )
        while len(link._incoming) < WINDOW or link._window:
            await asyncio.sleep(0)
        (inside,) = joined.agent._links.values()
        assert len(link._incoming) == WINDOW
        assert len(inside.pending) <= WINDOW
        assert not sending.done()
        assert not filling.done()
        sending.cancel()
        filling.cancel()
        await asyncio.gather(sending, filling, return_exceptions=True)
        link.close()


async def test_many_at_a_time_do_not_mix(joined) -> None:
    async def echo(number: int, link: Link, program: socket.socket) -> None:
        data = bytes([number]) * (WINDOW + number)
        with program:
            sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(program, data))
            while link.received < len(data):
                await link.send(await link.receive(20))
            await sending
            await link.finish()
            assert await read(program) == data
            link.close()

    ends = [await joined.connected() for _ in range(8)]
    await asyncio.gather(*(echo(number, *each) for number, each in enumerate(ends)))


async def test_who_is_dropped_gets_what_was_sent_before_and_then_the_end(joined) -> None:
    link, program = await joined.connected()
    with program:
        await link.send(b"refused" * 1000)
        link.close()
        link.close()
        assert await read(program) == b"refused" * 1000
    while joined.host._links or joined.agent._links:
        await asyncio.sleep(0)
    assert joined.kinds.count(frames.LINK_LOST) == 1


async def test_a_program_that_is_ended_is_missed(joined) -> None:
    link, program = await joined.connected()
    await link.send(b"x")
    while not joined.kinds.count(frames.LINK_ROOM):
        await asyncio.sleep(0)
    program.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    program.close()  # with a reset
    with pytest.raises(ConnectionResetError):
        await link.receive(20)
    with pytest.raises(ConnectionResetError):
        await link.send(b"x")
    link.close()


async def test_without_descriptors_it_is_asked_again(joined, monkeypatch) -> None:
    real = guest.check_descriptors

    def none_left() -> None:
        monkeypatch.setattr(guest, "check_descriptors", real)
        raise OSError(errno.EMFILE, "none left")

    assert real is room.check_descriptors
    monkeypatch.setattr(guest, "check_descriptors", none_left)
    with pytest.raises(OSError, match=r".") as caught:
        await joined.connected()
    assert caught.value.errno == errno.EMFILE
    link, _ = await joined.host.accept()  # who waited
    link.close()


async def test_after_another_host_came_the_old_ones_connections_are_closed(joined) -> None:
    _, program = await joined.connected()
    with program:
        joined.agent.renew()
        assert await read(program) == b""
    assert not joined.agent._links


def said(kind: int, channel: int, payload: bytes | dict[str, object] = b"") -> frames.Frame:
    if isinstance(payload, dict):
        payload = json.dumps(payload).encode()
    return frames.Frame(kind, channel, payload)


@pytest.fixture
def alone() -> tuple[Links, list[frames.Frame]]:
    """The host's side, with connection 7 and what it says."""
    told: list[frames.Frame] = []
    decoder = frames.Decoder(frames.TO_LINKS)

    async def drained() -> None: ...

    return Links(lambda data: told.extend(decoder.feed(data)), drained, idle=20), told


async def opened(links: Links, number: int = 7) -> Link:
    task = asyncio.create_task(links.accept())
    await asyncio.sleep(0)
    links.take(said(frames.LINK, number, {"port": 4711}))
    return (await task)[0]


LIES: dict[str, Callable[[], list[frames.Frame]]] = {
    "nobody asked": lambda: [said(frames.LINK, 8, {"port": 1})],
    "no such connection": lambda: [said(frames.LINK_UP, 8, b"x")],
    "none of that number was ever": lambda: [said(frames.LINK_LOST, 8)],
    "more than the window": lambda: [said(frames.LINK_UP, 7, bytes(1 << 16))] * 3,
    "too long": lambda: [said(frames.LINK_UP, 7, bytes((1 << 16) + 1))],
    "it goes on": lambda: [said(frames.LINK_UP, 7), said(frames.LINK_UP, 7, b"x")],
    "it ends twice": lambda: [said(frames.LINK_UP, 7), said(frames.LINK_UP, 7)],
    "gone and there": lambda: [said(frames.LINK_LOST, 7), said(frames.LINK_UP, 7, b"x")],
    "took what was not sent": lambda: [said(frames.LINK_ROOM, 7, {"bytes": 1})],
    "took less than nothing": lambda: [said(frames.LINK_ROOM, 7, {"bytes": -1})],
    "a word for a number": lambda: [said(frames.LINK_ROOM, 7, {"bytes": "1"})],
    "true for a number": lambda: [said(frames.LINK_ROOM, 7, {"bytes": True})],
    "no JSON": lambda: [said(frames.LINK_ROOM, 7, b"{")],
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_is_one(alone, lie: str) -> None:
    links, _ = alone
    await opened(links)
    *before, last = LIES[lie]()
    for frame in before:
        links.take(frame)
    with pytest.raises(frames.FrameError):
        links.take(last)


SAYINGS = st.tuples(
    st.sampled_from(sorted(frames.OF_LINKS)),
    st.sampled_from([0, 7, 8, 2**32 - 1]),
    st.one_of(
        st.binary(max_size=100),
        st.sampled_from([bytes(frames.MAX_CHUNK), b'{"bytes":1}', b'{"port":80}', b'{"port":0}']),
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(SAYINGS, max_size=12), st.booleans())
def test_whatever_is_said_takes_no_more_than_windows(said_: list, close: bool) -> None:
    async def listen() -> None:
        sent: list[bytes] = []

        async def drained() -> None: ...

        links = Links(sent.append, drained, idle=20)
        served = [await opened(links)]
        asking = asyncio.create_task(links.accept())
        await asyncio.sleep(0)
        if close:
            served[0].close()
        with contextlib.suppress(frames.FrameError):
            for each in said_:
                links.take(frames.Frame(*each))
        for link in [*served, *links._links.values()]:
            assert len(link._incoming) <= WINDOW + frames.MAX_CHUNK  # at which it is given up
            assert 0 <= link._window <= WINDOW
        assert len(links._links) <= 2
        asking.cancel()
        await asyncio.wait({asking})
        if not asking.cancelled():
            asking.exception()

    asyncio.run(listen())


@pytest.mark.parametrize("port", [-1, 65536, "80", None, 1.0])
async def test_a_port_is_one(alone, port: object) -> None:
    links, _ = alone
    asking = asyncio.create_task(links.accept())
    await asyncio.sleep(0)
    with pytest.raises(frames.FrameError):
        links.take(said(frames.LINK, 1, {"port": port}))
    asking.cancel()


async def test_numbers_are_given_once_and_not_without_end(alone) -> None:
    links, told = alone
    first = await opened(links)
    asking = asyncio.create_task(links.accept())
    await asyncio.sleep(0)
    with pytest.raises(frames.FrameError):
        links.take(said(frames.LINK, 7, {"port": 1}))
    asking.cancel()
    first.close()
    assert [frame.kind for frame in told][-1] == frames.LINK_DROP
    links.take(said(frames.LINK_UP, 7, b"x"))  # it was on the way
    links.take(said(frames.LINK_LOST, 7))
    for number in range(MOST_LINKS):
        (await opened(links, number)).close()  # and it never says that they are gone
    with pytest.raises(frames.FrameError):
        await opened(links, MOST_LINKS)


async def test_one_that_comes_when_nobody_waits_is_dropped(alone) -> None:
    links, told = alone
    asking = asyncio.create_task(links.accept())
    await asyncio.sleep(0)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    links.take(said(frames.LINK, 7, {"port": 1}))
    assert [frame.kind for frame in told] == [frames.LINK_WANT, frames.LINK_DROP]


async def test_what_comes_of_a_dropped_one_takes_no_room(alone) -> None:
    links, _ = alone
    link = await opened(links)
    links.take(said(frames.LINK_UP, 7, bytes(1 << 16)))
    link.close()
    for _ in range(2):
        links.take(said(frames.LINK_UP, 7, bytes(1 << 16)))
    links.take(said(frames.LINK_UP, 7))
    assert not link._incoming
    with pytest.raises(frames.FrameError):
        links.take(said(frames.LINK_UP, 7))
