"""A hook that is a program: see `exchange` for what it reads and writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mulligan.hooks import exchange
from mulligan.hooks.calls import CallFailed
from mulligan.hooks.interface import Hook
from mulligan.hooks.program import Ended, ProgramFailed, run
from mulligan.models.hooks import Allow, HookDecision, PostToolContext, PreToolContext

MIB = 1024 * 1024
# What of the server's environment a program gets; nothing that could be a secret.
PASSED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
_NOT_ASKED = Allow(reason="not asked about this language")
_MORE_MS = 2000  # for its end, after its time is over


class CommandHook(Hook):
    """Runs a program for each execution.

    Args:
        name: shown in verdicts.
        command: argument vector; the program is an absolute path or found in PATH.
        events: of ``PreToolUse`` and ``PostToolUse`` those it is run for.
        languages: those it is run for; None: all.
        timeout_ms: of a run.
        output_limit: bytes of its stdout, and of its stderr.
        env: its environment, beside ``PASSED``.
        pass_env: names of further variables it gets from the server's environment.
        cwd: its working directory.
        observer: whether what it says is passed over.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        events: Sequence[str] = (exchange.PRE,),
        languages: Sequence[str] | None = None,
        timeout_ms: int = 10_000,
        output_limit: int = MIB,
        env: Mapping[str, str] | None = None,
        pass_env: Sequence[str] = (),
        cwd: str = "/",
        observer: bool = False,
    ) -> None:
        self.name = name
        self.observer = observer
        self.timeout_ms = timeout_ms + _MORE_MS  # the program's own limit comes first
        self._command = list(command)
        stages = {exchange.PRE: "pre_tool", exchange.POST: "post_tool"}
        self.stages = [stages[event] for event in events]
        self._languages = None if languages is None else frozenset(languages)
        self._seconds = timeout_ms / 1000
        self._output_limit = output_limit
        self._env = dict(env or {})
        self._pass_env = (*PASSED, *pass_env)
        self._cwd = cwd

    async def pre_tool(self, context: PreToolContext) -> HookDecision:
        """What the program says to ``PreToolUse``."""
        if not self._wants(context.language):
            return _NOT_ASKED
        ended = await self._run(exchange.pre_input(context))
        return exchange.pre_decision(context, ended)

    async def post_tool(self, context: PostToolContext) -> HookDecision:
        """What the program says to ``PostToolUse``."""
        if not self._wants(context.language):
            return _NOT_ASKED
        ended = await self._run(exchange.post_input(context))
        return exchange.post_decision(context, ended)

    def _wants(self, language: str) -> bool:
        return self._languages is None or language in self._languages

    async def _run(self, told: dict[str, Any]) -> Ended:
        inherited = {name: os.environ[name] for name in self._pass_env if name in os.environ}
        try:
            return await run(
                self._command,
                json.dumps(told).encode(),
                seconds=self._seconds,
                output_limit=self._output_limit,
                env={**inherited, **self._env},
                cwd=self._cwd,
            )
        except ProgramFailed as failure:
            raise CallFailed(str(failure)) from None
