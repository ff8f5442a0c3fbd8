"""Keys that end ``mulligan shell`` from this side."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.cli.tty import Escape

TYPED = [
    (b"ls\r", b"ls\r", False),
    (b"~.", b"", True),
    (b"\r~.rest", b"\r", True),
    (b"\n~.", b"\n", True),
    (b"a~.", b"a~.", False),
    (b"~~.", b"~.", False),
    (b"~~", b"~", False),
    (b"~x", b"~x", False),
    (b"~\r~.", b"~\r", True),
    (b"cd ~/src\r", b"cd ~/src\r", False),
    (b"~/bin/x\r", b"~/bin/x\r", False),
    (b"~", b"", False),
    ("~é".encode(), "~é".encode(), False),
]


@pytest.mark.parametrize(("typed", "sent", "ends"), TYPED)
def test_the_escape(typed: bytes, sent: bytes, ends: bool) -> None:
    assert Escape().feed(typed) == (sent, ends)


@given(st.lists(st.sampled_from([b"~", b".", b"\r", b"a", b"\n"])).map(b"".join), st.data())
def test_however_it_is_split(typed: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(typed))))
    edges = [0, *sorted(cuts), len(typed)]
    escape, sent, ends = Escape(), b"", False
    for start, end in pairwise(edges):
        piece, ends = escape.feed(typed[start:end])
        sent += piece
        if ends:
            break
    assert (sent, ends) == Escape().feed(typed)
