"""Random-looking values that nothing names: tokens by their shape alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mulligan.policy.secrets import checks
from mulligan.policy.secrets.expressions import compile_bytes

SHORTEST = 30
LONGEST = 128
_RUN = compile_bytes(rb"[0-9A-Za-z_+/=~-]{30,}", within_lines=True)
_WORDS = re.compile(rb"[a-z]{7,}|[A-Z]{7,}|[A-Z][a-z]{6,}|[_/+~-]{3,}|A{5,}")
_NOT_SECRET = re.compile(
    rb"^(?:eyJ|AAAA[A-Z]3|MI[GIHM]|ssh-|sha\d|iVBOR|/9j/|R0lGOD|UklGR|JVBER|H4sI|UEsDB|Qm[1-9A-Za-z]{44}$|bafy|pk_|0x|[1-9A-HJ-NP-Za-km-z]{32,44}$"
    rb"|xpub|[ug]o?pk|G-|UA-|GTM-|pub_|cus_|ch_|pi_|evt_|req_|msg_|run_|asst_|thread_|chatcmpl-|resp_|file-|in_|sub_|price_|prod_)"
)
_BEFORE = compile_bytes(
    rb"(?:sha-?\d{1,3}|md5|integrity|fingerprint|digest|hash|checksum|etag|commit|sig|signature|cid|address|addr|wallet|txid"
    rb"|[a-z_.-]*(?:id|uid|uuid|guid|public[_-]?key|pub[_-]?key|cursor|version|nonce|revision|rev|trace|span|serial|license)"
    rb"|ssh-[a-z0-9-]+|ecdsa-[a-z0-9-]+|base64|data:[a-z/+.-]+;base64|version|h1|x-amz-[a-z0-9-]+)"
    rb"[\"']?\s{0,3}[:=\-, /(\[]\s{0,3}[\"']?\z",
    any_case=True,
)
_AROUND = frozenset(b"./\\@:%#&")


def find(text: bytes, public: Callable[[int], bool]) -> Iterator[tuple[int, int, str]]:
    """Start, end and kind of tokens of 30 to 128 characters that are random and nothing known.

    Args:
        text: whole lines.
        public: whether what begins there is known to be no secret.
    """
    at = 0
    while (match := _RUN.search(text, at)) is not None:
        start, at = match.span()
        if at - start <= LONGEST and not public(start) and _is_token(text, start, at):
            token = _trimmed(text, start, at)
            if not public(token[0]):
                yield token


def _is_token(text: bytes, start: int, end: int) -> bool:
    value = text[start:end]
    if value.islower() or value.isupper():
        return False
    core = value.strip(b"=_-/+~")
    key, equals, right = core.rpartition(b"=")
    if equals and len(right) >= SHORTEST and (b"=" not in key):
        core = right
        if _BEFORE.search(key + b"="):
            return False
    if len(core) < SHORTEST or _WORDS.search(core) or _NOT_SECRET.match(value):
        return False
    if b"/" in core and (
        core.count(b"/") > len(core) // 8 or (start and text[start - 1] in _AROUND)
    ):
        return False
    if (start and text[start - 1] in _AROUND) or (end < len(text) and text[end] in b"/\\@%("):
        return False
    if len(core) == 43 and value.endswith(b"="):
        return False  # a digest of 32 bytes in base64
    if _BEFORE.search(text[max(0, start - 48) : start]):
        return False
    return checks.looks_random(core, 0.28)


def _trimmed(text: bytes, start: int, end: int) -> tuple[int, int, str]:
    equals = text.rfind(b"=", start, end - SHORTEST)
    return (equals + 1 if equals >= 0 else start), end, "random-token"
