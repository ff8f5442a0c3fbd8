"""Names to addresses: here alone, never in a VM, and only to what a VM may reach."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mulligan.network.addresses import Address, is_own, not_public
from mulligan.network.names import Host
from mulligan.network.rules import AllowList

Resolver = Callable[[str], Awaitable[Sequence[Address]]]
MOST_ADDRESSES = 4
_THREADS = 8


class RefusedError(Exception):
    """A VM may not reach something; the text says why."""


class UnreachableError(Exception):
    """What a VM may reach could not be reached; the text says why."""


class SystemResolver:
    """The resolver of this machine, asked by threads of its own: a slow one holds up no other."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="resolver")

    async def __call__(self, name: str) -> Sequence[Address]:
        """The addresses of a name, IPv4 first: they are what most hosts have a way to.

        Raises:
            OSError: there are none.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _ask, name)
        return sorted(dict.fromkeys(found), key=lambda each: each.version)

    def close(self) -> None:
        """Lets go of the threads; one that still waits for an answer ends with it."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _ask(name: str) -> list[Address]:
    answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers]


@dataclass(frozen=True)
class Way:
    """How to reach what was asked for: connections go to ``addresses`` and nowhere else."""

    host: Host
    port: int
    addresses: tuple[Address, ...]


async def find_way(
    host: Host, port: int, allowed: AllowList, resolver: Resolver, timeout: float
) -> Way:
    """Holds a host against an allow-list, and what it resolves to against what is public.

    Raises:
        RefusedError: it may not be reached.
        UnreachableError: it has no address.
    """
    if not allowed.takes(host, port):
        raise RefusedError("it is not on the allow-list")
    found = await _addresses(host, resolver, timeout) if isinstance(host, str) else [host]
    kinds = [_barred(address, port, allowed) for address in found]
    fit = [address for address, kind in zip(found, kinds, strict=True) if kind is None]
    if not fit:
        kind = next(each for each in kinds if each is not None)
        raise RefusedError(f"its address is not public ({kind}), and not itself on the allow-list")
    return Way(host, port, tuple(fit[:MOST_ADDRESSES]))


async def _addresses(name: str, resolver: Resolver, timeout: float) -> Sequence[Address]:
    try:
        async with asyncio.timeout(timeout):
            found = await resolver(name)
    except TimeoutError:
        raise UnreachableError(f"its name was not resolved within {timeout:g} s") from None
    except (OSError, UnicodeError, ValueError):
        raise UnreachableError("its name cannot be resolved") from None
    if not found:
        raise UnreachableError("its name has no address")
    return [getattr(each, "ipv4_mapped", None) or each for each in found]


def _barred(address: Address, port: int, allowed: AllowList) -> str | None:
    if allowed.names_address(address, port):
        return None
    return not_public(address) or ("this machine's own" if is_own(address) else None)


async def connect(way: Way, timeout: float) -> tuple[socket.socket, Address]:
    """A connection to the first of the addresses that answers, and which; the caller closes it.

    Raises:
        UnreachableError: none does.
    """
    loop = asyncio.get_running_loop()
    why = ""
    for address in way.addresses:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004
        attempt = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with contextlib.ExitStack() as stack:
            stack.callback(attempt.close)
            attempt.setblocking(False)
            try:
                async with asyncio.timeout(timeout):
                    await loop.sock_connect(attempt, (str(address), way.port))
            except TimeoutError:
                why = f"it did not answer within {timeout:g} s"
                continue
            except OSError as error:
                why = f"it cannot be reached: {error.strerror or error}"
                continue
            stack.pop_all()
            return attempt, address
    raise UnreachableError(why)
