"""What can be wrong with a past: each is named, and everything else goes on."""

import asyncio
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from mulligan.engine import fleet
from mulligan.engine.engine import Engine
from mulligan.engine.executions import recording
from mulligan.engine.past import timemachine
from mulligan.errors import ConfigError, HistoryError, SnapshotNotFound, VmExecutionError
from mulligan.layers.directories import remove_tree
from mulligan.models import (
    ForkRequest,
    HistoryQueryRequest,
    RollbackTo,
    SnapshotCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)
from mulligan.settings import Settings
from support import host
from support.server import Server, clean_environment, command

pytestmark = pytest.mark.anyio


async def bash(engine: Engine, code: str, agent: str = "tester", **more) -> VmExecuteResponse:
    request = VmExecuteRequest(agent_id=agent, language="bash", code=code, **more)
    return await engine.execute(request)


async def keep(engine: Engine, vm_id: str) -> str:
    return (await engine.past.snapshot(vm_id, SnapshotCreateRequest())).id


class Http:
    """Few words for requests to a server."""

    def __init__(self, server: Server) -> None:
        self.url = server.url

    def __call__(self, method: str, path: str, **more) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=60, trust_env=False, **more)

    def bash(self, code: str, agent: str = "a") -> dict:
        body = {"agent_id": agent, "language": "bash", "code": code}
        return self("POST", "/api/llm/execute", json=body).json()

    def keep(self, vm_id: str) -> str:
        return self("POST", f"/api/vms/{vm_id}/snapshots", json={}).json()["id"]


# Snapshots


async def test_snapshots_unknown_foreign_and_deleted(engine: Engine) -> None:
    mine = (await bash(engine, "echo mine > f")).vm_id
    theirs = (await bash(engine, "echo theirs > f", "other")).vm_id
    foreign, deleted = await keep(engine, theirs), await keep(engine, mine)
    await engine.past.delete_snapshot(mine, deleted)
    for snapshot in ("snap-nobody", foreign, deleted):
        for work in (
            engine.past.rollback(mine, RollbackTo(snapshot_id=snapshot)),
            engine.past.fork(mine, ForkRequest(snapshot_id=snapshot)),
            engine.past.diff(mine, snapshot),
            engine.past.delete_snapshot(mine, snapshot),
        ):
            with pytest.raises(SnapshotNotFound, match=f"Snapshot not found: {snapshot}"):
                await work
    assert (await bash(engine, "cat f")).stdout == "mine\n"
    await engine.past.rollback(theirs, RollbackTo(snapshot_id=foreign))


def test_snapshots_unknown_foreign_and_deleted_over_http(data_dir: Path) -> None:
    with Server(data_dir) as server:
        http = Http(server)
        mine = http.bash("echo mine > f")["vm_id"]
        foreign = http.keep(http.bash("echo theirs > f", "other")["vm_id"])
        deleted = http.keep(mine)
        assert http("DELETE", f"/api/vms/{mine}/snapshots/{deleted}").status_code == 204
        for snapshot in ("snap-nobody", foreign, deleted):
            answer = http("POST", f"/api/vms/{mine}/rollback/{snapshot}")
            assert answer.status_code == 404
            assert answer.json()["message"] == f"Snapshot not found: {snapshot}"
        assert http.bash("cat f")["stdout"] == "mine\n"


async def test_a_stopped_vm_is_booted_by_a_rollback(settings: Settings) -> None:
    async with Engine(settings) as engine:
        vm_id = (await bash(engine, "echo one > f")).vm_id
        snapshot = await keep(engine, vm_id)
        await bash(engine, "echo two > f")
    async with Engine(settings) as engine:
        assert engine.get_vm(vm_id).status == "stopped"
        await engine.past.rollback(vm_id, RollbackTo(snapshot_id=snapshot))
        assert engine.get_vm(vm_id).status == "ready"
        assert (await bash(engine, "cat f")).stdout == "one\n"


async def test_a_snapshot_while_an_execution_runs(engine: Engine) -> None:
    """It keeps a state the disk was in; the program does not notice."""
    started = asyncio.Event()
    code = "for i in $(seq 1 40); do echo $i > a; echo $i > b; echo on; sleep 0.02; done; cat a b"
    request = VmExecuteRequest(agent_id="tester", language="bash", code=code)
    running = asyncio.create_task(engine.execute(request, lambda *_: started.set()))
    await asyncio.wait_for(started.wait(), 20)
    (vm,) = engine.list_vms()
    snapshots = [await keep(engine, vm.id) for _ in range(3)]
    response = await running
    assert (response.outcome, response.stdout.split()[-2:]) == ("success", ["40", "40"])
    for snapshot in snapshots:
        await engine.past.rollback(vm.id, RollbackTo(snapshot_id=snapshot))
        first, second = map(int, (await bash(engine, "cat a b || echo 0")).stdout.split())
        assert first - second in (0, 1)


def test_a_snapshot_while_an_execution_runs_over_http(data_dir: Path) -> None:
    with Server(data_dir) as server:
        http = Http(server)
        vm_id = http.bash("echo one > f")["vm_id"]
        answers: list[dict] = []
        code = "touch started; sleep 1; echo two > f; echo done"
        thread = threading.Thread(target=lambda: answers.append(http.bash(code)))
        thread.start()
        busy = f"/api/vms/{vm_id}"
        assert host.wait_until(lambda: http("GET", busy).json()["status"] == "running")
        snapshot = http.keep(vm_id)
        thread.join(30)
        assert answers[0]["stdout"] == "done\n"
        assert http("POST", f"/api/vms/{vm_id}/rollback/{snapshot}").status_code == 200
        assert http.bash("cat f")["stdout"] == "one\n"


# Damage


def spoil_record(layer: Path) -> None:
    (layer / "layer.json").write_text("{")


def remove_files(layer: Path) -> None:
    remove_tree(layer / "tree")


def remove_layer(layer: Path) -> None:
    remove_tree(layer)


def merge_record_of_rubbish(layer: Path) -> None:
    (layer / "merged.json").write_bytes(b"\xff\x00")


DAMAGE: list[Callable[[Path], None]] = [
    spoil_record,
    remove_files,
    remove_layer,
    merge_record_of_rubbish,
]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_layer(settings: Settings, damage: Callable[[Path], None]) -> None:
    """It is named by whatever needs it; what does not is served, and can be gone back to."""
    async with Engine(settings) as engine:
        vm_id = (await bash(engine, "echo one > f")).vm_id
        before = await keep(engine, vm_id)
        await bash(engine, "echo two > f")
        after = await keep(engine, vm_id)
        await bash(engine, "echo fine > f", "other")
    (layer,) = (settings.data_dir / "layers").glob(f"*/{vm_id}.1")
    damage(layer)
    async with Engine(settings) as engine:
        named = f"{layer.name} is missing or damaged"
        with pytest.raises(VmExecutionError, match=named):
            await bash(engine, "cat f")
        with pytest.raises(VmExecutionError, match=named):
            await engine.past.rollback(vm_id, RollbackTo(snapshot_id=after))
        with pytest.raises(VmExecutionError, match=named):
            await engine.past.diff(vm_id, before, after)
        assert (await bash(engine, "cat f", "other")).stdout == "fine\n"
        await engine.settle()
        await engine.past.rollback(vm_id, RollbackTo(snapshot_id=before))
        assert (await bash(engine, "cat f")).stdout == "one\n"


def test_a_damaged_layer_over_http(data_dir: Path) -> None:
    with Server(data_dir) as server:
        http = Http(server)
        vm_id = http.bash("echo one > f")["vm_id"]
        http.keep(vm_id)
        http.bash("echo fine > f", "other")
    (layer,) = (data_dir / "layers").glob(f"*/{vm_id}.0")
    spoil_record(layer)
    with Server(data_dir) as server:
        http = Http(server)
        assert f"{layer} is missing or damaged" in http.bash("cat f")["message"]
        assert http.bash("cat f", "other")["stdout"] == "fine\n"
    assert f"layer {layer} is damaged and was left alone" in server.log()


@pytest.mark.parametrize("name", ["vm.json", "state.json"])
async def test_a_damaged_vm_is_left_alone(settings: Settings, name: str) -> None:
    """Its rows and layers too: what is wrong may be put right again."""
    async with Engine(settings) as engine:
        vm_id = (await bash(engine, "echo one > f")).vm_id
        await keep(engine, vm_id)
    file = settings.data_dir / "vms" / vm_id / name
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    async with Engine(settings) as engine:
        assert engine.list_vms() == []
        other = (await bash(engine, "echo two > f")).vm_id
        await engine.delete_vm(other)
        await engine.settle()
    file.write_bytes(content)
    async with Engine(settings) as engine:
        assert (await bash(engine, "cat f", vm_id=vm_id)).stdout == "one\n"
        assert (await engine.past.history(HistoryQueryRequest(vm_id=vm_id))).total == 2


async def test_a_corrupted_database(settings: Settings) -> None:
    """It is refused and left as it is; with it out of the way VMs are as they were."""
    async with Engine(settings) as engine:
        vm_id = (await bash(engine, "echo one > f")).vm_id
    database = settings.data_dir / "history" / "history.db"
    database.write_bytes(b"rubbish" * 1000)
    engine = Engine(settings)
    with pytest.raises(HistoryError, match=f"corrupted: {database}"):
        await engine.open()
    assert database.read_bytes() == b"rubbish" * 1000
    serve = command("serve", "--port", "0", "--data-dir", str(settings.data_dir))
    done = subprocess.run(
        serve, capture_output=True, text=True, check=False, timeout=60, env=clean_environment()
    )
    assert done.returncode not in (0, None)
    assert "corrupted" in done.stderr
    assert str(database) in "".join(done.stderr.split("\n"))
    assert "Traceback" not in done.stderr
    database.unlink()
    async with Engine(settings) as engine:
        assert (await bash(engine, "cat f", vm_id=vm_id)).stdout == "one\n"


async def test_two_servers_on_one_directory(settings: Settings) -> None:
    with Server(settings.data_dir) as server:
        with pytest.raises(ConfigError, match=f"in use by process {server.pid}"):
            await Engine(settings).open()
        assert Http(server).bash("echo on")["stdout"] == "on\n"
    async with Engine(settings) as engine:
        assert (await bash(engine, "echo on")).stdout == "on\n"


# A clock that jumps back


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Sets the clock of the engine, from the present."""

    def put(by: timedelta) -> None:
        for module in (fleet, recording, timemachine):
            monkeypatch.setattr(module, "utc_now", lambda: datetime.now(UTC) + by)

    return put


async def test_a_clock_that_jumps_back(settings: Settings, clock) -> None:
    """History goes by what happened, and an agent keeps its VM."""
    async with Engine(settings) as engine:
        vm_id = (await bash(engine, "echo 0 > f")).vm_id
        ran = []
        for number, days in enumerate([0, -400, 3, -1], 1):
            clock(timedelta(days=days))
            ran.append((await bash(engine, f"echo {number} > f")).execution_id)
            await engine.past.fork(vm_id, ForkRequest())
        found = await engine.past.history(HistoryQueryRequest(vm_id=vm_id))
        assert [entry.id for entry in found.entries][:4] == ran[::-1]
        await engine.past.rollback(vm_id, RollbackTo())
        assert (await bash(engine, "cat f")).stdout == "3\n"
        assert (await bash(engine, "cat f; false")).vm_id == vm_id
        await engine.past.rollback(vm_id, RollbackTo(last_success=True))
    async with Engine(settings) as engine:
        assert next(vm.id for vm in engine.list_vms()) == vm_id
        response = await bash(engine, "cat f")
        assert (response.vm_id, response.stdout) == (vm_id, "3\n")
        found = await engine.past.history(HistoryQueryRequest(vm_id=vm_id))
        assert [entry.id for entry in found.entries][-5:-1] == ran[::-1]
