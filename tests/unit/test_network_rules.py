"""Hosts in every notation, addresses that are not public, and allow-lists."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.network import names
from mulligan.network.addresses import is_own, not_public
from mulligan.network.rules import AllowList, parse, uncovered

LOOPBACK = IPv4Address("127.0.0.1")
WRITTEN = [
    ("127.0.0.1", LOOPBACK),
    ("127.1", LOOPBACK),
    ("127.0.1", LOOPBACK),
    ("2130706433", LOOPBACK),
    ("0x7f000001", LOOPBACK),
    ("0X7F.0.0.1", LOOPBACK),
    ("017700000001", LOOPBACK),
    ("0177.0.0.0x1", LOOPBACK),
    ("127.0.0.1.", LOOPBACK),
    ("[::ffff:127.0.0.1]", LOOPBACK),
    ("[::FFFF:7f00:1]", LOOPBACK),
    ("\uff11\uff12\uff17.0.0.1", LOOPBACK),
    ("127\u30020\u30020\u30021", LOOPBACK),
    ("0xa9fea9fe", IPv4Address("169.254.169.254")),
    ("0", IPv4Address("0.0.0.0")),
    ("[::1]", IPv6Address("::1")),
    ("fd00:ec2::254", IPv6Address("fd00:ec2::254")),
    ("Example.ORG", "example.org"),
    ("example.org.", "example.org"),
    ("B\u00dcCHER.example", "xn--bcher-kva.example"),
    ("fa\u00df.example", "xn--fa-hia.example"),
    ("_dmarc.example.org", "_dmarc.example.org"),
]
NO_HOSTS = [
    "",
    ".",
    "..",
    "a..b",
    "-a.example",
    "a-.example",
    "a b",
    "a/b",
    "a\\b",
    "a%2eb",
    "user@host",
    "1.2.3.4.5",
    "256.1.1.1",
    "4294967296",
    "0x100000000",
    "08.1.1.1",
    "example.0x7f",
    "127.0.0.1..",
    "[::1",
    "[fe80::1%eth0]",
    "[127.0.0.1]",
    "::1::",
    "a" * 64,
    "a." * 127 + "a",
    "\ud800",
    "xn--\u00fc",
    "a\r\nb",
    "a\0b",
]


@pytest.mark.parametrize(("text", "host"), WRITTEN)
def test_every_way_to_write_a_host_is_that_host(text: str, host: names.Host) -> None:
    assert names.canonical(text) == host


@pytest.mark.parametrize("text", NO_HOSTS)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        names.canonical(text)


@given(st.ip_addresses(v=4), st.integers(1, 4), st.data())
def test_numbers_are_read_as_resolvers_read_them(address, parts, data) -> None:
    value = int(address)
    pieces = [(value >> (24 - 8 * place)) & 0xFF for place in range(parts - 1)]
    pieces.append(value & (256 ** (5 - parts) - 1))
    forms = st.sampled_from([str, hex, lambda n: f"0{n:o}" if n else "0"])
    text = ".".join(data.draw(forms)(piece) for piece in pieces)
    assert names.canonical(text) == address
    assert names.canonical(f"[::ffff:{address}]") == address


@given(st.text(max_size=60))
def test_anything_is_a_host_in_one_form_or_none(text: str) -> None:
    try:
        host = names.canonical(text)
    except ValueError:
        return
    assert names.canonical(str(host)) == host
    if isinstance(host, str):
        assert host.isascii()
        assert not host.replace(".", "").isdigit()


@given(st.text(max_size=60), st.sampled_from([None, 80]))
def test_anything_is_an_authority_or_none(text: str, default: int | None) -> None:
    try:
        host, port = names.authority(text, default)
    except ValueError:
        return
    assert names.authority(names.shown(host, port), None) == (host, port)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "shared by a carrier"),
        ("169.254.1.1", "link-local"),
        ("169.254.169.254", "a cloud's metadata service"),
        ("168.63.129.16", "a cloud's metadata service"),
        ("100.100.100.200", "a cloud's metadata service"),
        ("fd00:ec2::254", "a cloud's metadata service"),
        ("0.0.0.0", "of this network"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("198.18.0.1", "benchmarking"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::127.0.0.1", "reserved"),
        ("::ffff:10.0.0.1", "private"),
        ("fe80::1", "link-local"),
        ("fec0::1", "private"),
        ("fc00::1", "private"),
        ("ff02::1", "multicast"),
        ("2002:7f00:1::", "6to4, which stands for an IPv4 address"),
        ("2001:0:1::", "reserved"),
        ("64:ff9b::a9fe:a9fe", "a cloud's metadata service"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b:1::1", "reserved"),
        ("4000::1", "reserved"),
        ("93.184.215.14", None),
        ("172.32.0.1", None),
        ("2606:2800:21f::1", None),
        ("64:ff9b::5db8:d70e", None),
    ],
)
def test_what_is_not_public_is_known(address: str, kind: str | None) -> None:
    assert not_public(ip_address(address)) == kind


@given(st.ip_addresses())
def test_nothing_that_python_knows_to_be_special_is_public(address) -> None:
    special = (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_private
        or address.is_unspecified
    )
    assert not special or not_public(address) is not None


def test_an_own_address_is_known_without_sending_anything() -> None:
    assert is_own(ip_address("127.0.0.1"))
    assert not is_own(ip_address("192.0.2.1"))


ENTRIES = [
    # entry, host, port, whether
    ("example.org", "example.org", 443, True),
    ("example.org", "example.org", 80, True),
    ("example.org", "example.org", 22, False),
    ("example.org", "www.example.org", 443, False),
    ("EXAMPLE.org.:8443", "example.org", 8443, True),
    ("*.example.org", "www.example.org", 443, True),
    ("*.example.org", "a.b.example.org", 443, True),
    ("*.example.org", "example.org", 443, False),
    ("*.example.org", "notexample.org", 443, False),
    ("*.example.org", "example.org.evil.example", 443, False),
    ("example.org:*", "example.org", 22, True),
    ("*", "anything.example", 443, True),
    ("*", "anything.example", 22, False),
    ("*:22", "anything.example", 22, True),
    ("*", "93.184.215.14", 443, True),
    ("*", "127.0.0.1", 443, False),
    ("*", "169.254.169.254", 80, False),
    ("127.0.0.1:8000", "127.0.0.1", 8000, True),
    ("127.0.0.1:8000", "127.1", 8000, True),
    ("127.0.0.1:8000", "[::ffff:127.0.0.1]", 8000, True),
    ("127.0.0.1:8000", "127.0.0.1", 8001, False),
    ("[2606:2800::1]", "2606:2800:0::1", 443, True),
    ("b\u00fccher.example", "xn--bcher-kva.example", 443, True),
]


@pytest.mark.parametrize(("entry", "host", "port", "taken"), ENTRIES)
def test_an_entry_takes_what_it_says(entry: str, host: str, port: int, taken: bool) -> None:
    assert AllowList([entry]).takes(names.canonical(host), port) is taken
    assert str(parse(str(parse(entry)))) == str(parse(entry))


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("https://example.org", "is a URL"),
        ("example.org/path", "has a path"),
        ("10.0.0.0/8", "a network of addresses"),
        ("user@example.org", "names a user"),
        ("localhost:8000", "name 127.0.0.1"),
        ("db.localhost", "name 127.0.0.1"),
        ("169.254.169.254", "metadata service"),
        ("0xa9fea9fe:80", "metadata service"),
        ("[fd00:ec2::254]", "metadata service"),
        ("0.0.0.0:80", "no address of one host"),
        ("224.0.0.1", "no address of one host"),
        ("*.127.0.0.1", "nothing below"),
        ("example.org:0", "from 1 to 65535"),
        ("example.org:99999", "from 1 to 65535"),
        ("example.org:http", "no port number"),
        ("example.org:", "no port number"),
        ("www.*.org", "is no host"),
        ("**", "is no host"),
        ("", "is no host"),
        ("no host", "is no host"),
    ],
)
def test_an_entry_that_is_none_says_why(entry: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        parse(entry)
    assert "an entry is a host" in str(refused.value)


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("example.org", "example.org:443", True),
        ("example.org:443", "example.org", False),
        ("*.example.org", "a.example.org", True),
        ("*.example.org", "*.a.example.org", True),
        ("*.example.org", "*.example.org:443", True),
        ("*.example.org", "example.org", False),
        ("*.a.example.org", "*.example.org", False),
        ("*", "*.example.org", True),
        ("*", "10.0.0.1", False),
        ("*", "*:22", False),
        ("*:*", "*:22", True),
        ("example.org:*", "example.org", True),
        ("10.0.0.1:8000", "10.1:8000", True),
    ],
)
def test_a_list_of_ones_own_is_narrower(wide: str, narrow: str, covered: bool) -> None:
    assert (uncovered([narrow], [wide]) is None) is covered


def test_both_lists_have_to_take_a_host() -> None:
    allowed = AllowList(["*.example.org", "10.0.0.1"], ["a.example.org", "b.example.net"])
    assert allowed.takes("a.example.org", 443)
    assert not allowed.takes("c.example.org", 443)
    assert not allowed.takes("b.example.net", 443)
    assert not allowed.names_address(IPv4Address("10.0.0.1"), 443)
