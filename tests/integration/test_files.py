"""Files of real VMs, through the engine."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.engine.files import transfers
from mulligan.errors import (
    FileBroken,
    FileConflict,
    FileDiskFull,
    FileError,
    FileForbidden,
    FileMissing,
    FileTooLarge,
    VmNotAvailable,
)
from mulligan.models import (
    RollbackTo,
    SnapshotCreateRequest,
    VmCreateRequest,
    VmExecuteRequest,
)
from mulligan.models.execution import DEFAULT_VM_TYPE
from mulligan.settings import Settings
from support.host import descendants

pytestmark = pytest.mark.anyio
MIB = 1024 * 1024


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    """Without gates: what they refuse is to be tried here."""
    return settings_module.load(data_dir=data_dir, hooks={"enabled": False})


async def make_vm(engine: Engine, agent: str = "tester", disk_mb: int | None = None) -> str:
    request = VmCreateRequest(vm_type=DEFAULT_VM_TYPE, agent_id=agent, disk_mb=disk_mb)
    return (await engine.create_vm(request)).id


@pytest.fixture
async def vm(engine: Engine) -> str:
    return await make_vm(engine)


async def sh(engine: Engine, vm: str, code: str) -> str:
    request = VmExecuteRequest(agent_id="tester", vm_id=vm, language="bash", code=code)
    response = await engine.execute(request)
    assert response.exit_code == 0, response.stderr
    return response.stdout


async def names(engine: Engine, vm: str, path: str = ".") -> list[str]:
    return [entry.name for entry in (await engine.files.list(vm, path)).entries]


async def test_what_is_written_is_there(engine: Engine, vm: str) -> None:
    """A stopped VM boots for it."""
    assert engine.get_vm(vm).status == "stopped"
    written = await engine.files.write(vm, "a b/ü.txt", b"one\n", parents=True)
    assert engine.get_vm(vm).status == "ready"
    assert (written.path, written.size, written.mode) == ("/workspace/a b/ü.txt", 4, "0644")
    assert await sh(engine, vm, "cat 'a b/ü.txt'; stat -c '%u %a' 'a b/ü.txt'") == "one\n1000 644\n"
    assert await engine.files.stat(vm, "a b/ü.txt") == written.model_copy(
        update={"snapshot_before": None}
    )
    assert await engine.files.read(vm, "/workspace/a b/ü.txt", offset=1, length=2) == b"ne"
    assert await engine.files.read(vm, "a b/ü.txt", offset=100) == b""


async def test_a_file_keeps_its_mode_and_its_links(engine: Engine, vm: str) -> None:
    await sh(engine, vm, "echo old > tool; chmod 750 tool; ln -s tool link; mkdir -m 555 locked")
    assert (await engine.files.write(vm, "link", b"new")).mode == "0750"
    assert await sh(engine, vm, "readlink link; cat tool") == "tool\nnew"
    assert (await engine.files.write(vm, "tool", b"", mode="600")).mode == "0600"
    with pytest.raises(FileForbidden):
        await engine.files.write(vm, "locked/x", b"")
    for mode in ("rwx", "9", "12345", "", "-1"):
        with pytest.raises(FileError) as refused:
            await engine.files.write(vm, "x", b"", mode=mode)
        assert refused.value.field == "mode"
    assert "x" not in await names(engine, vm)


HOSTILE = """
mkfifo fifo; ln -s fifo tofifo; ln -s loop loop; ln -s nowhere/x dangling; mkdir d
ln -s /etc/shadow shadow; ln -s /proc/1/environ environ; ln -s /proc/1/root/etc/passwd agents
ln -s /../../../../etc/hostname up; ln -s /proc/1/fd/0 descriptor; ln -s /.mulligan mulligan
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
"""
REFUSED: list[tuple[str, type[FileError], str]] = [
    ("", FileError, "empty"),
    ("a\0b", FileError, "NUL"),
    ("a" * 5000, FileError, "bytes long"),
    ("a" * 256, FileError, "name too long"),
    ("a/" * 2500, FileError, "bytes long"),
    ("\ud800", FileError, "cannot be in a name"),
    ("nothing", FileMissing, "no such file"),
    ("d/../nothing", FileMissing, "no such file"),
    ("dangling", FileMissing, "no such file"),
    (".", FileConflict, "is a directory"),
    ("/", FileConflict, "is a directory"),
    ("d", FileConflict, "is a directory"),
    ("fifo", FileConflict, "but a fifo"),
    ("tofifo", FileConflict, "but a fifo"),
    ("socket", FileConflict, "but a socket"),
    ("loop", FileConflict, "too many levels"),
    ("/dev/null", FileConflict, "but a character device"),
    ("/dev/zero", FileConflict, "but a character device"),
    ("/dev/stdin", FileConflict, "but a fifo"),
    ("fifo/x", FileConflict, "not a directory"),
    ("shadow", FileMissing, "no such file"),
    ("environ", FileForbidden, "permission denied"),
    ("agents", FileForbidden, "permission denied"),
    ("descriptor", FileForbidden, "permission denied"),
    ("mulligan", FileMissing, "no such file"),
    ("/proc/1/mem", FileForbidden, "permission denied"),
]


async def test_tricks_with_paths(engine: Engine, vm: str) -> None:
    """Nothing blocks, nothing leaves the VM, and every refusal names the field."""
    await sh(engine, vm, HOSTILE)
    for path, kind, text in REFUSED:
        with pytest.raises(FileError) as refused:
            await engine.files.read(vm, path)
        assert type(refused.value) is kind, path
        assert text in str(refused.value), path
        assert refused.value.field == "path", path
        assert len(str(refused.value)) < 500
    for path in ("fifo", "tofifo", "socket", "d", "/", "/dev/null", "loop", "/dev", "/proc/new"):
        with pytest.raises(FileError):
            await engine.files.write(vm, path, b"x")
    with pytest.raises(FileConflict, match="gone with the program"):
        await engine.files.write(vm, "/run/mulligan/x", b"x")
    inside = await sh(engine, vm, "cat /etc/hostname")
    for path in ("up", "../../../etc/hostname", "/proc/self/root/etc/hostname"):
        assert (await engine.files.read(vm, path)).decode() == inside
    assert (await engine.files.read(vm, "/proc/self/status")).startswith(b"Name:")
    await engine.files.write(vm, "d/../../../tmp/x", b"stays inside")
    assert await sh(engine, vm, "cat /tmp/x") == "stays inside"


async def test_what_lies_about_is_not_imported(engine: Engine, vm: str) -> None:
    """A file that is called like a module of the program's is only a file."""
    for module in ("struct", "stat", "os", "errno", "posixpath"):
        for directory in ("", "/"):
            trap = f"open('/workspace/sprung', 'w'); raise SystemExit(3) # {module}"
            await engine.files.write(vm, f"{directory}{module}.py", trap.encode())
    assert "sprung" not in await names(engine, vm)


async def test_names_that_are_no_text(engine: Engine, vm: str) -> None:
    await sh(engine, vm, r"""mkdir d; cd d; touch $'\xff' 'a\b' $'new\nline' ä; ln -s $'\xfe' l""")
    found = {entry.name: entry for entry in (await engine.files.list(vm, "d")).entries}
    assert set(found) == {r"\xff", r"a\b", "new\nline", "ä", "l"}
    assert {name for name, entry in found.items() if entry.escaped} == {"l", r"\xff"}
    assert found["l"].target == r"\xfe"
    await engine.files.write(vm, found[r"\xff"].path, b"here", escaped=True)
    assert await engine.files.read(vm, "d/\udcff") == b"here"
    with pytest.raises(FileError, match="cannot be in a name"):
        await engine.files.read(vm, r"d/a\b", escaped=True)
    assert await engine.files.read(vm, r"d/a\\b", escaped=True) == b""


async def test_lists_are_bounded(engine: Engine, vm: str) -> None:
    await sh(engine, vm, "mkdir d; cd d; for i in {1..2500}; do : > f$i; done")
    some = await engine.files.list(vm, "d", limit=100)
    assert (len(some.entries), some.truncated) == (100, True)
    assert some.entries == sorted(some.entries, key=lambda entry: entry.name)
    every = await engine.files.list(vm, "d", limit=2500)
    assert (len(every.entries), every.truncated) == (2500, False)
    for limit in (0, -1, 10_001):
        with pytest.raises(FileError) as refused:
            await engine.files.list(vm, "d", limit=limit)
        assert refused.value.field == "limit"
    with pytest.raises(FileConflict):
        await engine.files.list(vm, "d/f1")


async def test_directories_moves_and_removals(engine: Engine, vm: str) -> None:
    files = engine.files
    with pytest.raises(FileMissing, match="no such file"):
        await files.make_directory(vm, "a/b/c")
    await files.make_directory(vm, "a/b/c", parents=True)
    await files.make_directory(vm, "a/b/c", parents=True)
    with pytest.raises(FileConflict):
        await files.make_directory(vm, "a/b/c")
    await files.write(vm, "a/b/c/f", b"1")
    with pytest.raises(FileConflict, match="not empty"):
        await files.delete(vm, "a")
    await sh(engine, vm, "true")  # freezes the layer: its directories can no longer be renamed
    assert (await files.move(vm, "a/b", "q/b", parents=True)).type == "directory"
    assert await files.read(vm, "q/b/c/f") == b"1"
    await files.write(vm, "g", b"2")
    with pytest.raises(FileConflict, match="already") as there:
        await files.move(vm, "g", "q/b/c/f")
    assert there.value.field == "target"
    with pytest.raises(FileMissing) as missing:
        await files.move(vm, "nothing", "x")
    assert missing.value.field == "source"
    await files.move(vm, "g", "q/b/c/f", overwrite=True)
    assert await files.read(vm, "q/b/c/f") == b"2"
    await sh(engine, vm, "ln -s /etc q/link; mkfifo q/fifo; mkdir q/locked; touch q/locked/x")
    await files.delete(vm, "q", recursive=True)
    assert await names(engine, vm) == ["a"]
    assert "passwd" in await names(engine, vm, "/etc")
    for path in ("/", "/..", "a/../.."):
        with pytest.raises(FileConflict, match="root of the VM"):
            await files.delete(vm, path, recursive=True)


async def test_other_agents_vms(engine: Engine, vm: str) -> None:
    files = engine.files
    await files.write(vm, "mine", b"1")
    for call in (
        files.read(vm, "mine", "other"),
        files.write(vm, "mine", b"2", "other"),
        files.write(vm, "mine", bytes(2 * MIB), "other"),
        files.list(vm, ".", "other"),
        files.stat(vm, "mine", "other"),
        files.delete(vm, "mine", "other"),
        files.move(vm, "mine", "x", "other"),
        files.make_directory(vm, "x", "other"),
        files.read("vm-none", "mine"),
    ):
        with pytest.raises(VmNotAvailable):
            await call
    assert await files.read(vm, "mine", "tester") == b"1"


# Undo


async def test_changes_in_a_row_are_undone_together(engine: Engine, vm: str) -> None:
    files, back = engine.files, RollbackTo()
    before = (await files.write(vm, "a", b"1")).snapshot_before
    assert before is not None
    assert (await files.write(vm, "b", bytes(2 * MIB))).snapshot_before == before
    await sh(engine, vm, "cp a c")
    changed = await engine.past.diff(vm)
    assert [entry.path for entry in changed.entries] == ["/workspace/c"]
    second = (await files.delete(vm, "a")).snapshot_before
    assert second not in (None, before)
    assert [(e.change, e.path) for e in (await engine.past.diff(vm)).entries] == [
        ("removed", "/workspace/a"),
        ("added", "/workspace/c"),
    ]
    await engine.past.rollback(vm, back)
    assert await names(engine, vm) == ["a", "b", "c"]
    await engine.past.rollback(vm, back)
    assert await names(engine, vm) == ["a", "b"]
    await engine.past.rollback(vm, back)
    assert await names(engine, vm) == []


async def test_what_is_written_beside_an_execution_is_undone_with_it(
    engine: Engine, vm: str
) -> None:
    await sh(engine, vm, "echo first > x")
    running = asyncio.create_task(sh(engine, vm, "touch on; until test -e go; do sleep 0.01; done"))
    while "on" not in await names(engine, vm):
        pass
    assert (await engine.files.write(vm, "go", b"")).snapshot_before is None
    await running
    await engine.past.rollback(vm, RollbackTo())
    assert await names(engine, vm) == ["x"]


async def test_old_restore_points_go(engine: Engine) -> None:
    most = engine.settings.history.max_history_entries
    vm = await make_vm(engine)
    machine, undo = engine.fleet.find(vm), engine.files._conversations._keep
    undo.__self__._settings = engine.settings.history.model_copy(  # type: ignore[attr-defined]
        update={"max_history_entries": 3}
    )
    for number in range(6):
        await engine.files.write(vm, f"f{number}", b"")
        await engine.past.snapshots(vm)
        machine.writing.turns += 1  # as an execution's start does
    kept = [each for each in await engine.past.snapshots(vm) if each.kind == "files"]
    assert len(kept) == 3 < most


# Transfers beside other things


async def chunks(writer: object, count: int) -> None:
    for _ in range(count):
        await writer.write(bytes(64 * 1024))  # type: ignore[attr-defined]


async def drain(content: AsyncIterator[bytes]) -> None:
    async for _ in content:
        pass


async def test_a_write_that_is_given_up_leaves_nothing(engine: Engine, vm: str) -> None:
    await engine.files.write(vm, "x", b"old")
    async with engine.files.open_write(vm, "x") as writer:
        await chunks(writer, 40)
    opened = engine.files.open_write(vm, "y")
    await chunks(await opened.__aenter__(), 40)
    assert not await opened.__aexit__(ValueError, ValueError(), None)
    task = asyncio.create_task(engine.files.write(vm, "z", bytes(50 * MIB)))
    await asyncio.sleep(0)
    while not engine.fleet.find(vm).transfers.changing:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(engine, vm) == ["x"]
    assert await engine.files.read(vm, "x") == b"old"
    assert not len(engine.fleet.find(vm).transfers)


async def test_rollback_breaks_transfers_off(engine: Engine, vm: str) -> None:
    await engine.files.write(vm, "big", bytes(8 * MIB))
    keep = await sh(engine, vm, "echo 1 > one; echo ok")
    assert keep == "ok\n"
    async with AsyncExitStack() as stack:
        reader = await stack.enter_async_context(engine.files.open_read(vm, "big"))
        content = reader.read()
        assert await anext(content)
        writer = await stack.enter_async_context(engine.files.open_write(vm, "new"))
        await writer.write(b"half")
        await engine.past.rollback(vm, RollbackTo())
        with pytest.raises(FileBroken, match="rolled back"):
            await drain(content)
        with pytest.raises(FileBroken, match="rolled back"):
            await writer.commit()
    assert await names(engine, vm) == ["big", "one"]  # as it was before the write began


async def test_executions_and_snapshots_go_on_beside_transfers(engine: Engine, vm: str) -> None:
    await engine.files.write(vm, "big", bytes(8 * MIB))
    async with AsyncExitStack() as stack:
        reader = await stack.enter_async_context(engine.files.open_read(vm, "big"))
        content = reader.read()
        assert await anext(content)
        writer = await stack.enter_async_context(engine.files.open_write(vm, "new"))
        await writer.write(b"half")
        assert await sh(engine, vm, "echo hi > note; ls") == "big\nnote\n"
        kept = await engine.past.snapshot(vm, SnapshotCreateRequest(name="between"))
        got = 64 * 1024
        async for chunk in content:
            got += len(chunk)
        assert got == 8 * MIB
        await writer.write(b" whole")
        await writer.commit()
    assert await engine.files.read(vm, "new") == b"half whole"
    await engine.past.rollback(vm, RollbackTo(snapshot_id=kept.id))
    assert await names(engine, vm) == ["big", "note"]


async def test_a_file_that_shrinks_under_its_reader(engine: Engine, vm: str) -> None:
    await engine.files.write(vm, "big", bytes(8 * MIB))
    async with engine.files.open_read(vm, "big") as reader:
        content = reader.read()
        await anext(content)
        await sh(engine, vm, ": > big")
        with pytest.raises(FileBroken, match="shorter"):
            await drain(content)


async def test_a_vm_that_ends_ends_its_transfers(engine: Engine, vm: str) -> None:
    async with engine.files.open_write(vm, "x") as writer:
        await writer.write(b"half")
        await engine.delete_vm(vm)
        with pytest.raises(FileBroken):
            await writer.commit()


async def test_closing_the_engine_ends_transfers(settings: Settings) -> None:
    before = descendants(os.getpid())
    async with AsyncExitStack() as stack:
        async with Engine(settings) as engine:
            vm = await make_vm(engine)
            writer = await stack.enter_async_context(engine.files.open_write(vm, "x"))
        with pytest.raises(FileBroken):
            await writer.commit()
    assert not descendants(os.getpid()) - before


# Bounds


async def test_a_full_disk(engine: Engine) -> None:
    vm = await make_vm(engine, disk_mb=32)
    with pytest.raises(FileDiskFull, match="disk is full"):
        await engine.files.write(vm, "big", bytes(64 * MIB))
    assert await names(engine, vm) == []
    await engine.files.write(vm, "small", b"fits")
    assert await engine.files.read(vm, "small") == b"fits"


async def test_a_file_over_the_limit(engine: Engine, vm: str) -> None:
    engine.files.settings = engine.settings.files.model_copy(update={"max_file_bytes": MIB})
    with pytest.raises(FileTooLarge) as refused:
        await engine.files.write(vm, "x", bytes(MIB + 1))
    assert "max_file_bytes" in str(refused.value.remedy)
    async with engine.files.open_write(vm, "x") as writer:
        with pytest.raises(FileTooLarge, match="nothing of it was kept"):
            await chunks(writer, 17)
    assert await names(engine, vm) == []
    assert (await engine.files.write(vm, "x", bytes(MIB))).size == MIB


async def test_large_files_are_not_read_at_once(engine: Engine, vm: str) -> None:
    await sh(engine, vm, "truncate -s 4T huge")
    with pytest.raises(FileTooLarge, match="at once"):
        await engine.files.read(vm, "huge")
    assert await engine.files.read(vm, "huge", offset=2**41, length=3) == b"\0\0\0"


LIARS = {
    "sends without end": ("while True: send(DATA, bytes(65536))", "something else|more than"),
    "sends nothing without end": ("while True: send(TAKEN)", "something else|more than"),
    "announces a huge message": (
        "os.write(1, HEADER.pack(DATA, 2**32 - 1)); os.read(0, 1)",
        "a message of",
    ),
    "is no file": ("send(RECORD, b'x')", "no known form"),
    "has no name": ("send(RECORD, NAME.pack(0o100644, 5, 0, 9) + b'../../up')", "cannot be"),
    "has a size beyond all": ("send(RECORD, NAME.pack(0o100644, 2**64-1, 0, 0))", "cannot be"),
    "sends before it is asked": ("send(DATA, b'x')", "something else"),
    "ends": ("os._exit(0)", "ended"),
    "breaks": ("1 / 0", "division by zero"),
    "fails in a way of its own": ("send(FAIL, b'xx')", "something else"),
    "is silent": ("os.read(0, 1 << 20); import time; time.sleep(600)", "did not"),
    "sends more than the file has": (
        "send(RECORD, NAME.pack(0o100644, 5, 0, 0)); receive(); send(DATA, bytes(6))",
        "not asked for",
    ),
    "takes what it was not sent": ("send(TAKEN, NUMBER.pack(10**9))", "something else|not sent"),
}


@pytest.mark.parametrize("lie", LIARS)
async def test_liars_in_the_vm(
    engine: Engine, vm: str, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of the VM's that got hold of the one we started could have it do anything."""
    program, text = LIARS[lie]
    honest = transfers.TEXT
    monkeypatch.setattr(transfers, "TEXT", f"{honest}\n\ndef main(*_):\n    {program}\n")
    engine.files.settings = engine.settings.files
    engine.files._conversations._settings = engine.settings.files.model_copy(
        update={"idle_seconds": 0.5}
    )
    with pytest.raises(FileBroken, match=text):
        await engine.files.read(vm, "x")
    with pytest.raises(FileBroken):
        await engine.files.write(vm, "x", bytes(2 * MIB))
    with pytest.raises(FileError):
        await engine.files.list(vm)
    monkeypatch.setattr(transfers, "TEXT", honest)
    assert await names(engine, vm) == []  # and the VM is well


async def test_a_reader_who_stops(engine: Engine, vm: str) -> None:
    """Who takes nothing has nothing sent to him: a window is under way, and no more."""
    await engine.files.write(vm, "big", bytes(32 * MIB))
    async with engine.files.open_read(vm, "big") as reader:
        content = reader.read()
        await anext(content)
        running = reader._transfer.running
        for _ in range(20):
            await sh(engine, vm, "true")  # the VM goes on
        assert running.inbox._held <= transfers.WINDOW + transfers.SLACK
        got = 64 * 1024 + sum([len(chunk) async for chunk in content])
    assert got == 32 * MIB


async def test_errors_from_the_vm_hold_no_secrets(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "zeta-" + "made-up-4711-value"
    given = settings_module.load(data_dir=data_dir, secrets={"KEY": secret})
    said = f"send(FAIL, ERROR.pack(5) + b'rm: cannot remove {secret}')"
    monkeypatch.setattr(transfers, "TEXT", f"{transfers.TEXT}\n\ndef main(*_):\n    {said}\n")
    async with Engine(given) as engine:
        vm = await make_vm(engine)
        with pytest.raises(FileBroken, match="cannot remove") as failed:
            await engine.files.delete(vm, "x", recursive=True)
        assert secret not in str(failed.value)
