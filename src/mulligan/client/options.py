"""What a client's config asks of the executions it sends, whoever runs them."""

from __future__ import annotations

from typing import Any

from mulligan.errors import ConfigError
from mulligan.models import (
    ExecutionHistory,
    HistoryConfig,
    HistoryQueryRequest,
    ParseExecuteRequest,
    VmExecuteRequest,
    VmExecutionConfig,
)

PER_EXECUTION = tuple(ExecutionHistory.model_fields)


class Options:
    """A config, applied to requests. What it does not give is left to whoever runs them.

    Args:
        config: the client's.
        served: whether a server runs them, which has settings of its own.

    Raises:
        ConfigError: the config asks for what only a server's own settings can do.
    """

    def __init__(self, config: VmExecutionConfig, *, served: bool) -> None:
        history = config.history
        if served and not history.persist_history:
            raise ConfigError(
                "history.persist_history is false, and what a server keeps is up to its settings",
                field="history.persist_history",
                remedy='set MULLIGAN_HISTORY__PERSIST_HISTORY=false there, or use "direct"',
            )
        self._history = _wanted(history)
        self._timeout_s: int | None = None
        self._most_entries: int | None = None
        if served and "execution_timeout_ms" in config.model_fields_set:
            self._timeout_s = max(1, -(-config.execution_timeout_ms // 1000))
        if served and "max_history_entries" in history.model_fields_set:
            self._most_entries = history.max_history_entries

    def execution(self, request: VmExecuteRequest) -> VmExecuteRequest:
        """A request with what it does not say itself."""
        update: dict[str, Any] = {}
        if request.timeout_seconds is None and self._timeout_s is not None:
            update["timeout_seconds"] = self._timeout_s
        if self._history:
            own = request.history.model_dump(exclude_none=True) if request.history else {}
            update["history"] = ExecutionHistory(**self._history | own)
        return request.model_copy(update=update) if update else request

    def answer(self, request: ParseExecuteRequest) -> ParseExecuteRequest:
        """The same for a model's answer; what is odd about its ``vm_config`` is found later."""
        given = {} if request.vm_config is None else request.vm_config
        if not isinstance(given, dict):
            return request
        options: dict[str, Any] = {}
        if self._timeout_s is not None:
            options["timeout_seconds"] = self._timeout_s
        own = given.get("history")
        if self._history and (own is None or isinstance(own, dict)):
            options["history"] = self._history | (own or {})
            given = {name: value for name, value in given.items() if name != "history"}
        return request.model_copy(update={"vm_config": options | given}) if options else request

    def query(self, request: HistoryQueryRequest) -> HistoryQueryRequest:
        """A query, for so many entries as the client's history has."""
        if request.limit is not None or self._most_entries is None:
            return request
        return request.model_copy(update={"limit": self._most_entries})


def _wanted(config: HistoryConfig) -> dict[str, bool]:
    """Options of each execution; where there is to be no history, nothing is kept or undone."""
    if not config.enabled:
        return dict.fromkeys(PER_EXECUTION, False)
    given = config.model_fields_set
    return {name: getattr(config, name) for name in PER_EXECUTION if name in given}
