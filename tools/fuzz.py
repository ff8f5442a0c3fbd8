"""Fuzzes what reads texts of strangers, guided by coverage.

``python tools/fuzz.py TARGET [SECONDS]``: the targets are ``extraction``, ``sanitizer``, ``judge``
and ``frames``, the host's side of what comes out of a VM. A crash, an exception, or an input that
takes over two seconds ends it with the input in a file. Needs the extra ``fuzz`` (atheris).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed: pip install 'mulligan[fuzz]'")

SLOWEST_S = 2.0

with atheris.instrument_imports(include=["mulligan"]):
    from mulligan.engine.executions.results import response_of
    from mulligan.engine.files.names import info
    from mulligan.engine.files.transfers import Inbox
    from mulligan.engine.vms.connection import AgentConnection
    from mulligan.engine.vms.program import Program
    from mulligan.engine.vms.replies import read_diff
    from mulligan.errors import ExecutionFailed, FileBroken
    from mulligan.extraction import detect_execution_intent, extract
    from mulligan.guest import frames
    from mulligan.models import utc_now
    from mulligan.policy.dangerous import judge, load_rules
    from mulligan.policy.secrets import InjectedSecret, Sanitizer

RULES = load_rules({})
SECRET = "hk-9fQ2vT7xLw41"  # noqa: S105  (made up)
SANITIZER = Sanitizer([InjectedSecret("KEY", SECRET)])
LANGUAGES = ("bash", "python", "javascript", "rust")


def extraction(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for block in extract(text):
        assert 0 <= block.start_pos <= block.end_pos <= len(text)
        assert 0.0 <= block.execution_confidence <= 1.0
    detect_execution_intent(text)


def sanitizer(data: bytes) -> None:
    middle = len(data) // 2
    planted = data[:middle] + b" " + SECRET.encode() + b" " + data[middle:]
    whole = SANITIZER.redact_bytes(planted).text
    assert SECRET.encode() not in whole
    stream = SANITIZER.stream()
    step = 1 + len(data) % 7
    pieces = [stream.feed(planted[i : i + step]) for i in range(0, len(planted), step)]
    assert b"".join([*pieces, stream.finish()]) == whole


def judging(data: bytes) -> None:
    language = LANGUAGES[data[0] % len(LANGUAGES)] if data else "bash"
    for finding in judge(data[1:].decode("utf-8", "replace"), language, RULES):
        assert finding.decision in ("block", "ask", "allow")


PROGRAM = Program("exec", [["true"]], {}, {}, "/", 1000, 1000)
KINDS = sorted(frames.FROM_AGENT)
LOOP = asyncio.new_event_loop()


def from_a_vm(data: bytes) -> None:
    """Bytes as a stream, as frames that are well formed, and as what frames carry."""
    LOOP.run_until_complete(_converse(data, raw=True))
    LOOP.run_until_complete(_converse(data, raw=False))
    inbox = Inbox(most=10_000)
    inbox.feed(data)
    for read in (lambda: info(data, b"/x"), lambda: info(data, b"/x", inside=True)):
        try:
            read()
        except FileBroken:
            continue
    try:
        read_diff(data + b'\n{"end": true}')
    except ValueError:
        return


async def _converse(data: bytes, *, raw: bool) -> None:
    reasons: list[str] = []
    connection = AgentConnection(reasons.append)
    running = [connection.start(PROGRAM) for _ in range(2)]
    if raw:
        connection.data_received(data)
    else:
        for piece in data.split(b"\n"):
            kind, channel = KINDS[len(piece) % len(KINDS)], sum(piece[:1]) % 3
            connection.data_received(frames.encode(kind, channel, piece[1:]))
    for each in running:
        if each.done.done() and each.done.exception() is None:
            answer = response_of("e", "v", PROGRAM, each.done.result(), utc_now(), 1)
            answer.model_dump_json()
    connection.give_up("it is over")
    assert len(reasons) == 1, reasons
    try:
        connection.start(PROGRAM)
    except ExecutionFailed:
        return
    raise AssertionError("it went on")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "extraction": extraction,
    "sanitizer": sanitizer,
    "judge": judging,
    "frames": from_a_vm,
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"usage: python tools/fuzz.py {'|'.join(TARGETS)} [SECONDS]")
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 600  # noqa: PLR2004
    target = TARGETS[name]

    def bounded(data: bytes) -> None:
        start = time.process_time()
        target(data)
        taken = time.process_time() - start
        assert taken < SLOWEST_S, f"{len(data)} bytes took {taken:.1f} s"

    options = [f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *options], bounded)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
