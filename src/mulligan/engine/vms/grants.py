"""Which secrets a VM's proxy puts in for executions whose requests named them, and how long."""

from __future__ import annotations

from collections import OrderedDict

from mulligan.network.conversation import Terms
from mulligan.network.injection import Injection
from mulligan.network.rules import Rule

MOST_LASTING = 64
_Key = tuple[str, str, tuple[Rule, ...]]


class Grants:
    """Those of one VM, beside the secrets of its type.

    One holds from the start of its execution to its end. Where a kernel, or something in the
    background, goes on with its variables, it holds until the VM stops; the next request that names
    the same is then given the same placeholder, and of many the oldest end.
    """

    def __init__(self) -> None:
        self._terms: Terms | None = None
        self._of_type: list[Injection] = []
        self._waiting: dict[str, list[Injection]] = {}
        self._running: dict[str, list[Injection]] = {}
        self._lasting: OrderedDict[_Key, Injection] = OrderedDict()

    def boots(self, terms: Terms) -> None:
        """The VM boots anew: nothing that had a placeholder is there any more."""
        self._terms, self._of_type = terms, list(terms.injections)
        self._running.clear()
        self._lasting.clear()

    def grant(self, execution_id: str, wanted: list[Injection]) -> list[Injection]:
        """What an execution is to find when it starts: those given, or the same that last already.

        ``not_started`` has to follow, whatever becomes of it.
        """
        granted = [self._lasting.get(_key(each), each) for each in wanted]
        self._waiting[execution_id] = granted
        return granted

    def not_started(self, execution_id: str) -> None:
        """It is over, or was never begun."""
        self._waiting.pop(execution_id, None)

    def began(self, execution_id: str) -> None:
        """An execution has started: what it was granted is put in from now on."""
        granted = self._waiting.pop(execution_id, None)
        if granted:
            self._running[execution_id] = granted
            self._apply()

    def ended(self, execution_id: str, *, goes_on: bool) -> None:
        """An execution has ended; with ``goes_on`` somebody still has its variables."""
        granted = self._running.pop(execution_id, None)
        if not granted:
            return
        if goes_on:
            self._lasting.update({_key(each): each for each in granted})
            while len(self._lasting) > MOST_LASTING:
                self._lasting.popitem(last=False)
        self._apply()

    def _apply(self) -> None:
        assert self._terms is not None
        every = [*self._of_type, *self._lasting.values()]
        every += [each for granted in self._running.values() for each in granted]
        self._terms.injections = list({each.placeholder: each for each in every}.values())


def _key(injection: Injection) -> _Key:
    return injection.name, injection.value, injection.hosts
