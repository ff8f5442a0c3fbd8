"""A VM as an object, through a server and in this process, async and blocking."""

import threading
from pathlib import Path

import pytest

from mulligan import AsyncVm, Vm, VmExecutionConfig
from mulligan import settings as settings_module
from mulligan.errors import (
    ConfigError,
    ConnectionFailed,
    ExecutionNotFound,
    HistoryError,
    SnapshotNotFound,
    VmBusy,
    VmNotAvailable,
)
from support import host

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["http", "direct"])
def options(request, server, data_dir: Path) -> dict:
    if request.param == "http":
        return {"server": server.url}
    return {"settings": settings_module.load(data_dir=data_dir)}


def test_a_vm_and_its_past(options: dict) -> None:
    before = host.descriptors()
    with Vm("past", **options) as vm:
        assert vm.run("print(6 * 7)").stdout == "42\n"
        ran = vm.run("echo $A; pwd; cat", "bash", env={"A": "x"}, stdin="in", working_dir="/tmp")
        assert (ran.stdout, ran.vm_id) == ("x\n/tmp\nin", vm.id)
        assert vm.run("while True: pass", timeout_seconds=1).outcome == "timeout"
        vm.run("echo one > f", "bash")
        good = vm.snapshot("good", "as it should be")
        assert good.id in [each.id for each in vm.snapshots()]
        broke = vm.run("echo two > f; touch g; exit 2", "bash")
        assert [entry.path for entry in vm.diff().entries] == ["/workspace/f", "/workspace/g"]
        assert [entry.path for entry in vm.diff(good).entries] == ["/workspace/f", "/workspace/g"]
        done = vm.rollback(broke, keep=True)
        assert vm.run("cat f; ls", "bash").stdout == "one\nf\n"
        vm.rollback(done.pre_rollback_snapshot_id)
        assert vm.run("cat f", "bash").stdout == "two\n"
        vm.rollback(good)
        assert vm.run("cat f", "bash").stdout == "one\n"
        vm.run("echo three > f; exit 1", "bash")
        vm.rollback("last_success")
        assert vm.run("cat f", "bash").stdout == "one\n"
        vm.run("echo four > f", "bash")
        vm.rollback(vm.history(1).entries[0])
        vm.rollback(broke.execution_id)
        vm.rollback()
        found = vm.history(3, search="echo two")
        assert [entry.id for entry in found.entries] == [broke.execution_id]
        assert vm.history(failures_only=True).total == 3
        with pytest.raises(SnapshotNotFound):
            vm.rollback("snap-0")
        with pytest.raises(ExecutionNotFound):
            vm.rollback("exec-0")
    with pytest.raises(ConnectionFailed, match="closed"):
        vm.run("1")
    vm.close()
    assert host.wait_until(lambda: host.descriptors() <= before)


def test_forks_share_their_parents_client(options: dict) -> None:
    with Vm("forks", **options) as vm:
        vm.run("echo base > f", "bash")
        left, right = vm.fork(2)
        assert isinstance(left, Vm)
        for fork, text in ((left, "left"), (right, "right")):
            assert fork.run(f"cat f; echo {text} > f", "bash").stdout == "base\n"
        assert [each.run("cat f", "bash").stdout for each in (vm, left, right)] == [
            "base\n",
            "left\n",
            "right\n",
        ]
        changed = vm.run("echo changed > f", "bash")
        (earlier,) = vm.fork(before=changed)
        assert earlier.run("cat f", "bash").stdout == "base\n"
        left.close()
        assert left.run("echo still", "bash").stdout == "still\n"
        right.delete()
        with pytest.raises(VmNotAvailable):
            right.run("1")
        (nested,) = left.fork()
        assert nested.run("cat f", "bash").stdout == "left\n"
        assert len({each.id for each in (vm, left, right, earlier, nested)}) == 5
    for gone in (vm, left, nested):
        with pytest.raises(ConnectionFailed, match="closed"):
            gone.run("1")


def test_streams(options: dict) -> None:
    with Vm("streams", **options) as vm:
        texts = [event.text for event in vm.stream("print(1)", env={"A": "b"}) if event.text]
        assert texts == ["1\n"]
        events = vm.stream("echo a; sleep 300", "bash")
        started = next(events)
        assert (started.event, started.vm_id) == ("started", vm.id)
        cancelled = vm.cancel(started)
        assert cancelled.state == "ended"
        last = list(events)[-1]
        assert last.result == cancelled.result


def test_stopping(options: dict) -> None:
    with Vm("stopping", **options) as vm:
        vm.run("x = 1; open('f', 'w').write('kept')", kernel="main")
        vm.run("nohup sleep 300 >/dev/null & ", "bash")
        events = vm.stream("echo here; sleep 300", "bash")
        started = next(events)
        with pytest.raises(VmBusy, match="runs something"):
            vm.stop()
        vm.cancel(started)
        events.close()
        stopped = vm.stop()
        assert (stopped.id, stopped.status) == (vm.id, "hibernated")
        assert vm.stop() == stopped
        look = "import os; print(os.path.exists('f'), 'x' in globals())"
        assert vm.run(look, kernel="main").stdout == "True False\n"
        assert vm.run("pgrep sleep", "bash").exit_code == 1
        (fork,) = vm.fork()
        assert fork.stop().id == fork.id
        vm.delete()
        with pytest.raises(VmNotAvailable):
            vm.stop()


def test_whose_vm_it_is(options: dict) -> None:
    with Vm("mine", **options) as vm:
        vm.run("open('f', 'w').write('kept')")
        mine = vm.id
        with Vm("mine", **options) as again:
            assert again.id == mine
        with Vm(vm_id=mine, **options) as named:
            assert named.agent_id == "mine"
            assert named.run("print(open('f').read())").stdout == "kept\n"
        with pytest.raises(VmNotAvailable), Vm("other", vm_id=mine, **options):
            pass
        with pytest.raises(VmNotAvailable), Vm(vm_id="vm-0", **options):
            pass
        assert mine in repr(vm)
    lazy = Vm("lazy", **options)
    try:
        assert lazy.id != mine
    finally:
        lazy.close()


async def test_the_async_one(options: dict) -> None:
    async with AsyncVm("async", **options) as vm:
        assert (await vm.run("print(1)")).stdout == "1\n"
        events = [event async for event in vm.stream("print(2)")]
        assert [event.event for event in events] == ["started", "stdout", "result"]
        await vm.run("echo one > f", "bash")
        kept = await vm.snapshot()
        forks = await vm.fork(2, snapshot=kept)
        assert [(await fork.run("cat f", "bash")).stdout for fork in forks] == ["one\n"] * 2
        assert await vm.open() is vm
        assert (await vm.stop()).status == "hibernated"
        await vm.delete()
    closed = AsyncVm("async", **options)
    with pytest.raises(ConnectionFailed, match="not opened"):
        _ = closed.id
    await closed.close()


def client_threads() -> set[int]:
    """The loop threads of blocking clients."""
    return {each.native_id for each in threading.enumerate() if each.name == "mulligan-client"}


def test_vms_of_a_process_share_its_engine(data_dir: Path) -> None:
    before = client_threads()
    settings = settings_module.load(data_dir=data_dir)
    with Vm("a", settings=settings) as one, Vm("b", settings=settings) as other:
        assert one.run("print('a')").vm_id != other.run("print('b')").vm_id
        one.close()
        assert other.run("print('b')").stdout == "b\n"
        with Vm("a", settings=settings) as again:
            assert again.history().total == 1
    assert client_threads() <= before


def test_what_cannot_be_meant(data_dir: Path) -> None:
    settings = settings_module.load(data_dir=data_dir)
    with pytest.raises(ConfigError, match="settings"):
        Vm(server="http://127.0.0.1:9", settings=settings)
    with pytest.raises(ConnectionFailed, match="cannot reach"), Vm(server="http://127.0.0.1:9"):
        pass


def test_bounds_of_a_config(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULLIGAN_DATA_DIR", str(data_dir))
    with Vm(config=VmExecutionConfig(max_code_length=5)) as vm:
        assert vm.run("1").exit_code == 0
        with pytest.raises(Exception, match="code"):
            vm.run("123456")
    monkeypatch.setenv("MULLIGAN_HISTORY__ENABLED", "false")
    with Vm() as vm, pytest.raises(HistoryError):
        vm.history()
