"""Base64 of files, wrapped into lines: every line of it looks like a random token.

RFC 2045 wraps at 76 characters, PEM and OpenSSL at 64; ``base64 image.png`` prints hundreds of such
lines. A line of nothing but base64 that is as long as the one before it, or ends the run by being
shorter, is taken for more of the same, the first one is not. Lines are looked at in their order and
from the ones before alone, so it makes no difference where a text was cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mulligan.policy.secrets.expressions import compile_bytes

SHORTEST = 60
_BEFORE = rb"[ \t>|*#\"'+]{0,24}"
_AFTER = rb"(?:[\"',;+ \t\r]|\\n){0,6}"
_FULL = compile_bytes(rb"(?m)^" + _BEFORE + rb"([0-9A-Za-z+/]{60,256}={0,2})" + _AFTER + rb"$")
_LAST = re.compile(_BEFORE + rb"([0-9A-Za-z+/]{1,256}={0,2})" + _AFTER)
_SIGN = re.compile(rb"[+/]")


@dataclass
class WrapState:
    """The line before: its base64's length, 0 if it had none; and whether + or / was in the run."""

    length: int = 0
    signed: bool = False


def find(text: bytes, state: WrapState) -> list[tuple[int, int]]:
    """The lines that go on with what is wrapped; ``state`` is brought up to date."""
    spans: list[tuple[int, int]] = []
    at = 0  # where the line after the last one of the run begins
    while True:
        full = _FULL.search(text, at)
        start = len(text) if full is None else full.start()
        if at < len(text) and start > at:  # the line that follows the run is another
            spans += _end_of_run(text, at, state)
            state.length = 0
        if full is None:
            return spans
        first, last = full.span(1)
        code = text[first:last]
        signed = _SIGN.search(code) is not None
        goes_on = 0 < len(code) <= state.length
        if goes_on and (signed or state.signed):
            spans.append((first, last))
        whole = len(code) % 4 == 0 and not code.endswith(b"=")
        state.length = len(code) if whole else 0
        state.signed = signed or (goes_on and state.signed)
        at = text.find(b"\n", full.end()) + 1 or len(text)


def _end_of_run(text: bytes, at: int, state: WrapState) -> list[tuple[int, int]]:
    """The last line of a run, which is shorter than the others."""
    end = text.find(b"\n", at)
    last = _LAST.fullmatch(text, at, len(text) if end < 0 else end) if state.length else None
    if last is None or len(last[1]) >= state.length or not state.signed:
        return []
    return [last.span(1)]
