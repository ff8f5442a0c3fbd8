"""Parts of the network: secrets in streams, sockets of VMs, lists that stay bounded."""

import base64
import socket
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.engine.vms.grants import MOST_LASTING, Grants
from mulligan.models import NetworkConnection, utc_now
from mulligan.network.addresses import Address
from mulligan.network.conversation import Terms
from mulligan.network.injection import Exchange, Injection, Replacer
from mulligan.network.limits import Limits
from mulligan.network.notes import MOST_NOTES, enter
from mulligan.network.proxy import ForeignSocketError, check_listener
from mulligan.network.rules import AllowList


@given(
    st.lists(st.sampled_from([b"secret-1", b"secret-2", b"sec", b"ret-1", b"s", b"xy"])), st.data()
)
def test_however_a_stream_is_cut_every_text_in_it_is_replaced(pieces, data) -> None:
    whole = b"".join(pieces)
    pairs = [(b"secret-1", b"AAAAAAAA"), (b"secret-2", b"BBBBBBBB")]
    replacer = Replacer(pairs)
    given_out, rest = b"", whole
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        given_out += replacer.feed(rest[:size])
        rest = rest[size:]
        assert len(given_out) + len(rest) > len(whole) - len(b"secret-1")
    given_out += replacer.finish()
    assert given_out == whole.replace(*pairs[0]).replace(*pairs[1])


def test_what_goes_there_and_what_comes_back() -> None:
    one = Injection.make("KEY", "made/up+value=4711", ["a.example"])
    assert len(one.placeholder) == len(one.value)
    assert one.value not in repr(one)
    exchange = Exchange([one])
    placeholder = one.placeholder.encode()
    assert exchange.header(b"Bearer " + placeholder) == b"Bearer made/up+value=4711"
    assert exchange.target(b"/?k=" + placeholder) == b"/?k=made%2Fup%2Bvalue%3D4711"
    basic = base64.b64encode(b"user:" + placeholder)
    sent = exchange.header(b"Basic " + basic)
    assert base64.b64decode(sent[6:]) == b"user:made/up+value=4711"
    back = exchange.answer()
    told = back.feed(b"you sent " + sent + b" and made/up+value=4711") + back.finish()
    assert told == b"you sent Basic " + basic + b" and " + placeholder
    assert exchange.header(b"Basic no-base64") == b"Basic no-base64"
    assert exchange.used() == ["KEY"]


UNFIT = ["short", "with a blank in it", "line\r\nbreak-x", "x" * 5000, "ünïcödé-x"]


@pytest.mark.parametrize("value", UNFIT)
def test_values_that_fit_no_request_are_refused_without_quoting_them(value: str) -> None:
    with pytest.raises(ValueError, match="must") as refused:
        Injection.make("KEY", value, ["a.example"])
    assert value not in str(refused.value)


def listening_elsewhere() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def not_listening() -> socket.socket:
    return socket.socket()


def of_another_kind() -> socket.socket:
    return socket.socketpair()[0]


def datagrams() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@pytest.mark.parametrize("make", [listening_elsewhere, not_listening, of_another_kind, datagrams])
def test_what_is_no_socket_of_a_vms_loopback_is_refused(make: Callable[[], socket.socket]) -> None:
    with make() as handed_over, pytest.raises(ForeignSocketError, match="listening socket"):
        check_listener(handed_over)


def test_a_socket_of_this_machines_own_network_is_refused() -> None:
    try:
        listener = socket.create_server(("127.0.0.1", 3128))
    except OSError:
        pytest.skip("something listens on port 3128 of this machine")
    with listener, pytest.raises(ForeignSocketError, match="own network"):
        check_listener(listener)


def test_lists_of_connections_stay_bounded_and_lose_no_byte() -> None:
    notes: list[NetworkConnection] = []
    number = 5 * MOST_NOTES
    for each in range(number):
        note = NetworkConnection(
            host=f"{each % (3 * MOST_NOTES)}.example",
            port=443,
            via="connect",
            verdict="refused",
            bytes_up=2,
            started_at=utc_now(),
        )
        enter(notes, note)
    assert len(notes) == 2 * MOST_NOTES
    assert sum(note.connections for note in notes) == number
    assert sum(note.bytes_up for note in notes) == 2 * number
    assert notes[-1].verdict == "mixed"


async def nobody(name: str) -> Sequence[Address]:
    raise OSError(name)


def injection(number: int) -> Injection:
    return Injection.make("KEY", f"made-up-{number:04}", ["a.example"])


def test_what_executions_name_holds_while_somebody_has_it() -> None:
    own = injection(0)
    terms = Terms(AllowList(["a.example"]), Limits(), nobody, [own])
    grants = Grants()
    grants.boots(terms)
    first = injection(1)
    assert grants.grant("e-1", [first]) == [first]
    assert terms.injections == [own]
    grants.began("e-1")
    assert terms.injections == [own, first]
    grants.ended("e-1", goes_on=True)
    again = Injection.make("KEY", first.value, ["a.example"])
    other = Injection.make("KEY", first.value, ["b.example"])
    assert grants.grant("e-2", [again, other]) == [first, other]
    grants.began("e-2")
    grants.not_started("e-2")
    grants.ended("e-2", goes_on=False)
    assert terms.injections == [own, first]
    grants.grant("e-3", [injection(3)])
    grants.not_started("e-3")
    grants.began("e-3")
    assert terms.injections == [own, first]
    for number in range(MOST_LASTING):
        grants.grant(f"l-{number}", [injection(number + 4)])
        grants.began(f"l-{number}")
        grants.ended(f"l-{number}", goes_on=True)
    assert len(terms.injections) == 1 + MOST_LASTING
    assert first not in terms.injections
    booted = Terms(AllowList(["a.example"]), Limits(), nobody, [own])
    grants.boots(booted)
    grants.grant("e-4", [again])
    grants.began("e-4")
    assert booted.injections == [own, again]
