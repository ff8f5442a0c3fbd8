"""Frames: whatever the split, the same; and nothing waits for a frame that cannot be one."""

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.guest import frames
from mulligan.guest.frames import HEADER, MAX_PAYLOAD, VERSION, Decoder, Frame, FrameError, encode

KINDS = frames.FROM_HOST | frames.FROM_AGENT
FRAMES = st.lists(
    st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 2**32 - 1), st.binary(max_size=300)),
    max_size=12,
)
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=9)
VALUES = st.recursive(SCALARS, st.lists, max_leaves=8)


@settings(deadline=None)
@given(FRAMES, st.lists(st.integers(0, 4096)))
def test_any_frames_in_any_split(sent: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode(*frame) for frame in sent)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder, got = Decoder(KINDS), []
    for start, end in pairwise(edges):
        got += decoder.feed(stream[start:end])
    assert [(frame.kind, frame.channel, frame.payload) for frame in got] == sent


@settings(deadline=None)
@given(FRAMES)
def test_frames_come_out_as_soon_as_they_are_whole(sent: list[tuple[int, int, bytes]]) -> None:
    decoder = Decoder(KINDS)
    for frame in sent:
        data = encode(*frame)
        assert decoder.feed(data[:-1]) == []
        (whole,) = decoder.feed(data[-1:])
        assert (whole.kind, whole.channel, whole.payload) == frame


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.binary(max_size=60)
        | st.builds(
            HEADER.pack,
            st.integers(0, 300) | st.integers(0, 2**32 - 1),
            st.sampled_from([VERSION, 0, 2, 255]),
            st.integers(0, 255),
            st.integers(0, 2**32 - 1),
        ),
        max_size=12,
    )
)
def test_any_bytes_are_frames_or_refused_and_what_waits_is_bounded(pieces: list[bytes]) -> None:
    decoder, fed, framed = Decoder(frames.FROM_AGENT, max_payload=100), 0, 0
    for piece in pieces:
        fed += len(piece)
        try:
            found = decoder.feed(piece)
        except FrameError:
            with pytest.raises(FrameError):  # and for good
                decoder.feed(b"")
            return
        for frame in found:
            assert frame.kind in frames.FROM_AGENT
            assert len(frame.payload) <= 100
            framed += HEADER.size + len(frame.payload)
        assert fed - framed < HEADER.size + 100


@settings(deadline=None)
@given(FRAMES, st.integers(0, 5000), st.binary(min_size=1, max_size=20))
def test_a_damaged_stream_gives_what_came_before(
    sent: list[tuple[int, int, bytes]], at: int, damage: bytes
) -> None:
    stream = b"".join(encode(*frame) for frame in sent)
    at = min(at, len(stream))
    got = []
    decoder = Decoder(KINDS)
    with contextlib.suppress(FrameError):
        for byte in stream[:at] + damage + stream[at + len(damage) :]:
            got += decoder.feed(bytes([byte]))
    whole = [Frame(*frame) for frame in sent]
    end = 0
    for expected, found in zip(whole, got, strict=False):
        end += HEADER.size + len(expected.payload)
        if end > at:
            break
        assert (found.kind, found.channel, found.payload) == (
            expected.kind,
            expected.channel,
            expected.payload,
        )


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_payload_is_an_object_or_refused(payload: bytes) -> None:
    with contextlib.suppress(FrameError):
        assert isinstance(Frame(frames.START, 1, payload).body(), dict)


@settings(deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_objects_come_back(value: dict[str, object]) -> None:
    (frame,) = Decoder(KINDS).feed(encode(frames.START, 7, value))
    assert frame.body() == value


def test_the_bytes_are_those_of_the_description() -> None:
    expected = b"\x00\x00\x00\x07\x01\x02\x00\x00\x01\x00" + b'{"a":1}'
    assert encode(frames.START, 256, {"a": 1}) == expected
    assert encode(frames.PING) == b"\x00\x00\x00\x00\x01\x06\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ((1, 0, frames.PONG, 0), "version 0, expected 1"),
        ((1, VERSION + 1, frames.PONG, 0), "version 2, expected 1"),
        ((1, VERSION, 0, 0), "unexpected kind 0"),
        ((1, VERSION, 255, 0), "unexpected kind 255"),
        ((1, VERSION, frames.START, 0), "unexpected kind 2"),
        ((101, VERSION, frames.PONG, 0), "101 bytes is over 100"),
        ((2**32 - 1, VERSION, frames.PONG, 0), "4294967295 bytes is over 100"),
    ],
)
def test_a_bad_header_is_refused_at_once_and_for_good(
    header: tuple[int, int, int, int], said: str
) -> None:
    decoder = Decoder(frames.FROM_AGENT, max_payload=100)
    data = HEADER.pack(*header)
    assert decoder.feed(data[:-1]) == []
    with pytest.raises(FrameError, match=said):
        decoder.feed(data[-1:])
    with pytest.raises(FrameError, match=said):
        decoder.feed(encode(frames.PONG))


def test_neither_side_takes_what_only_it_may_send() -> None:
    for accept, refuse in (
        (frames.FROM_HOST, frames.FROM_AGENT),
        (frames.FROM_AGENT, frames.FROM_HOST),
    ):
        for kind in accept:
            assert len(Decoder(accept).feed(encode(kind))) == 1
        for kind in refuse:
            with pytest.raises(FrameError, match=f"unexpected kind {kind}$"):
                Decoder(accept).feed(encode(kind))


def test_the_longest_payload_is_taken() -> None:
    decoder = Decoder(KINDS, max_payload=100)
    assert len(decoder.feed(encode(frames.STDOUT, 1, bytes(100)))) == 1
    with pytest.raises(FrameError, match="over 100"):
        decoder.feed(encode(frames.STDOUT, 1, bytes(101)))


def test_nothing_over_the_bound_is_encoded() -> None:
    assert len(encode(frames.STDIN, 1, bytes(MAX_PAYLOAD))) == HEADER.size + MAX_PAYLOAD
    with pytest.raises(FrameError, match=f"{MAX_PAYLOAD + 1} bytes is over"):
        encode(frames.STDIN, 1, bytes(MAX_PAYLOAD + 1))


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"{", "no JSON payload"),
        (b"\xff\xfe\xff", "no JSON payload"),
        (b'{"a":1} x', "no JSON payload"),
        (b'{"a":' * 100_000, "no JSON payload"),
        (b"[" * 100_000 + b"]" * 100_000, "no JSON payload"),
        (b'{"a":' + b"9" * 5000 + b"}", "no JSON payload"),
        (b"[]", "no object"),
        (b"null", "no object"),
        (b"1", "no object"),
        (b'"{}"', "no object"),
    ],
    ids=lambda value: f"{value!r:.24}",
)
def test_bodies_that_are_no_objects(payload: bytes, said: str) -> None:
    with pytest.raises(FrameError, match=f"frame of kind {frames.START} .*{said}"):
        Frame(frames.START, 1, payload).body()


def test_an_empty_payload_is_an_empty_object() -> None:
    assert Frame(frames.PING, 0, b"").body() == {}
