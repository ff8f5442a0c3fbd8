"""The proxy of one VM: takes connections that programs make inside it, on a socket of the VM's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from mulligan.models import NetworkConnection, utc_now
from mulligan.network.conversation import Conversation, Terms
from mulligan.network.streams import AnyStream, Stream

ADDRESS = "127.0.0.1"
PORT = 3128
OWNER_TIMEOUT_S = 0.5
ASKED_AT_ONCE = 2
RETRY_S = 0.1
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h
_COOKIE_BYTES = 8


class Owner:
    """Whose a connection is: the executions it may be of, and whether there is one alone."""

    def __init__(self, executions: tuple[str, ...], *, certain: bool) -> None:
        self.executions = executions
        self.certain = certain


NOBODY = Owner((), certain=False)
Ask = Callable[[int], Awaitable[Owner]]
Note = Callable[[Owner, NetworkConnection], None]


class Entrance(Protocol):
    """Where a VM's programs come in."""

    async def accept(self) -> tuple[AnyStream, int]:
        """The next connection, and the port of the VM's loopback that it is from.

        Raises:
            OSError: there is none that could be had now.
        """

    def close(self) -> None:
        """Lets go of it; nobody waits for the next one."""


class ForeignSocketError(ValueError):
    """A VM handed over something other than the socket its programs are to connect to."""


def check_listener(listener: socket.socket) -> None:
    """Refuses a socket that is not one of a VM's own loopback, listening.

    Raises:
        ForeignSocketError: saying what is wrong with it.
    """
    try:
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        fits = (listener.family, listener.type) == (socket.AF_INET, socket.SOCK_STREAM)
        if not listening or not fits or listener.getsockname() != (ADDRESS, PORT):
            raise ForeignSocketError("it is no listening socket of its loopback")
    except OSError as error:
        raise ForeignSocketError(f"it is no socket: {error.strerror}") from None
    theirs = _namespace(listener)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
        if theirs is not None and theirs == _namespace(own):
            raise ForeignSocketError("it is a socket of this machine's own network")


def _namespace(which: socket.socket) -> bytes | None:
    """The cookie of a socket's network namespace; None on kernels before 5.14."""
    try:
        return which.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE_BYTES)
    except OSError:
        return None


class Listener:
    """A listening socket of the VM's, as an ``Entrance``.

    Args:
        listener: in the VM's network namespace; owned.
        idle: see ``Stream``.
    """

    def __init__(self, listener: socket.socket, idle: float) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._idle = idle

    async def accept(self) -> tuple[Stream, int]:
        """See ``Entrance``."""
        client, address = await asyncio.get_running_loop().sock_accept(self._listener)
        return Stream(client, self._idle), address[1]

    def close(self) -> None:
        """See ``Entrance``."""
        self._listener.close()


class Proxy:
    """Takes connections until it is closed.

    Args:
        entrance: where they come from; owned.
        terms: what the VM may reach, and how much of it.
        ask: says whose a connection from a port of the VM's loopback is.
        note: called with what came of each connection.
    """

    def __init__(self, entrance: Entrance, terms: Terms, ask: Ask, note: Note) -> None:
        self._entrance = entrance
        self._terms = terms
        self._ask = ask
        self._note = note
        self._asking = asyncio.Semaphore(ASKED_AT_ONCE)
        self._open: dict[asyncio.Task[None], asyncio.Task[Owner]] = {}
        self._accepting: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def start(self) -> None:
        """Begins to take connections."""
        self._accepting = asyncio.create_task(self._accept())

    async def close(self) -> None:
        """Takes no more, and closes what is open."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        self._entrance.close()
        await self.close_connections()

    async def close_connections(self) -> None:
        """Closes what is open; returns when it was noted."""
        await self._end(list(self._open))

    async def close_of(self, execution: str, grace: float) -> None:
        """Closes the connections that are of one execution alone; returns when they were noted.

        Args:
            execution: it has ended; for it to be known whose connections are see ``owners_known``.
            grace: seconds for those that its end has closed already.
        """
        owners = list(self._open.items())
        own = [task for task, owner in owners if _owner(owner).executions == (execution,)]
        if own:
            await asyncio.wait(own, timeout=grace)
        await self._end(own)

    async def owners_known(self) -> None:
        """Waits until it is known of every open connection whose it is."""
        await asyncio.gather(*self._open.values(), return_exceptions=True)

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _accept(self) -> None:
        while True:
            await self._terms.pace.take(1)
            try:
                stream, port = await self._entrance.accept()
            except OSError:  # out of descriptors; the programs wait
                await asyncio.sleep(RETRY_S)
                continue
            self._serve(stream, port)
            await asyncio.sleep(0)

    def _serve(self, stream: AnyStream, port: int) -> None:
        owner = asyncio.create_task(self._owner(port))
        if len(self._open) >= self._terms.limits.connections:
            stream.close()
            task = asyncio.create_task(self._turned_away(owner))
        else:
            task = asyncio.create_task(self._converse(stream, owner))
        self._open[task] = owner
        task.add_done_callback(self._open.pop)

    async def _owner(self, port: int) -> Owner:
        try:
            async with asyncio.timeout(OWNER_TIMEOUT_S), self._asking:
                return await self._ask(port)
        except TimeoutError:
            return NOBODY

    async def _converse(self, stream: AnyStream, owner: asyncio.Task[Owner]) -> None:
        def tell(note: NetworkConnection) -> None:
            self._tell(owner, note)

        try:
            await Conversation(stream, self._terms, tell, owner).run()
        finally:
            await _sure(owner)

    async def _turned_away(self, owner: asyncio.Task[Owner]) -> None:
        most = self._terms.limits.connections
        note = NetworkConnection(
            host="",
            port=0,
            via="connect",
            verdict="refused",
            reason=f"the VM had {most} connections open",
            started_at=utc_now(),
        )
        self._tell(owner, note)
        await _sure(owner)

    def _tell(self, owner: asyncio.Task[Owner], note: NetworkConnection) -> None:
        """Passes a note on as soon as it is known whose it is."""

        def known(task: asyncio.Task[Owner]) -> None:
            found = _owner(task)
            self._note(found, note.model_copy(update={"certain": found.certain}))

        if owner.done():
            known(owner)
        else:
            owner.add_done_callback(known)


async def _sure(owner: asyncio.Task[Owner]) -> None:
    """Waits until it is known, also where whoever waits is cancelled: it takes its time at most."""
    while not owner.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({owner})


def _owner(task: asyncio.Task[Owner]) -> Owner:
    if not task.done() or task.cancelled() or task.exception() is not None:
        return NOBODY
    return task.result()
