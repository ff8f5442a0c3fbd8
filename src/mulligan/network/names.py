"""Hosts as they are written, brought to one form: every way to write an address is that address.

Names follow RFC 1123 (and ``_``, as resolvers take it), internationalized ones UTS 46. Numbers are
read as ``inet_aton`` and browsers do (WHATWG URL, "IPv4 parser"): ``127.1``, ``0x7f000001``,
``017700000001`` and ``2130706433`` are all 127.0.0.1.
"""

from __future__ import annotations

import ipaddress
import string
from ipaddress import IPv4Address, IPv6Address

import idna

Host = str | IPv4Address | IPv6Address

MAX_NAME = 253
MAX_LABEL = 63
MAX_PORT = 65535
_LABEL = frozenset(string.ascii_lowercase + string.digits + "-_")
_IPV4_PARTS = 4
_BYTE = 256
_MOST_DIGITS = 40


def canonical(text: str) -> Host:
    """A host in its one form: an address, or a name in small ASCII letters without a last dot.

    An IPv6 address that only wraps an IPv4 one (``::ffff:127.0.0.1``) is that.

    Raises:
        ValueError: it is none, or one that nobody should have to guess the meaning of.
    """
    if len(text) > 4 * MAX_NAME:
        raise ValueError("is too long for a host")
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1])
    if ":" in text:
        return _ipv6(text)
    name = _ascii(text)
    name = name.removesuffix(".")
    labels = name.split(".")
    if _numeric(labels[-1]):
        return _ipv4(labels)
    for label in labels:
        if not 1 <= len(label) <= MAX_LABEL or not _LABEL.issuperset(label):
            raise ValueError("is no host")
        if label.startswith("-") or label.endswith("-"):
            raise ValueError("is no host")
    if len(name) > MAX_NAME:
        raise ValueError("is too long for a host")
    return name


def authority(text: str, default_port: int | None) -> tuple[Host, int]:
    """``host[:port]`` as it stands in requests and URLs.

    Raises:
        ValueError: it is none; also where it names a user, which hides the host behind it.
    """
    if "@" in text:
        raise ValueError("names a user, which is not taken")
    host, port = split_port(text)
    if port is None and default_port is None:
        raise ValueError("has no port")
    return canonical(host), default_port if port is None else port_number(port)  # type: ignore[return-value]


def split_port(text: str) -> tuple[str, str | None]:
    """``host:port`` in two; an IPv6 address with a port stands in brackets."""
    if text.startswith("["):
        end = text.find("]")
        rest = text[end + 1 :]
        if end > 0 and rest.startswith(":"):
            return text[: end + 1], rest[1:]
        return text, None
    host, colon, port = text.rpartition(":")
    if not colon or ":" in host:
        return text, None
    return host, port


def port_number(text: str) -> int:
    """A port.

    Raises:
        ValueError: it is none.
    """
    if not text.isascii() or not text.isdigit() or len(text) > len(str(MAX_PORT)):
        raise ValueError("has no port number behind the colon")
    if not 1 <= int(text) <= MAX_PORT:
        raise ValueError(f"has a port that is not from 1 to {MAX_PORT}")
    return int(text)


def shown(host: Host, port: int) -> str:
    """``host:port``, with brackets where they are needed."""
    return f"[{host}]:{port}" if isinstance(host, IPv6Address) else f"{host}:{port}"


def _ascii(text: str) -> str:
    if text.isascii():
        return text.lower()
    try:
        return idna.encode(text, uts46=True, transitional=False).decode().lower()
    except (idna.IDNAError, UnicodeError):
        raise ValueError("is no internationalized host name") from None


def _numeric(label: str) -> bool:
    """Whether a last label makes a resolver read the whole as a number."""
    return label.isdigit() or (label.startswith("0x") and set(label[2:]) <= set(string.hexdigits))


def _ipv4(labels: list[str]) -> IPv4Address:
    if len(labels) > _IPV4_PARTS:
        raise ValueError("is no IPv4 address")
    numbers = [_number(label) for label in labels]
    *first, last = numbers
    if any(number >= _BYTE for number in first) or last >= _BYTE ** (_IPV4_PARTS - len(first)):
        raise ValueError("is no IPv4 address")
    value = last + sum(n << (8 * (_IPV4_PARTS - 1 - place)) for place, n in enumerate(first))
    return IPv4Address(value)


def _number(label: str) -> int:
    base, digits = 10, label
    if label.startswith("0x"):
        base, digits = 16, label[2:] or "0"
    elif len(label) > 1 and label.startswith("0"):
        base, digits = 8, label[1:]
    if len(digits) > _MOST_DIGITS or not set(digits) <= set(string.hexdigits):
        raise ValueError("is no IPv4 address")
    try:
        return int(digits, base)
    except ValueError:
        raise ValueError("is no IPv4 address") from None


def _ipv6(text: str) -> IPv4Address | IPv6Address:
    if "%" in text:
        raise ValueError("names an interface, which is not taken")
    try:
        address = IPv6Address(text)
    except ipaddress.AddressValueError:
        raise ValueError("is no IPv6 address") from None
    return address.ipv4_mapped or address
