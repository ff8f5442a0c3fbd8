"""A VM as an object for programs without an event loop, derived from the async one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Self

from mulligan.client.blocking import LoopThread, derive
from mulligan.client.sync_terminals import opened
from mulligan.client.vm import DEFAULT_AGENT, AsyncVm
from mulligan.errors import ConnectionFailed
from mulligan.hooks.approver import Approver
from mulligan.hooks.manager import HookManager
from mulligan.models import VmExecutionConfig
from mulligan.settings import Settings


class Vm:
    """``AsyncVm`` with blocking methods: the same names, arguments and errors.

    The methods are made from the async class's, so the two cannot differ. They may be called from
    any thread. Use as a context manager, or call ``close``.
    """

    def __init__(
        self,
        agent_id: str = DEFAULT_AGENT,
        *,
        vm_id: str | None = None,
        session: str | None = None,
        server: str | None = None,
        settings: Settings | None = None,
        config: VmExecutionConfig | None = None,
        auth_token: str | None = None,
        approver: Approver | None = None,
        hook_manager: HookManager | None = None,
    ) -> None:
        async def make() -> AsyncVm:
            return AsyncVm(
                agent_id,
                vm_id=vm_id,
                session=session,
                server=server,
                settings=settings,
                config=config,
                auth_token=auth_token,
                approver=approver,
                hook_manager=hook_manager,
            )

        self._thread: LoopThread | None = None
        thread = LoopThread.join()
        try:
            self._vm = thread.call(make())
        except BaseException:
            thread.leave()
            raise
        self._thread = thread

    def __enter__(self) -> Self:
        try:
            self._call("open")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._vm).replace("AsyncVm", "Vm", 1)

    def open(self) -> Self:
        """See ``AsyncVm.open``."""
        self._call("open")
        return self

    def close(self) -> None:
        """See ``AsyncVm.close``. May be repeated."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.call(self._vm.close())
            finally:
                thread.leave()

    @property
    def id(self) -> str:
        """The VM's id; it is looked for, or made, where that was not done."""
        self._call("open")
        return self._vm.id

    @property
    def agent_id(self) -> str:
        """Whose VM it is."""
        return self._vm.agent_id

    @functools.wraps(AsyncVm.fork)
    def fork(self, *arguments: Any, **named: Any) -> list[Vm]:
        """See ``AsyncVm.fork``."""
        return [_Fork(self._running, each) for each in self._call("fork", *arguments, **named)]

    @functools.wraps(AsyncVm.terminal)
    def terminal(self, *arguments: Any, **named: Any) -> Any:
        return opened(self._vm.terminal(*arguments, **named), self._running())

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        return self._running().call(getattr(self._vm, name)(*arguments, **named))

    def _iterate(self, name: str, *arguments: Any, **named: Any) -> Iterator[Any]:
        return self._running().iterate(getattr(self._vm, name)(*arguments, **named))

    def _running(self) -> LoopThread:
        if self._thread is None:
            raise ConnectionFailed("the VM is closed")
        return self._thread

    def __getattr__(self, name: str) -> Any:
        # Reached only for names that were not derived; says so like any class would.
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class _Fork(Vm):
    """A VM that shares the client of the one it was forked from."""

    def __init__(self, running: Callable[[], LoopThread], vm: AsyncVm) -> None:
        self._parents = running
        self._vm = vm

    def close(self) -> None:
        """Leaves the client to the VM it was forked from."""

    def _running(self) -> LoopThread:
        return self._parents()


derive(Vm, AsyncVm, without=("open", "close", "fork", "terminal"))
