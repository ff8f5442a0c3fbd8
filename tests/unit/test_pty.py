"""The host's end of a terminal: bounded whatever the other end, or the one who uses it, does."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.engine.terminals.pty import IN_FLIGHT, KEPT, WINDOW, Pty
from mulligan.guest import frames
from mulligan.guest.frames import LAST_WORDS, FrameError

pytestmark = pytest.mark.anyio
SIZES = st.integers(1, 3 * IN_FLIGHT)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), SIZES),
        st.tuples(st.just("output"), SIZES),
        st.tuples(st.just("take"), SIZES),
        st.tuples(st.just("read"), st.just(0)),
    ),
    max_size=30,
)


class Agent:
    """The other end, keeping to the protocol."""

    def __init__(self, pty: Pty) -> None:
        self.pty = pty
        self.credit = WINDOW
        self.wrote = b""
        self.held = b""
        self.took = b""
        self.other: list[tuple[int, object]] = []
        pty.asked(self.hear)

    def hear(self, kind: int, body: bytes | dict[str, object]) -> None:
        if kind == frames.CREDIT:
            assert isinstance(body, dict)
            self.credit += int(str(body["bytes"]))
        elif kind == frames.STDIN:
            assert isinstance(body, bytes)
            self.held += body
            assert len(self.held) <= IN_FLIGHT
        else:
            self.other.append((kind, body))

    def output(self, size: int) -> None:
        data = bytes(index % 251 for index in range(min(size, self.credit)))
        self.credit -= len(data)
        self.wrote += data
        self.pty.output(data)

    def take(self, size: int) -> None:
        taken = self.held[:size]
        self.held = self.held[size:]
        self.took += taken
        self.pty.taken(len(taken))


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_what_goes_in_comes_out_within_the_windows(steps: list[tuple[str, int]]) -> None:
    async def scenario() -> None:
        pty = Pty(80, 24)
        agent = Agent(pty)
        sent, got = b"", b""
        writing: asyncio.Task[None] | None = None
        for step, size in steps:
            if step == "write":
                if writing is not None and not writing.done():
                    continue
                data = bytes(index % 241 for index in range(size)) * 8
                sent += data
                writing = asyncio.create_task(pty.write(data))
            elif step == "read":
                if pty._output:
                    got += await pty.read()
            else:
                getattr(agent, step)(size)
            await asyncio.sleep(0)
            assert len(pty._input) <= KEPT
            assert len(pty._output) <= WINDOW
        while len(agent.took) < len(sent):
            agent.take(IN_FLIGHT)
            await asyncio.sleep(0)
        if writing is not None:
            await writing
        pty.over()
        while data := await pty.read():
            got += data
        assert agent.took == sent
        assert got == agent.wrote

    asyncio.run(scenario())


async def test_output_beyond_what_was_granted_breaks_the_protocol() -> None:
    pty = Pty(80, 24)
    Agent(pty)
    pty.output(bytes(WINDOW))
    pty.output(bytes(LAST_WORDS))
    with pytest.raises(FrameError, match="more of a terminal's output"):
        pty.output(b"x")


async def test_input_that_was_never_sent_cannot_be_taken() -> None:
    pty = Pty(80, 24)
    agent = Agent(pty)
    await pty.write(b"abc")
    agent.take(3)
    with pytest.raises(FrameError, match="more input than it was sent"):
        pty.taken(1)


async def test_a_writer_waits_for_room_and_is_let_go_at_the_end() -> None:
    pty = Pty(80, 24)
    agent = Agent(pty)
    writing = asyncio.create_task(pty.write(bytes(KEPT + IN_FLIGHT + 1)))
    await asyncio.sleep(0)
    assert not writing.done()
    agent.take(1)
    await asyncio.sleep(0)
    await asyncio.wait_for(writing, 5)
    writing = asyncio.create_task(pty.write(bytes(2)))
    await asyncio.sleep(0)
    assert not writing.done()
    pty.over()
    await asyncio.wait_for(writing, 5)


async def test_a_reader_is_let_go_at_the_end() -> None:
    pty = Pty(80, 24)
    reading = asyncio.create_task(pty.read())
    await asyncio.sleep(0)
    pty.over()
    assert await asyncio.wait_for(reading, 5) == b""


async def test_a_size_that_changes_before_the_start_is_that_of_the_start() -> None:
    pty = Pty(80, 24)
    pty.resize(10, 20)
    assert pty.body() == {"cols": 10, "rows": 20, "window": WINDOW}
    agent = Agent(pty)
    pty.resize(11, 21)
    pty.signal(2)
    assert agent.other == [
        (frames.RESIZE, {"cols": 11, "rows": 21}),
        (frames.SIGNAL, {"number": 2}),
    ]
    pty.over()
    pty.resize(1, 1)
    pty.signal(9)
    assert len(agent.other) == 2
