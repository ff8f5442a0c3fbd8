"""What the agent watches: descriptors, and who is called when one is ready."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """An epoll, and a handler for each descriptor in it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._held: set[int] = set()

    def watch(self, descriptor: int, handler: Callable[[], None], *, write: bool = False) -> None:
        """Calls ``handler`` whenever the descriptor can be read or, with ``write``, written."""
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, select.EPOLLOUT if write else select.EPOLLIN)

    def watches(self, descriptor: int) -> bool:
        """Whether a descriptor is watched."""
        return descriptor in self._handlers

    def replace(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Has another handler called from now on."""
        self._handlers[descriptor] = handler
        self._held.discard(descriptor)
        self._epoll.modify(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int) -> None:
        """Stops watching a descriptor."""
        del self._handlers[descriptor]
        self._held.discard(descriptor)
        self._epoll.unregister(descriptor)

    def close(self, descriptor: int) -> None:
        """Stops watching a descriptor, if it was watched, and closes it."""
        if descriptor in self._handlers:
            self.forget(descriptor)
        os.close(descriptor)

    def hold(self, descriptor: int) -> None:
        """Reads nothing more from a descriptor until ``release``."""
        self._epoll.modify(descriptor, 0)
        self._held.add(descriptor)

    def release(self) -> None:
        """Goes on with every descriptor that was held."""
        for descriptor in self._held:
            self._epoll.modify(descriptor, select.EPOLLIN)
        self._held.clear()

    def also_write(self, descriptor: int, wanted: bool) -> None:
        """Whether the handler of a descriptor is called, too, when it can be written."""
        mask = select.EPOLLIN | select.EPOLLOUT if wanted else select.EPOLLIN
        self._epoll.modify(descriptor, mask)

    def want(
        self,
        descriptor: int,
        handler: Callable[[], None],
        *,
        read: bool = False,
        write: bool = False,
    ) -> None:
        """Has ``handler`` called for that from now on; for neither, the descriptor is forgotten."""
        mask = (select.EPOLLIN if read else 0) | (select.EPOLLOUT if write else 0)
        known = descriptor in self._handlers
        if mask:
            self._handlers[descriptor] = handler
            (self._epoll.modify if known else self._epoll.register)(descriptor, mask)
        elif known:
            self.forget(descriptor)

    def step(self, timeout: float) -> None:
        """Waits for at most ``timeout`` seconds and calls the handlers of what is ready."""
        for descriptor, _ in self._epoll.poll(timeout):
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler()
