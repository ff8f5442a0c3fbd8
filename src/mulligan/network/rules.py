"""Allow-lists: entries such as ``example.com``, ``*.example.org:443`` and ``10.0.0.5:8000``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mulligan.network import names
from mulligan.network.addresses import METADATA, Address, not_public
from mulligan.network.names import Host

DEFAULT_PORTS = (443, 80)
MOST_ENTRIES = 1000
_LOCAL = ("localhost", ".localhost")


@dataclass(frozen=True)
class Rule:
    """One entry.

    Attributes:
        host: a name or an address; "" with ``below`` stands for every public host.
        below: whether it is the names below ``host`` that are meant, at any depth.
        ports: None for any.
    """

    host: Host
    below: bool
    ports: tuple[int, ...] | None

    def matches(self, host: Host, port: int) -> bool:
        """Whether it lets a host in its one form be reached."""
        return self._takes_port(port) and self._takes_host(host)

    def covers(self, other: Rule) -> bool:
        """Whether everything that ``other`` lets be reached this one does, too."""
        if other.ports is None:
            if self.ports is not None:
                return False
        elif not all(self._takes_port(port) for port in other.ports):
            return False
        if not other.below:
            return self._takes_host(other.host)
        if not self.below:
            return False
        return self.host in ("", other.host) or _is_below(other.host, self.host)

    def _takes_port(self, port: int) -> bool:
        return self.ports is None or port in self.ports

    def _takes_host(self, host: Host) -> bool:
        if not self.below:
            return host == self.host
        if self.host == "":
            # What is not public has to be named, by its address.
            return isinstance(host, str) or not_public(host) is None
        return _is_below(host, self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if isinstance(self.host, IPv6Address) else str(self.host)
        if self.below:
            host = f"*.{host}" if host else "*"
        if self.ports == DEFAULT_PORTS:
            return host
        return f"{host}:*" if self.ports is None else f"{host}:{self.ports[0]}"


def parse(entry: str) -> Rule:
    """An entry of an allow-list; without a port it means 443 and 80.

    Raises:
        ValueError: it is none; the text says why, and what would be one.
    """
    try:
        return _parse(entry)
    except ValueError as error:
        raise ValueError(
            f"{entry[:100]!r} {error}; an entry is a host, *.domain or *, with or without a :port"
        ) from None


def _parse(entry: str) -> Rule:
    if "://" in entry:
        raise ValueError("is a URL")
    if "/" in entry:
        raise ValueError("has a path, or stands for a network of addresses")
    if "@" in entry:
        raise ValueError("names a user")
    name, port = names.split_port(entry)
    ports = DEFAULT_PORTS if port is None else None if port == "*" else (names.port_number(port),)
    if name == "*":
        return Rule("", below=True, ports=ports)
    below = name.startswith("*.")
    host = names.canonical(name[2:] if below else name)
    if isinstance(host, str):
        if host == _LOCAL[0] or host.endswith(_LOCAL[1]):
            raise ValueError("is this machine; name 127.0.0.1 if that is meant")
        return Rule(host, below=below, ports=ports)
    if below:
        raise ValueError("has nothing below it, being an address")
    if host in METADATA:
        raise ValueError("is a cloud's metadata service, which has keys of this machine")
    if not_public(host) in ("multicast", "of this network", "unspecified"):
        raise ValueError("is no address of one host")
    return Rule(host, below=False, ports=ports)


def _is_below(host: Host, domain: Host) -> bool:
    return isinstance(host, str) and isinstance(domain, str) and host.endswith(f".{domain}")


class AllowList:
    """What one VM may reach: what an entry of its type lets it, and one of its own if it has any.

    Args:
        entries: of its type.
        narrowed: its own; None where it has none.

    Raises:
        ValueError: an entry is none.
    """

    def __init__(self, entries: Sequence[str], narrowed: Sequence[str] | None = None) -> None:
        self._lists = [[parse(entry) for entry in entries]]
        if narrowed is not None:
            self._lists.append([parse(entry) for entry in narrowed])

    def takes(self, host: Host, port: int) -> bool:
        """Whether a host in its one form may be asked for."""
        return all(any(rule.matches(host, port) for rule in rules) for rules in self._lists)

    def names_address(self, address: Address, port: int) -> bool:
        """Whether that very address stands in it, which lets it be one that is not public."""
        return all(
            any(rule.host == address and rule.matches(address, port) for rule in rules)
            for rules in self._lists
        )

    def loopback(self) -> list[str]:
        """The loopback addresses that stand in it."""
        hosts = {rule.host for rules in self._lists for rule in rules}
        return sorted(
            str(host)
            for host in hosts
            if isinstance(host, (IPv4Address, IPv6Address)) and host.is_loopback
        )


def uncovered(entries: Sequence[str], wider: Sequence[str]) -> str | None:
    """The first of ``entries`` that no entry of ``wider`` covers; None where there is none."""
    rules = [parse(entry) for entry in wider]
    for entry in entries:
        if not any(rule.covers(parse(entry)) for rule in rules):
            return entry
    return None


def meet(entries: Sequence[str], others: Sequence[str]) -> bool:
    """Whether some host is on both lists."""
    rules = [parse(entry) for entry in others]
    return any(
        rule.covers(each) or each.covers(rule) for each in map(parse, entries) for rule in rules
    )
