"""A connection to an agent that lies: given up for a reason, at once, within bounds."""

import asyncio
import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mulligan.engine.executions.results import response_of
from mulligan.engine.terminals.pty import Pty
from mulligan.engine.vms import connection as connection_module
from mulligan.engine.vms import unasked
from mulligan.engine.vms.replies import (
    MOST_CPU_US,
    MOST_DISK_BYTES,
    MOST_NOTE,
    disk_state,
    kernel_memories,
    plausible,
    program_result,
    read_diff,
)
from mulligan.errors import ExecutionFailed
from mulligan.guest import frames
from mulligan.models import VmExecuteResponse, utc_now
from support.lying_peer import EXIT, Peer, frame, header, program

pytestmark = pytest.mark.anyio
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
EVIL = "\x1b]8;;http://x\x07<script>[bold]\u202e\x9b2J\n"

# What ends a connection at once, whatever its state; {0} is the channel of the one that runs.
LIES = {
    "another version": (header(0, frames.STDOUT, 1, version=2), "version 2"),
    "an unknown kind": (header(0, 99, 1), "unexpected kind 99"),
    "one of the host's kinds": (header(0, frames.START, 1), "unexpected kind 2"),
    "a huge length": (header(2**32 - 1, frames.STDOUT, 1), "4294967295 bytes"),
    "just over the longest": (header(4 * 2**20 + 1, frames.EXIT, 1), "is over 4194304"),
    "a long piece of output": (frame(frames.STDOUT, 1, bytes(65537)), "65537 bytes in a frame"),
    "a long refusal": (frame(frames.FATAL, 0, b'"' + bytes(70_000) + b'"'), "in a frame of kind"),
    "more output than asked": (frame(frames.STDOUT, 1, bytes(1001)), "more output"),
    "what never was": (frame(frames.STDOUT, 7, b"x"), "there never was"),
    "a channel of its own": (frame(frames.EXIT, 2**32 - 1, EXIT), "there never was"),
    "an end in no JSON": (frame(frames.EXIT, 1, b"{"), "no JSON"),
    "an end in no UTF-8": (frame(frames.EXIT, 1, b'{"a":"\xff"}'), "no JSON"),
    "an end that is a list": (frame(frames.EXIT, 1, b"[]"), "no object"),
    "an end nested deeply": (frame(frames.EXIT, 1, DEEP), "no JSON"),
    "an end with nothing": (frame(frames.EXIT, 1, b""), "no known reason"),
    "no number": (frame(frames.EXIT, 1, b'{"status": NaN}'), "no JSON"),
    "a number of 5000 digits": (frame(frames.EXIT, 1, b'{"status":' + b"9" * 5000 + b"}"), "JSON"),
    "news of no disk": (frame(frames.DISK, 0, {"state": "well", "sizes": {}}), "no known state"),
    "programs nobody counted": (frame(frames.MEMORY, 0, {"ended": -1}), "no number in range"),
    "sizes of no disk": (frame(frames.DISK, 0, {"state": "full", "sizes": [1]}), "no object"),
    "a connection of none": (frame(frames.LINK, 0, {"port": 1}), "of a VM that has none"),
    "bytes of a connection": (frame(frames.LINK_UP, 7, b"x"), "of a VM that has none"),
    "it says why": (frame(frames.FATAL, 0, {"message": EVIL}), "http://x"),
    "it gives no reason": (frame(frames.FATAL), "gave no reason"),
    "a type that is a number": (
        frame(frames.EXIT, 1, EXIT | {"results": [{"mime_type": 1, "data": ""}]}),
        "mime_type is no text",
    ),
    **{
        f"{name} = {value!r:.30}": (frame(frames.EXIT, 1, EXIT | {name: value}), name.split("_")[0])
        for name, values in {
            "stdout_bytes": (-1, 2**64, 10**4000, "1", None, True, [1]),
            "user_us": (-1, 2**63, "0"),
            "max_rss_kb": (2**62, {}),
            "background": (2**31,),
            "written": (2**64, -5, "many"),
            "status": (-1, 2**40, 0x7F, None),
            "reason": ("because", None, 5),
            "notes": ("text", [1], ["x"] * 65, {"a": 1}),
            "results": ([[]], [{}] * 65, "x"),
            "result": (5, ["x"]),
        }.items()
        for value in values
    },
}


@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
async def test_a_lie_is_the_end(lie: tuple[bytes, str]) -> None:
    said, why = lie
    async with Peer() as peer:
        running = asyncio.create_task(peer.connection.run(program()))
        await peer.heard(frames.START)
        peer.say(said)
        with pytest.raises(ExecutionFailed) as failed:
            await running
        assert why in str(failed.value)
        assert len(str(failed.value)) < 1000
        assert len(peer.reasons) == 1
        with pytest.raises(ExecutionFailed, match="the VM ended"):
            await peer.connection.run(program())


@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
async def test_a_lie_before_it_is_ready_is_the_end(lie: tuple[bytes, str]) -> None:
    async with Peer() as peer:
        booting = asyncio.create_task(peer.connection.boot({}, 60))
        await peer.heard(frames.BOOT)
        peer.say(lie[0])
        with pytest.raises(ExecutionFailed, match="the VM could not boot"):
            await booting


@pytest.mark.parametrize("when", ["boot", "run", "ask", "half a frame"])
async def test_it_goes_away(when: str) -> None:
    async with Peer() as peer:
        work = {
            "boot": lambda: peer.connection.boot({}, 60),
            "ask": lambda: peer.connection.kernels("list", ""),
        }.get(when, lambda: peer.connection.run(program()))
        task = asyncio.create_task(work())
        await peer.reader.readexactly(frames.HEADER.size)
        if when == "half a frame":
            peer.say(header(1000, frames.EXIT, 1) + b"{")
            await peer.writer.drain()
        peer.writer.transport.abort()
        with pytest.raises(ExecutionFailed, match=r"its agent is gone|broke"):
            await task


@pytest.mark.parametrize("half", [b"", header(1000, frames.EXIT, 1) + b'{"reason"'])
async def test_it_never_answers(half: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation has an end of its own; half a frame is no answer."""
    monkeypatch.setattr(connection_module, "BACKSTOP_S", 0.05)
    monkeypatch.setattr(connection_module, "ASK_S", 0.05)
    operations = {
        "boot": lambda one: one.boot({}, 0.05),
        "run": lambda one: one.run(program(timeout_ms=10)),
        "feed": lambda one: one.run(program(timeout_ms=10, stdin=bytes(10**7))),
        "pause": lambda one: one.pause(),
        "kernels": lambda one: one.kernels("list", ""),
        "move": lambda one: one.move([], 1, end=True),
    }
    for name, operation in operations.items():
        async with Peer() as peer:
            peer.say(half if name in ("run", "feed") else b"")
            with pytest.raises(ExecutionFailed):
                await asyncio.wait_for(operation(peer.connection), 30)


async def test_a_cancel_it_does_not_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BACKSTOP_S", 0.05)
    async with Peer() as peer:
        running = asyncio.create_task(peer.connection.run(program()))
        await peer.heard(frames.START)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await peer.given_up() == "it did not end a cancelled execution"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (frames.READY, b"\xff nonsense"),
        (frames.PONG, b"{}"),
        (frames.STDOUT, b""),
        (frames.STARTED, b"{"),
        (frames.TAKEN, b"{"),
        (frames.PAUSED, b'{"holds":true}'),
        (frames.ROOT_DONE, b"{"),
        (frames.KERNELS_DONE, b"["),
        (frames.DISK, b'{"state":"full","sizes":{"x":1}}'),
        (frames.MEMORY, b'{"ended":1}'),
    ],
)
async def test_a_flood_of_what_nobody_asked_for(kind: int, body: bytes) -> None:
    """A few are passed over; a flood is the end, and nothing of it is kept."""
    async with Peer() as peer:
        running = asyncio.create_task(peer.connection.run(program()))
        await peer.heard(frames.START)
        channel = 1 if kind in (frames.STDOUT, frames.STARTED, frames.TAKEN) else 0
        peer.say(frame(frames.READY))
        peer.say(frame(frames.STARTED, 1))
        one = frame(kind, channel, body)
        peer.say(one * 10)
        peer.say(one * (2 * unasked.BURST // unasked.FRAME_COST))
        with pytest.raises(ExecutionFailed, match="nobody asked for"):
            await running
        assert peer.connection.counted == {}


async def test_a_second_end_and_words_after_it_change_nothing() -> None:
    heard: list[bytes] = []
    async with Peer() as peer:
        work = peer.connection.run(program(), lambda _, data: heard.append(data))
        running = asyncio.create_task(work)
        await peer.heard(frames.START)
        first = frame(frames.STDOUT, 1, b"one") + frame(frames.EXIT, 1, EXIT | {"stdout_bytes": 3})
        late = frame(frames.STDOUT, 1, b"two") + frame(frames.EXIT, 1, EXIT | {"status": 256})
        peer.say(first + late)
        result = await running
        assert (result.stdout, result.status, heard) == (b"one", 0, [b"one"])
        assert peer.reasons == []


async def test_an_answer_to_another_question_is_none() -> None:
    async with Peer() as peer:
        asked = asyncio.create_task(peer.connection.kernels("list", ""))
        question = await peer.heard(frames.KERNELS)
        peer.say(frame(frames.PAUSED, question.channel, {"holds": True}))
        with pytest.raises(ExecutionFailed, match="something else than it was asked"):
            await asked


async def test_sizes_nobody_wanted_are_not_kept() -> None:
    terms: dict[str, object] = {"limit": 1, "reserve": 0, "known": 0, "unknown": ["mine/tree"]}
    async with Peer() as peer:
        running = asyncio.create_task(peer.connection.run(program(disk=terms)))
        await peer.heard(frames.START)
        sizes = {"mine/tree": 5} | {f"other/{number}": 1 for number in range(1000)}
        peer.say(frame(frames.DISK, 0, {"state": "full", "sizes": sizes}))
        peer.say(frame(frames.EXIT, 1, EXIT))
        await running
        assert peer.connection.counted == {"mine/tree": 5}


async def test_one_that_reads_nothing_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "MOST_UNREAD", 10**6)
    async with Peer() as peer:
        for _ in range(1000):
            try:
                peer.connection.start(program(files={"main": "x" * 100_000}))
            except ExecutionFailed:
                break
        assert peer.reasons == ["it does not read what it is sent"]


async def test_terminals_get_what_was_granted_and_no_more() -> None:
    for lie in (
        frame(frames.STDOUT, 1, bytes(60_000)) * 20,
        frame(frames.TAKEN, 1, {"bytes": 1}),
        frame(frames.TAKEN, 1, {"bytes": -1}),
        frame(frames.TAKEN, 1, {"bytes": 0}) * 20_000,
    ):
        async with Peer() as peer:
            pty = Pty(80, 24)
            running = asyncio.create_task(peer.connection.run(program(pty=pty)))
            await peer.heard(frames.START)
            peer.say(lie)
            with pytest.raises(ExecutionFailed):
                await running
            assert pty.is_over


async def test_large_answers_are_not_kept() -> None:
    """A megabyte of each of many lies costs no more memory than one."""
    async with Peer() as peer:
        tracemalloc.start()
        try:
            for channel in range(1, 30):
                running = asyncio.create_task(peer.connection.run(program()))
                await peer.heard(frames.START)
                peer.say(frame(frames.EXIT, channel, EXIT | {"result": "x" * 2**20}))
                await running
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 20 * 2**20


# Answers, read by themselves

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 2**16),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["exit", "timeout", "setup", EVIL, "image/png", "kept", "full", "\ud800"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)
FIELDS = st.sampled_from(
    [*EXIT, "result", "results", "notes", "kernel_ended", "written", "mime_type", "data"]
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(FIELDS, VALUES, max_size=6))
def test_any_end_is_none_or_an_answer(changes: dict[str, object]) -> None:
    try:
        result = plausible(program_result(EXIT | changes, b"", b""), 1.0)
    except frames.FrameError:
        return
    answer = response_of("exec-1", "vm-1", program(), result, utc_now(), 5)
    again = VmExecuteResponse.model_validate_json(answer.model_dump_json())
    assert again.exit_code == answer.exit_code
    assert answer.cpu_ms <= MOST_CPU_US


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["kernels", "state", "sizes", "name"]), VALUES | st.lists(VALUES)
    )
)
def test_any_other_answer_is_none_or_bounded(body: dict[str, object]) -> None:
    for read in (kernel_memories, disk_state):
        try:
            read(body)
        except frames.FrameError:
            continue


def test_sizes_can_be_added_up() -> None:
    most = {"state": "full", "sizes": {"a": MOST_DISK_BYTES}}
    assert disk_state(most)[1] == {"a": MOST_DISK_BYTES}
    with pytest.raises(frames.FrameError):
        disk_state({"state": "full", "sizes": {"a": MOST_DISK_BYTES + 1}})


def test_texts_are_cut_and_can_be_written() -> None:
    body = EXIT | {"kernel_ended": "x" * 10**6, "message": "\ud800" * 1000, "notes": ["\udfff" * 9]}
    result = program_result(body, b"", b"")
    assert len(result.kernel_ended or "") == MOST_NOTE
    assert result.message == "?" * 500
    assert result.notes == ("?" * 9,)


def test_time_that_cannot_have_been_is_not_told() -> None:
    result = program_result(EXIT | {"user_us": MOST_CPU_US, "system_us": MOST_CPU_US}, b"", b"")
    assert plausible(result, 10.0).cpu_us < 10**10


@pytest.mark.parametrize(
    "kind", ["text/html\r\nX: y", "", "html", "a/b; c=d", EVIL, "x/" + "y" * 200, "a/b/c", "A/b"]
)
def test_a_type_that_is_none_does_not_come_back(kind: str) -> None:
    pairs = [{"mime_type": kind, "data": "x"}, {"mime_type": "image/svg+xml", "data": "y"}]
    result = program_result(EXIT | {"results": pairs, "notes": ["n"]}, b"", b"")
    assert result.results == (("image/svg+xml", "y"),)
    assert result.notes == ("n", "1 results of what is no media type do not come back")


@pytest.mark.parametrize(
    "kernel",
    [
        {"name": "x" * 300, "language": "python", "memory": "kept"},
        {"name": "main", "language": "x" * 300, "memory": "kept"},
        {"name": "main", "language": "python", "memory": "well"},
        {"name": 1, "language": "python", "memory": "kept"},
        {"name": "main", "language": "python", "memory": "kept", "keys": ["x"] * 300},
    ],
)
def test_kernels_that_cannot_be(kernel: dict[str, object]) -> None:
    with pytest.raises(frames.FrameError):
        kernel_memories({"kernels": [kernel]})


ENTRY = {"path": "/a", "change": "added", "kind": "file", "new_size": 1, "new_mode": "0644"}


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"end": False}],
        [[]],
        [ENTRY],
        [ENTRY | {"new_mode": "[bold]"}, {"end": True}],
        [ENTRY | {"change": EVIL}, {"end": True}],
        [ENTRY | {"kind": "x" * 1000}, {"end": True}],
        [ENTRY | {"new_size": 2**64}, {"end": True}],
        [ENTRY | {"new_size": -1}, {"end": True}],
        [{"path": "/a"}, {"end": True}],
    ],
)
def test_differences_that_cannot_be(lines: list[object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_diff("\n".join(map(json.dumps, lines)).encode())


@pytest.mark.parametrize("printed", [DEEP, b"\xff", b"[" * 10**5, b"\0", b'{"end": NaN}'])
def test_differences_in_no_json(printed: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_diff(printed)
    with pytest.raises(ValueError, match=r"\w"):
        read_diff(printed + b'\n{"end": true}')


def test_differences_with_any_line_break_of_unicode_in_a_name() -> None:
    entry = ENTRY | {"path": "/a\u2028b\x85"}
    printed = "\n".join(json.dumps(each, ensure_ascii=False) for each in (entry, {"end": True}))
    assert read_diff(printed.encode())[0][0].path == "/a\u2028b\x85"
