"""Ways out by network, asked for without a packet to anywhere but loopback.

``connect`` of a datagram socket sends nothing: it asks the routing table.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from mulligan.selfcheck.inside.probing import (
    Seen,
    empty,
    look,
    named,
    probe,
    short,
    shut,
    text,
    told,
)

PATIENCE_S = 3.0
V4, V6 = socket.AF_INET, socket.AF_INET6
# Addresses of RFC 5737 and RFC 3849 are nobody's; the others are asked for by kind.
NOWHERE: tuple[tuple[str, Any, str, str, str], ...] = (
    ("public", V4, "192.0.2.1", "a public address", "depends"),
    ("public_v6", V6, "2001:db8::1", "a public IPv6 address", "depends"),
    ("private", V4, "10.0.0.1", "a private network", "depends"),
    ("private_2", V4, "192.168.0.1", "a private network", "depends"),
    ("metadata", V4, "169.254.169.254", "a cloud's metadata service", "depends"),
    ("multicast", V4, "224.0.0.251", "a multicast group", "depends"),
    ("link_local_v6", V6, "fe80::1%1", "a link-local IPv6 address", "depends"),
)


def _register_nowhere() -> None:
    for name, family, address, what, outside in NOWHERE:

        def run(family: Any = family, address: str = address) -> Seen:
            with socket.socket(family, socket.SOCK_DGRAM) as asking:
                return shut(lambda: _connected(asking, address))

        probe(
            f"network.route_{name}",
            f"connect a datagram socket to {address}, {what} (nothing is sent)",
            "there is no way",
            outside,
        )(run)


def _connected(asking: socket.socket, address: str) -> str:
    """Where from it would go; refused, too, where that is loopback: it would come back.

    gVisor's loopback takes every address there is no other way to.
    """
    host, _, scope = address.partition("%")
    end: tuple[Any, ...] = (host, 9)
    if asking.family == V6:
        end = (host, 9, 0, int(scope or 0))
    asking.connect(end)
    source = asking.getsockname()[0]
    if ipaddress.ip_address(source.partition("%")[0]).is_loopback:
        raise OSError(f"to itself alone, from {source}")
    return f"from {source}"


_register_nowhere()


@probe("network.routes", "read /proc/net/route", "no route", "depends")
def routes() -> Seen:
    return empty(text("/proc/net/route").splitlines()[1:])


@probe("network.routes_v6", "read /proc/net/ipv6_route", "none but of loopback", "depends")
def routes_v6() -> Seen:
    lines = text("/proc/net/ipv6_route").splitlines()
    return empty([line.split()[-1] for line in lines if line.split()[-1] != "lo"])


@probe("network.devices", "read /proc/net/dev", "lo alone", "depends")
def devices() -> Seen:
    found = [line.partition(":")[0].strip() for line in text("/proc/net/dev").splitlines()[2:]]
    return found == ["lo"], " ".join(found)


@probe("network.links", "ask the kernel for its interfaces", "lo alone", "depends")
def links() -> Seen:
    found = [name for _, name in socket.if_nameindex()]
    return found == ["lo"], " ".join(found)


@probe("network.neighbours", "read /proc/net/arp", "nobody", "depends")
def neighbours() -> Seen:
    return empty(text("/proc/net/arp").splitlines()[1:])


@probe("network.resolver", "look for a name server in /etc/resolv.conf", "none", "depends")
def resolver() -> Seen:
    try:
        lines = text("/etc/resolv.conf").splitlines()
    except OSError as error:
        return True, named(error.errno or 0)
    return empty([line for line in lines if line.startswith("nameserver")])


def _asked(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> str:
    """What a server on loopback, or behind a Unix socket, answers."""
    with socket.socket(family, kind) as asking:
        asking.settimeout(PATIENCE_S)
        asking.connect(address)
        if kind == socket.SOCK_DGRAM:
            asking.send(b"?")
        said = asking.recv(4096)
    look(said)
    return f"{len(said)} bytes"


LOOPBACK = {
    "v4": (V4, "127.0.0.1", "tcp4", "fails"),
    "v4_other": (V4, "127.0.0.2", "tcp4", "depends"),
    "v4_any": (V4, "0.0.0.0", "tcp4", "fails"),
    "v6": (V6, "::1", "tcp6", "depends"),
    "v6_mapped": (V6, "::ffff:127.0.0.1", "tcp4", "depends"),
}


def _register_loopback() -> None:
    for name, (family, address, port, outside) in LOOPBACK.items():

        def run(family: int = family, address: str = address, port: str = port) -> Seen:
            if told[port] is None:
                return shut(lambda: _asked(family, (address, 9)))
            return shut(lambda: _asked(family, (address, told[port])))

        probe(
            f"network.host_{name}",
            f"connect to the planted server on the host's loopback, by {address}",
            "nobody there",
            outside,
        )(run)


_register_loopback()


@probe(
    "network.host_udp", "ask the planted server of datagrams on the host's loopback", "no answer"
)
def host_udp() -> Seen:
    return shut(lambda: _asked(V4, ("127.0.0.1", told["udp4"]), socket.SOCK_DGRAM))


@probe("network.abstract", "connect to the planted abstract Unix socket", "it is not there")
def abstract() -> Seen:
    return shut(lambda: _asked(socket.AF_UNIX, "\0" + told["abstract"]))


@probe("network.path", "connect to the planted Unix socket by its path", "it is not there")
def path() -> Seen:
    return shut(lambda: _asked(socket.AF_UNIX, told["socket"]))


def _listed(table: str, port: int) -> Seen:
    lines = text(f"/proc/net/{table}").splitlines()[1:]
    found = [line for line in lines if line.split()[1].endswith(f":{port:04X}")]
    return not found, f"found {short(found[0])}" if found else f"not among {len(lines)}"


@probe("network.tcp_table", "look for the planted server in /proc/net/tcp", "not listed")
def tcp_table() -> Seen:
    return _listed("tcp", told["tcp4"])


@probe("network.udp_table", "look for the planted server in /proc/net/udp", "not listed")
def udp_table() -> Seen:
    return _listed("udp", told["udp4"])


@probe("network.unix_table", "look for the planted sockets in /proc/net/unix", "neither is listed")
def unix_table() -> Seen:
    listed = text("/proc/net/unix")
    return empty([name for name in (told["abstract"], told["socket"]) if name in listed])


@probe(
    "network.same_port", "listen on the planted server's port", "it is free: loopback is its own"
)
def same_port() -> Seen:
    with socket.socket(V4, socket.SOCK_STREAM) as listening:
        try:
            listening.bind(("127.0.0.1", told["tcp4"]))
        except OSError as error:
            return False, named(error.errno or 0)
    return True, "free"


@probe("network.same_name", "take the planted abstract socket's name", "it is free")
def same_name() -> Seen:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        try:
            listening.bind("\0" + told["abstract"])
        except OSError as error:
            return False, named(error.errno or 0)
    return True, "free"


@probe("network.raw", "make a raw ICMP socket", "refused", "passes")
def raw() -> Seen:
    return shut(lambda: socket.socket(V4, socket.SOCK_RAW, 1).close())


@probe("network.ping", "make a socket for pings", "refused", "depends")
def ping() -> Seen:
    return shut(lambda: socket.socket(V4, socket.SOCK_DGRAM, 1).close())
