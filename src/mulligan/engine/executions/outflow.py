"""Output on its way out while a program runs, without the secrets in it."""

from __future__ import annotations

import asyncio

from mulligan.engine.vms.program import OutputCallback
from mulligan.policy.secrets import Sanitizer, StreamRedactor

IDLE_S = 0.1


class Outflow:
    """Passes on output as gates let it.

    Args:
        on_output: where it goes.
        sanitizer: takes secrets out; None where nothing has to be.
        live: whether output may go before the execution has ended. Where other gates have a say
            about it, it is theirs first, and goes as a whole at the end.
    """

    def __init__(self, on_output: OutputCallback, sanitizer: Sanitizer | None, *, live: bool):
        self._on_output = on_output
        self._sanitizer = sanitizer
        self._live = live
        self._redactors: dict[str, StreamRedactor] = {}
        self._idle: asyncio.TimerHandle | None = None
        self._failure: Exception | None = None

    def write(self, stream: str, data: bytes) -> None:
        """Takes a piece of output; raises what ``on_output`` raises, or raised since the last."""
        if not self._live:
            return
        if self._failure is not None:
            raise self._failure
        if self._sanitizer is None:
            self._on_output(stream, data)
            return
        redactor = self._redactors.get(stream)
        if redactor is None:
            redactor = self._redactors[stream] = self._sanitizer.stream()
        self._pass_on(stream, redactor.feed(data))
        if self._idle is not None:
            self._idle.cancel()
        # What might be the beginning of a secret waits for the rest; a prompt does not for long.
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._flush)

    def _flush(self) -> None:
        try:
            for stream, redactor in self._redactors.items():
                self._pass_on(stream, redactor.flush_idle())
        except Exception as error:  # noqa: BLE001  (the caller's; nobody would get it from here)
            self._failure = error

    def finish(self, *, truncated: bool) -> None:
        """The program has ended. See ``write``."""
        self.stop()
        if self._failure is not None:
            raise self._failure
        for stream, redactor in self._redactors.items():
            self._pass_on(stream, redactor.finish(truncated=truncated))
        self._redactors = {}

    def stop(self) -> None:
        """Nothing goes out any more by itself."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def release(self, stdout: str, stderr: str) -> None:
        """What the gates let go at the end, where nothing went before."""
        if not self._live:
            self._pass_on("stdout", stdout.encode("utf-8", "replace"))
            self._pass_on("stderr", stderr.encode("utf-8", "replace"))

    def _pass_on(self, stream: str, data: bytes) -> None:
        if data:
            self._on_output(stream, data)
