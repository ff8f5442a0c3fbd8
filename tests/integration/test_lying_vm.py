"""VMs whose agent is a liar: no fault, no hang, nothing left, nobody else touched."""

import asyncio
import os
import resource
from pathlib import Path

import pytest

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.engine.vms import connection as connection_module
from mulligan.errors import (
    ConfigError,
    ExecutionFailed,
    FileBroken,
    HistoryError,
    VmExecutionError,
)
from mulligan.guest import filework
from mulligan.models import TerminalRequest, VmCreateRequest, VmExecuteRequest, VmExecuteResponse
from mulligan.models.execution import DEFAULT_VM_TYPE
from mulligan.settings import Settings
from support import host
from support.liar import lying

pytestmark = pytest.mark.anyio
MOST_MEMORY_KB = 300 * 1024

# (what it does, what the asker is told)
LIES = {
    "never ready": ("pass", "did not get ready"),
    "never ready, and talks": ("while True: say(STDOUT, 0, b'x')", "nobody asked for"),
    "refuses": (r"say(FATAL, 0, {'message': '\x1b[31m<b>[bold]no\n' * 100})", "<b>"),
    "gone at once": ("os._exit(3)", "could not boot"),
    "closed at once": ("host.shutdown(2)", "could not boot"),
    "gone when asked": ("say(READY); wait(START); os._exit(0)", "agent is gone"),
    "closed half-way": (
        "say(READY); channel, _ = wait(START); raw(HEADER.pack(99, 1, EXIT, channel)); "
        "host.shutdown(2)",
        "agent is gone",
    ),
    "never answers": ("say(READY)", "did not end an execution"),
    "a length, then nothing": (
        "say(READY); channel, _ = wait(START); raw(HEADER.pack(4 << 20, 1, EXIT, channel))",
        "did not end an execution",
    ),
    "a huge length": (
        "say(READY); channel, _ = wait(START); raw(HEADER.pack(2**32 - 1, 1, EXIT, channel))",
        "4294967295 bytes",
    ),
    "noise": ("say(READY); wait(START)\nwhile True: raw(os.urandom(65536))", "broke the protocol"),
    "output without end": (
        "say(READY); channel, _ = wait(START)\nwhile True: say(STDOUT, channel, bytes(65536))",
        "more output",
    ),
    "a flood of frames of nothing": (
        "say(READY); channel, _ = wait(START); one = HEADER.pack(0, 1, STDOUT, channel) * 6000\n"
        "while True: raw(one)",
        "nobody asked for",
    ),
    "a flood of news of its disk": (
        "say(READY); wait(START)\n"
        "sizes = {f'{n:032}/tree': n for n in range(1000)}\n"
        "while True: say(DISK, 0, {'state': 'full', 'sizes': sizes})",
        "nobody asked for",
    ),
    "one of another": ("say(READY); wait(START); say(EXIT, 12345, END)", "there never was"),
    "a gigabyte": (
        "say(READY); channel, _ = wait(START); raw(HEADER.pack(1 << 30, 1, EXIT, channel))\n"
        "while True: raw(b'QUJD' * 16384)",
        "1073741824 bytes",
    ),
}


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    return settings_module.load(
        data_dir=data_dir,
        hooks={"enabled": False},
        boot_timeout_seconds=5,
        files={"idle_seconds": 2.0},
    )


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BACKSTOP_S", 0.5)
    monkeypatch.setattr(connection_module, "ASK_S", 2.0)


async def make_vm(engine: Engine, agent: str) -> str:
    return (await engine.create_vm(VmCreateRequest(vm_type=DEFAULT_VM_TYPE, agent_id=agent))).id


async def stop(engine: Engine, vm_id: str) -> None:
    assert engine._fleet is not None
    await engine._fleet.find(vm_id, None).stop()


async def run(engine: Engine, agent: str, code: str = "print(6 * 7)", **more) -> VmExecuteResponse:
    request = VmExecuteRequest(agent_id=agent, language="python", code=code, **more)
    return await engine.execute(request)


@pytest.mark.long
@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
async def test_a_lie_is_the_end_of_its_vm_alone(engine: Engine, lie: tuple[str, str]) -> None:
    said, why = lie
    liar = await make_vm(engine, "liar")
    assert (await run(engine, "honest")).stdout == "42\n"
    before, fds = host.descendants(os.getpid()), host.descriptors()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with lying(engine, liar, said):
        asked = asyncio.create_task(run(engine, "liar", timeout_seconds=1))
        assert (await run(engine, "honest")).stdout == "42\n"
        with pytest.raises((ExecutionFailed, ConfigError)) as failed:
            await asyncio.wait_for(asked, 60)
        assert why in str(failed.value)
        assert len(str(failed.value)) < 2000
        assert (await run(engine, "honest")).stdout == "42\n"
        await stop(engine, liar)
        assert engine.get_vm(liar).status == "stopped"
    assert host.wait_until(lambda: host.descendants(os.getpid()) <= before)
    assert host.descriptors() <= fds + 2  # of databases
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MOST_MEMORY_KB
    assert (await run(engine, "liar")).stdout == "42\n"  # a fresh one


async def test_what_it_tells_is_bounded(engine: Engine) -> None:
    """Words and numbers of an answer: within what can be, and as text."""
    liar = await make_vm(engine, "liar")
    lie = r"""
say(READY)
channel, _ = wait(START)
say(STARTED, channel)
say(STDOUT, channel, b'\x1b]0;title\x07\xff')
text = '\ud800\x1b[2J<script>[bold]' * 1000
say(EXIT, channel, END | {"user_us": 2**52, "max_rss_kb": 2**39, "background": 5, "truncated": 1,
    "stdout_bytes": 2**49, "kernel_ended": text, "notes": [text] * 64, "written": 2**49,
    "results": [{"mime_type": text, "data": text}, {"mime_type": "text/html", "data": text}]})
say(EXIT, channel, END)
say(STDOUT, channel, b'more')
"""
    with lying(engine, liar, lie):
        found = await run(engine, "liar")
    assert found.stdout == "\x1b]0;title\x07\ufffd"
    assert found.outcome == "failed"
    assert len(found.error or "") <= 600
    assert all(len(note) <= 500 for note in found.notes)
    assert [each.mime_type for each in found.results] == ["text/html"]
    assert found.cpu_ms < 10**7
    found.model_dump_json()
    engine.get_vm(liar).model_dump_json()
    [entry] = (await engine.past.history(_of(liar))).entries
    assert entry.outcome == "failed"


def _of(vm_id: str):
    from mulligan.models import HistoryQueryRequest

    return HistoryQueryRequest(vm_id=vm_id)


def _record(mode: int, size: int, name: bytes, target: bytes = b"") -> bytes:
    return filework.NAME.pack(mode, size, 0, len(name)) + name + target


def _message(kind: int, payload: bytes) -> bytes:
    return filework.HEADER.pack(kind, len(payload)) + payload


FILES = {
    "a FIFO": _message(filework.RECORD, _record(0o010644, 5, b"x")),
    "a directory": _message(filework.RECORD, _record(0o040755, 5, b"x")),
    "a link out": _message(filework.RECORD, _record(0o120777, 5, b"x", b"/etc/passwd")),
    "a size of 2**64 - 1": _message(filework.RECORD, _record(0o100644, 2**64 - 1, b"x")),
    "a name that is not there": _message(
        filework.RECORD, filework.NAME.pack(0o100644, 5, 0, 60000) + b"x"
    ),
    "nothing": _message(filework.RECORD, b""),
    "another kind": _message(77, b"x"),
    "a long message": filework.HEADER.pack(filework.RECORD, 2**31),
    "a flood": _message(filework.DATA, b"") * 20_000 * 10,
    "an error of no number": _message(filework.FAIL, b"\xff"),
    "data unasked": _message(filework.DATA, b"x" * 100),
}
NAMES = [b"", b".", b"..", b"a/b", b"/etc/passwd", b"../../x", b"nul\0", b"x" * 256]


def _says(data: bytes) -> str:
    return (
        "say(READY)\nwhile True:\n"
        "    channel, _ = wait(START)\n"
        f"    data = {data!r}\n"
        "    for start in range(0, len(data), 60000):\n"
        "        say(STDOUT, channel, data[start:start + 60000])"
    )


@pytest.mark.parametrize("lie", FILES.values(), ids=list(FILES))
async def test_files_that_cannot_be(engine: Engine, lie: bytes) -> None:
    liar = await make_vm(engine, "liar")
    with lying(engine, liar, _says(lie)):
        with pytest.raises(VmExecutionError):
            await asyncio.wait_for(engine.files.read(liar, "x"), 60)
        await stop(engine, liar)
    assert (await engine.files.list(liar, "/workspace")).entries == []


@pytest.mark.parametrize("name", NAMES, ids=repr)
async def test_names_in_a_directory_that_cannot_be(engine: Engine, name: bytes) -> None:
    liar = await make_vm(engine, "liar")
    said = _message(filework.RECORD, _record(0o100644, 1, name)) + _message(filework.DONE, b"\0")
    with lying(engine, liar, _says(said)), pytest.raises(FileBroken, match="cannot be"):
        await asyncio.wait_for(engine.files.list(liar, "/workspace"), 60)


async def test_differences_nested_deeply(engine: Engine) -> None:
    """And one that answers questions with what is no answer to them."""
    liar = await make_vm(engine, "liar")
    await run(engine, "liar", "open('a', 'w').close()")
    await stop(engine, liar)
    lie = (
        "say(READY)\nwhile True:\n"
        "    channel, _ = wait(START)\n"
        "    data = b'[' * 50000\n"
        "    say(STDOUT, channel, data)\n"
        "    say(EXIT, channel, END | {'stdout_bytes': 50000})"
    )
    with lying(engine, liar, lie):
        # Python from 3.14 on reads this to its end, and finds it unfinished.
        with pytest.raises(HistoryError, match=r"nested too deeply|Expecting value"):
            await asyncio.wait_for(engine.past.diff(liar), 60)
        await stop(engine, liar)


async def test_a_terminal_that_floods(engine: Engine) -> None:
    liar = await make_vm(engine, "liar")
    lie = (
        "say(READY); channel, _ = wait(START); say(STARTED, channel)\n"
        "while True: say(STDOUT, channel, b'\\x1b[2J' * 10000)"
    )
    with lying(engine, liar, lie):
        terminal = await engine.terminals.open(liar, TerminalRequest(cols=80, rows=24))
        try:
            with pytest.raises(VmExecutionError, match="than was granted"):
                await asyncio.wait_for(terminal.ended(), 60)
        finally:
            await engine.terminals.close_one(terminal)
        await stop(engine, liar)
