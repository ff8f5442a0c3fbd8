"""The buffer of an execution's events: numbers, characters, gaps, listeners."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.engine.executions import events
from mulligan.engine.executions.events import Event, EventBuffer
from mulligan.errors import ExecutionFailed
from mulligan.models import ErrorAnswer

pytestmark = pytest.mark.anyio
END = ErrorAnswer.of(ExecutionFailed("over"))
BIG = 1 << 20


async def everything(buffer: EventBuffer, after: int = 0) -> list[Event]:
    return [event async for event in buffer.listen(after)]


async def turn() -> None:
    """Lets what was scheduled for the next turn of the loop happen."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=9), st.booleans()),
        max_size=40,
    )
)
def test_text_is_that_of_the_whole_output_wherever_it_was_cut(pieces) -> None:
    async def check() -> None:
        buffer = EventBuffer(BIG)
        buffer.begin("vm-1")
        for stream, data, pause in pieces:
            buffer.output(stream, data)
            if pause:
                await turn()
        buffer.finish(END)
        found = await everything(buffer)
        assert [event.number for event in found] == list(range(1, len(found) + 1))
        for name in ("stdout", "stderr"):
            whole = b"".join(data for stream, data, _ in pieces if stream == name)
            text = "".join(event.text or "" for event in found if event.kind == name)
            assert text == whole.decode(errors="replace")

    asyncio.run(check())


async def test_a_character_over_two_pieces() -> None:
    buffer = EventBuffer(BIG)
    buffer.begin("vm-1")
    for byte in "é🎉".encode():
        buffer.output("stdout", bytes([byte]))
        await turn()
    buffer.output("stdout", b"\xf0\x9f")
    buffer.finish(END)
    texts = [event.text for event in await everything(buffer) if event.text]
    assert texts == ["é", "🎉", "\ufffd"]


async def test_streams_keep_their_order_and_neighbours_are_one_event() -> None:
    buffer = EventBuffer(BIG)
    buffer.begin("vm-1")
    for stream, data in (("stdout", b"a"), ("stdout", b"b"), ("stderr", b"c"), ("stdout", b"d")):
        buffer.output(stream, data)
    buffer.finish(END)
    found = [(event.kind, event.text) for event in await everything(buffer)][1:-1]
    assert found == [("stdout", "ab"), ("stderr", "c"), ("stdout", "d")]


async def test_who_is_too_slow_is_told_what_he_missed() -> None:
    buffer = EventBuffer(10 * (1000 + events.EVENT_COST))
    buffer.begin("vm-1")
    slow, seen = buffer.listen(), []
    seen.append(await anext(slow))
    for number in range(50):
        buffer.output("stdout", f"{number:1000}".encode())
        await turn()
        assert buffer.cost < 10 * (1000 + events.EVENT_COST) + 1000
        if number == 4:
            seen.append(await anext(slow))
    buffer.finish(END)
    seen += [event async for event in slow]
    assert [event.kind for event in seen] == ["started", "stdout", "gap", *["stdout"] * 10, "error"]
    assert seen[2].dropped_bytes == 39_000
    assert [event.number for event in seen] == [1, 2, 41, *range(42, 53)]
    # Who resumes from anywhere is told the same.
    for after in range(1, 42):
        again = await everything(buffer, after)
        missed = 1000 * (41 - after)
        assert again[0].dropped_bytes == (missed or None)
        assert again[-1].kind == "error"


async def test_output_that_is_forgotten_after_the_end_is_a_gap() -> None:
    buffer = EventBuffer(BIG)
    buffer.begin("vm-1")
    buffer.output("stdout", b"12345")
    buffer.finish(END)
    buffer.finish(END)
    buffer.forget_output()
    found = await everything(buffer)
    assert [(e.number, e.kind, e.dropped_bytes) for e in found] == [
        (1, "started", None),
        (2, "gap", 5),
        (3, "error", None),
    ]
    assert await everything(buffer, 3) == []


async def test_a_program_that_trickles_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUICK_EVENTS", 10)
    monkeypatch.setattr(events, "GATHER_S", 0.01)
    buffer = EventBuffer(BIG)
    buffer.begin("vm-1")
    for _ in range(1000):
        buffer.output("stdout", b"x")
        await turn()
    buffer.finish(END)
    found = await everything(buffer)
    assert "".join(event.text or "" for event in found) == "x" * 1000
    assert len(found) < 500


async def test_all_listeners_hear_all_of_it() -> None:
    buffer = EventBuffer(BIG)
    buffer.begin("vm-1")
    listeners = [asyncio.create_task(everything(buffer)) for _ in range(1000)]
    for number in range(20):
        buffer.output("stdout", f"{number}\n".encode())
        await turn()
    buffer.finish(END)
    heard = await asyncio.gather(*listeners)
    assert all(each == heard[0] for each in heard)
    assert [event.text for event in heard[0][1:-1]] == [f"{n}\n" for n in range(20)]


async def test_who_waits_in_silence_gets_heartbeats() -> None:
    buffer = EventBuffer(BIG)
    buffer.begin("vm-1")
    listener = buffer.listen(1, heartbeat_s=0.01)
    assert (await anext(listener)).kind == "idle"
    buffer.output("stdout", b"x")
    found = [event.kind async for event in listener if buffer.finish(END) is None]
    assert [kind for kind in found if kind != "idle"] == ["stdout", "error"]


async def test_line_breaks_of_unicode_are_escaped() -> None:
    body = events.json_body(ErrorAnswer.of(ExecutionFailed("a\u2028b\u2029c\x85d")))
    assert len(body.decode().splitlines()) == 1
    assert ErrorAnswer.model_validate_json(body).error == {
        "ExecutionFailed": "a\u2028b\u2029c\x85d"
    }
