"""What is told of what Mulligan does, and how long it takes, to whoever set a sink.

A *stage* is a piece of work with a beginning and an end: ``boot``, ``run``, ``rollback``. The
engine names its stages; what becomes of them (metrics, traces, the health of a server) is a sink's
business. A sink is set for a context and for the tasks that are started in it (``contextvars``), so
that engines of one process do not hear of each other. Without one a stage costs next to nothing.

What a stage is told about must be fit for a trace: ids, languages, outcomes; no code, no output.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import ParamSpec, Protocol, Self, TypeVar

Value = str | int | float | bool
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Sink(Protocol):
    """Is told what happens. It must return at once and raise nothing."""

    def begin(self, stage: Stage) -> object:
        """A stage begins; what this returns comes back with its end."""

    def end(self, stage: Stage, token: object, seconds: float, error: BaseException | None) -> None:
        """It has ended: well, or with an error."""

    def count(self, name: str, labels: dict[str, str]) -> None:
        """Something happened that takes no time."""


_sink: ContextVar[Sink | None] = ContextVar("mulligan_sink", default=None)


class Stage:
    """A context manager around a stage; ``tell`` adds to what is known of it."""

    __slots__ = ("_sink", "_started", "_token", "attributes", "name")

    def __init__(self, name: str, **attributes: Value) -> None:
        self.name = name
        self.attributes: dict[str, Value] = attributes

    def tell(self, **attributes: Value) -> None:
        """What has become known of it meanwhile."""
        self.attributes.update(attributes)

    def __enter__(self) -> Self:
        self._sink = _sink.get()
        if self._sink is not None:
            self._token = self._sink.begin(self)
            self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sink is not None:
            self._sink.end(self, self._token, time.perf_counter() - self._started, error)


def staged(
    name: str, **attributes: Value
) -> Callable[[Callable[Parameters, Awaitable[Result]]], Callable[Parameters, Awaitable[Result]]]:
    """Makes each call of an async function a stage."""

    def decorate(
        work: Callable[Parameters, Awaitable[Result]],
    ) -> Callable[Parameters, Awaitable[Result]]:
        @functools.wraps(work)
        async def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
            with Stage(name, **attributes):
                return await work(*arguments, **named)

        return call

    return decorate


def count(name: str, **labels: str) -> None:
    """Tells of something that takes no time."""
    sink = _sink.get()
    if sink is not None:
        sink.count(name, labels)


@contextmanager
def told_to(sink: Sink | None) -> Iterator[None]:
    """Has a sink told of what is done in the block, and in tasks that are started in it."""
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)


class Several:
    """Sinks as one."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def begin(self, stage: Stage) -> object:
        """See ``Sink``."""
        return [sink.begin(stage) for sink in self._sinks]

    def end(self, stage: Stage, token: object, seconds: float, error: BaseException | None) -> None:
        """See ``Sink``; in the opposite order, as what nests must."""
        assert isinstance(token, list)
        for sink, own in zip(reversed(self._sinks), reversed(token), strict=True):
            sink.end(stage, own, seconds, error)

    def count(self, name: str, labels: dict[str, str]) -> None:
        """See ``Sink``."""
        for sink in self._sinks:
            sink.count(name, labels)
