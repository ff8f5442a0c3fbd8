"""What comes from a program that works on files: bounded whatever it sends."""

from hypothesis import given
from hypothesis import strategies as st

from mulligan.engine.files.transfers import MESSAGE_COST, MOST_MESSAGE, Inbox
from mulligan.guest import filework

messages = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50)), max_size=20)


def encoded(items: list[tuple[int, bytes]]) -> bytes:
    return b"".join(filework.HEADER.pack(kind, len(payload)) + payload for kind, payload in items)


def drained(inbox: Inbox) -> list[tuple[int, bytes]]:
    found = []
    while (message := inbox.next()) is not None:
        found.append(message)
    return found


@given(items=messages, cuts=st.lists(st.integers(0, 2000), max_size=10))
def test_messages_come_out_however_they_are_cut(
    items: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data, inbox, start = encoded(items), Inbox(), 0
    for cut in [*sorted(cuts), len(data)]:
        inbox.feed(data[start:cut])
        start = max(start, cut)
    assert drained(inbox) == items
    assert inbox.broken is None


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_anything_may_come(pieces: list[bytes]) -> None:
    inbox = Inbox(most=1000)
    for piece in pieces:
        inbox.feed(piece)
        assert len(inbox._buffer) <= filework.HEADER.size + MOST_MESSAGE
        assert inbox._held <= 1000 or inbox.broken


def test_a_message_may_not_be_long() -> None:
    inbox = Inbox()
    inbox.feed(filework.HEADER.pack(filework.DATA, MOST_MESSAGE + 1))
    assert "a message of" in (inbox.broken or "")
    inbox.feed(bytes(10**6))
    assert not inbox._buffer


def test_empty_messages_are_bounded_too() -> None:
    inbox = Inbox(most=100 * MESSAGE_COST)
    inbox.feed(filework.HEADER.pack(filework.DATA, 0) * 100)
    assert inbox.broken is None
    inbox.feed(filework.HEADER.pack(filework.DATA, 0))
    assert inbox.broken is not None
    assert inbox.next() is None


def test_what_is_read_makes_room() -> None:
    inbox = Inbox(most=1000)
    for _ in range(100):
        inbox.feed(encoded([(filework.DATA, bytes(500))]))
        assert inbox.next() == (filework.DATA, bytes(500))
    assert inbox.broken is None
