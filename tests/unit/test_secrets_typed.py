"""Secrets in what a terminal shows while somebody types."""

import random
import string
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.policy.secrets import InjectedSecret, Sanitizer

VALUE = "tr0ub4dor-and-3-staples"
SANITIZER = Sanitizer([InjectedSecret("KEY", VALUE)])
TYPED = [
    b"echo internationalisation",
    b"echo 'not closed yet",
    b'git commit -m "and on',
    b"\x1b[?2004hagent@mulligan:/workspace$ ls -la /usr/share/doc",
    b"\x1b[2J\x1b[10;20HLoading\xe2\x80\xa6 42%",
]


@pytest.mark.parametrize("line", TYPED)
def test_each_key_is_seen_at_once(line: bytes) -> None:
    stream = SANITIZER.stream()
    for index in range(len(line)):
        key = line[index : index + 1]
        assert stream.feed(key) + stream.flush_typed() == key


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"word ", b"\r", b"\x1b[K", b"line\r\n", b"a", b"'"]), max_size=60)
)
def test_nothing_is_lost_or_added(pieces: list[bytes]) -> None:
    stream, out = SANITIZER.stream(), b""
    for piece in pieces:
        out += stream.feed(piece) + stream.flush_typed()
    assert out + stream.finish() == b"".join(pieces)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, len(VALUE)), max_size=6), st.sampled_from([b"", b"key: ", b"x" * 99])
)
def test_a_value_in_pieces_does_not_come_out(cuts: list[int], before: bytes) -> None:
    stream, out, value = SANITIZER.stream(), b"", VALUE.encode()
    data = before + value + b"\r\n"
    edges = [0, *sorted(len(before) + cut for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        out += stream.feed(data[start:end]) + stream.flush_typed()
    out += stream.finish()
    assert value not in out
    assert b"[redacted:secret KEY]" in out
    assert out.replace(b"[redacted:secret KEY]", b"").count(value[:8]) == 0


def test_a_token_waits_for_its_end() -> None:
    draw = random.Random(5)
    token = "ghp_" + "".join(draw.choices(string.ascii_letters + string.digits, k=36))
    line = f"GITHUB_TOKEN={token}".encode()
    assert SANITIZER.redact(line.decode()).count == 1
    stream, shown = SANITIZER.stream(), b""
    for index in range(len(line)):
        shown += stream.feed(line[index : index + 1]) + stream.flush_typed()
    shown += stream.feed(b"\r\n") + stream.finish()
    assert token.encode() not in shown
    assert b"[redacted:" in shown


def test_a_screen_that_is_drawn_without_lines_costs_the_same_all_the_time() -> None:
    stream = SANITIZER.stream()
    for index in range(2000):
        piece = b"\x1b[%d;%dH\x1b[32mword%d \x1b[0m" % (index % 40, index % 80, index)
        assert stream.feed(piece) + stream.flush_typed() == piece
        assert len(stream._lines._text) < 8192
