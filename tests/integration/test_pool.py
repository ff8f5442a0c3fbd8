"""VMs that are up: spare ones, idle ones, worn ones, and room for so many."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from mulligan import settings as settings_module
from mulligan.client.client import VmExecutionClient
from mulligan.engine.engine import Engine
from mulligan.engine.pool import spares
from mulligan.engine.pool.rest import hibernate
from mulligan.errors import HostFull, TooManyRequests, VmNotAvailable
from mulligan.models import (
    DEFAULT_VM_TYPE,
    HistoryConfig,
    HistoryQueryRequest,
    RollbackTo,
    SnapshotCreateRequest,
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
    VmExecutionConfig,
)
from mulligan.telemetry import Stage, told_to
from support import host
from support.server import Server

pytestmark = pytest.mark.anyio
PATIENCE_S = 30


class Counts:
    """Hits and misses of the pool."""

    def __init__(self) -> None:
        self.pool: list[str] = []

    def begin(self, stage: Stage) -> object:
        return None

    def end(self, stage: Stage, token: object, seconds: float, error: object) -> None:
        pass

    def count(self, name: str, labels: dict[str, str]) -> None:
        if name == "pool":
            self.pool.append(labels["result"])


@asynccontextmanager
async def engine_with(directory: Path, **options: object) -> AsyncIterator[Engine]:
    """An engine, of which nothing is left afterwards."""
    type_options = options.pop("vm_type", {})
    before, descriptors = host.descendants(os.getpid()), host.descriptors()
    chosen = settings_module.load(
        data_dir=directory,
        vm_types={DEFAULT_VM_TYPE: type_options},
        hooks={"enabled": False},
        **options,
    )
    async with Engine(chosen) as engine:
        yield engine
    assert host.descendants(os.getpid()) <= before
    assert host.descriptors() <= descriptors + 1
    assert not list((directory / "vms").glob(".*"))
    assert not list((directory / "layers").glob(".*"))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def warm(engine: Engine, number: int, agent: str | None = None) -> None:
    await until(lambda: engine.fleet.spares.ready(DEFAULT_VM_TYPE, agent) == number)


async def run(engine: Engine, agent: str, code: str, **more: object) -> VmExecuteResponse:
    request = VmExecuteRequest(agent_id=agent, language="bash", code=code, **more)
    return await engine.execute(request)


def process_of(engine: Engine, vm_id: str) -> int | None:
    machine = engine.fleet.vms[vm_id]._machine
    return machine.pid if machine is not None else None


# Spare VMs


async def test_a_spare_vm_is_the_first_of_whoever_comes(data_dir: Path) -> None:
    counts = Counts()
    with told_to(counts):
        async with engine_with(data_dir, vm_type={"warm": 2}) as engine:
            await warm(engine, 2)
            up = host.descendants(os.getpid())
            pids = {each.vm._machine.pid for each in next(iter(engine.fleet.spares._kept.values()))}
            vm = await engine.create_vm(VmCreateRequest(agent_id="ada"))
            assert (vm.status, vm.agent_id, vm.name) == ("ready", "ada", "agent-ada-vm")
            assert process_of(engine, vm.id) in pids & up
            assert not list((data_dir / "vms" / vm.id / "disk" / "0" / "upper").iterdir())
            assert (await run(engine, "ada", "id -un; echo kept > note; cat note")).vm_id == vm.id
            assert [each.id for each in engine.list_vms()] == [vm.id]  # spare ones are nobody's
            await warm(engine, 2)
            other = await run(engine, "grace", "ls")  # made by its first execution
            assert (other.stdout, other.vm_id == vm.id) == ("", False)
            assert counts.pool == ["hit", "hit"]
            await engine.create_vm(VmCreateRequest(agent_id="ada"))
            assert counts.pool == ["hit", "hit", "miss"]  # ada's layers are not a spare one's


async def test_its_first_user_goes_before_the_next_spare_one(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spares, "FIRST_USE_S", 600.0)
    async with engine_with(data_dir, vm_type={"warm": 2}) as engine:
        await warm(engine, 2)
        await engine.create_vm(VmCreateRequest(agent_id="ada"))
        await run(engine, "ada", "sleep 0.2")  # longer than a VM takes
        assert engine.fleet.spares.ready(DEFAULT_VM_TYPE, None) == 1
        await engine.create_vm(VmCreateRequest(agent_id="grace"))
        await warm(engine, 1)  # the next one in may not come to nothing


async def test_what_a_leased_vm_did_is_history_as_any_others(data_dir: Path) -> None:
    async with engine_with(data_dir, vm_type={"warm": 1}) as engine:
        await warm(engine, 1)
        vm = (await run(engine, "ada", "echo one > note")).vm_id
        snapshot = await engine.past.snapshot(vm, SnapshotCreateRequest(name="one"))
        await run(engine, "ada", "echo two > note")
        assert (await run(engine, "ada", "cat note")).stdout == "two\n"
        await engine.past.rollback(vm, RollbackTo(snapshot_id=snapshot.id))
        assert (await run(engine, "ada", "cat note")).stdout == "one\n"
        entries = await engine.past.history(HistoryQueryRequest(vm_id=vm))
        assert entries.total == 4
    async with engine_with(data_dir) as engine:  # it is on disk as any other
        assert [each.id for each in engine.list_vms()] == [vm]
        assert (await run(engine, "ada", "cat note")).stdout == "one\n"


async def test_one_that_asks_for_less_than_its_type_gets_its_own(data_dir: Path) -> None:
    async with engine_with(data_dir, vm_type={"warm": 1}) as engine:
        await warm(engine, 1)
        vm = await engine.create_vm(VmCreateRequest(agent_id="ada", memory_mb=256))
        assert vm.status == "stopped"
        assert engine.vm_pool("ada").shared_vms == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_spare_vm_that_does_not_answer_is_never_given(
    data_dir: Path, how: signal.Signals
) -> None:
    pool = {"ping_seconds": 0.2}
    async with engine_with(data_dir, vm_type={"warm": 1}, pool=pool) as engine:
        await warm(engine, 1)
        (spares,) = engine.fleet.spares._kept.values()
        bad = spares[0]
        os.kill(bad.vm._machine._init.pid, how)
        result = await run(engine, "ada", "echo fine")
        assert (result.stdout, result.vm_id == bad.vm_id) == ("fine\n", False)
        await until(lambda: bad.vm.connection is None)
        await warm(engine, 1)  # and replaced


async def test_an_agent_finds_so_many_ready(data_dir: Path) -> None:
    counts = Counts()
    with told_to(counts):
        async with engine_with(data_dir, vm_pool_size=3) as engine:
            first = (await run(engine, "ada", "echo x > note")).vm_id
            await engine.past.snapshot(first, SnapshotCreateRequest())  # ada has a layer
            await warm(engine, 2, "ada")
            told = engine.vm_pool("ada")
            assert (told.spare_vms, told.shared_vms, told.pool_config.vm_pool_size) == (2, 0, 3)
            assert [vm.id for vm in told.available_vms] == [first]
            second = await engine.create_vm(VmCreateRequest(agent_id="ada"))
            assert second.status == "ready"
            assert (await run(engine, "ada", "ls", vm_id=second.id)).stdout == ""
            await engine.past.snapshot(second.id, SnapshotCreateRequest())
            await run(engine, "ada", "echo more > note", vm_id=second.id)
            await engine.past.rollback(second.id, RollbackTo())  # it sees layers made since
            assert (await run(engine, "ada", "ls", vm_id=second.id)).stdout == ""
            await warm(engine, 1, "ada")
            for vm in engine.list_vms("ada"):
                await engine.delete_vm(vm.id)
            await warm(engine, 0, "ada")
    assert counts.pool == ["miss", "hit"]


async def test_leases_at_the_same_time_are_different_vms(data_dir: Path) -> None:
    async with engine_with(data_dir, vm_type={"warm": 3}) as engine:
        await warm(engine, 3)
        agents = [f"a{number % 4}" for number in range(8)]
        made = await asyncio.gather(
            *(engine.create_vm(VmCreateRequest(agent_id=agent)) for agent in agents)
        )
        assert len({vm.id for vm in made}) == len(made)
        for number, vm in enumerate(made):
            await run(engine, agents[number], f"echo {number} > note", vm_id=vm.id)
            await engine.past.snapshot(vm.id, SnapshotCreateRequest())
        for number, vm in enumerate(made):
            found = await run(engine, agents[number], "cat note", vm_id=vm.id)
            assert found.stdout == f"{number}\n"


# Idle ones


async def test_an_idle_vm_hibernates_and_wakes(data_dir: Path) -> None:
    async with engine_with(data_dir, pool={"idle_hibernate_seconds": 0.2}) as engine:
        vm = (await run(engine, "ada", "echo kept > note")).vm_id
        await until(lambda: engine.get_vm(vm).status == "hibernated")
        assert process_of(engine, vm) is None
        assert engine.vm_pool("ada").available_vms[0].status == "hibernated"
        assert (await run(engine, "ada", "cat note")).stdout == "kept\n"
        assert engine.get_vm(vm).status in ("ready", "hibernated")


@pytest.mark.parametrize(
    "busy",
    [
        {"language": "bash", "code": "setsid sleep 300 > /dev/null 2>&1 < /dev/null & disown"},
        {"language": "python", "code": "x = 41", "kernel": "main"},
    ],
    ids=["background", "kernel"],
)
async def test_what_lives_in_a_vm_keeps_it_up(data_dir: Path, busy: dict[str, str]) -> None:
    request = VmExecuteRequest(agent_id="ada", **busy)
    async with engine_with(data_dir / "one") as engine:
        vm = engine.fleet.vms[(await engine.execute(request)).vm_id]
        assert not await hibernate(vm)
        assert vm.status == "ready"
        assert await hibernate(vm, even_with_programs=True)
        assert vm.status == "hibernated"
    pool = {"idle_hibernate_seconds": 0.2, "hibernate_with_programs": True}
    async with engine_with(data_dir / "two", pool=pool) as engine:
        made = (await engine.execute(request)).vm_id
        await until(lambda: engine.get_vm(made).status == "hibernated")


async def test_a_vm_that_runs_something_does_not_hibernate(data_dir: Path) -> None:
    async with engine_with(data_dir, pool={"idle_hibernate_seconds": 0.1}) as engine:
        result = await run(engine, "ada", "sleep 1.5; echo through")
        assert result.stdout == "through\n"


async def test_a_vm_that_is_idle_for_too_long_is_removed(data_dir: Path) -> None:
    pool = {"idle_hibernate_seconds": 0.1, "idle_delete_seconds": 0.6}
    async with engine_with(data_dir, pool=pool) as engine:
        vm = (await run(engine, "ada", "echo x > note")).vm_id
        await until(lambda: not engine.list_vms())
        with pytest.raises(VmNotAvailable):
            engine.get_vm(vm)
        await until(lambda: engine.history.last(vm) is None)
        await until(lambda: not list((data_dir / "vms").iterdir()))
        await until(lambda: not list((data_dir / "layers").iterdir()))


async def test_worn_vms_are_renewed_and_keep_their_disk(data_dir: Path) -> None:
    async with engine_with(data_dir, vm_type={"recycle_after_executions": 3}) as engine:
        seen = []
        for number in range(7):
            result = await run(engine, "ada", f"echo {number} >> notes; wc -l < notes")
            assert result.stdout == f"{number + 1}\n"
            seen.append(process_of(engine, result.vm_id))
        assert len(set(seen)) >= 3
        assert all(seen.count(each) <= 3 for each in seen)
        await run(engine, "ada", "x=1", kernel="shell")
        kept = process_of(engine, result.vm_id)
        for _ in range(4):  # its kernels would be lost
            assert (await run(engine, "ada", "echo $x", kernel="shell")).stdout == "1\n"
        assert process_of(engine, result.vm_id) == kept


# Caps


async def test_room_is_made_by_the_longest_idle(data_dir: Path) -> None:
    async with engine_with(data_dir, pool={"max_vms": 3}) as engine:
        vms = [(await run(engine, f"a{number}", "true")).vm_id for number in range(3)]
        await run(engine, "a0", "true")
        newest = (await run(engine, "a3", "echo fine")).vm_id
        states = {vm: engine.get_vm(vm).status for vm in vms}
        assert list(states.values()) == ["ready", "hibernated", "ready"]
        assert engine.get_vm(newest).status == "ready"
        assert engine.fleet.slots.up == 3


async def test_a_host_whose_vms_all_do_something_says_so(data_dir: Path) -> None:
    async with engine_with(data_dir, pool={"max_vms": 2}) as engine:
        running = [asyncio.create_task(run(engine, agent, "sleep 60")) for agent in ("a", "b")]
        await until(lambda: sum(len(vm.running) for vm in engine.fleet.vms.values()) == 2)
        with pytest.raises(HostFull, match="2 VMs are up") as refused:
            await run(engine, "c", "true")
        assert (refused.value.http_status, refused.value.retry_after_s) == (503, 2)
        assert "pool.max_vms" in (refused.value.remedy or "")
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        assert (await run(engine, "c", "echo fine")).stdout == "fine\n"


async def test_an_agent_has_so_many_up(data_dir: Path) -> None:
    async with engine_with(data_dir, pool={"max_vms_per_agent": 1}) as engine:
        first, second = [
            (await engine.create_vm(VmCreateRequest(agent_id="ada"))).id for _ in range(2)
        ]
        await run(engine, "ada", "true", vm_id=first)
        await run(engine, "ada", "true", vm_id=second)
        assert engine.get_vm(first).status == "hibernated"
        task = asyncio.create_task(run(engine, "ada", "sleep 60", vm_id=second))
        await until(lambda: engine.fleet.vms[second].running)
        with pytest.raises(TooManyRequests, match="agent ada has 1 VMs up"):
            await run(engine, "ada", "true", vm_id=first)
        await run(engine, "grace", "true")
        task.cancel()
        await asyncio.wait({task})


async def test_spare_vms_give_way(data_dir: Path) -> None:
    async with engine_with(data_dir, vm_type={"warm": 2}, pool={"max_vms": 2}) as engine:
        await warm(engine, 2)
        for agent in ("a", "b"):
            assert (await run(engine, agent, "echo fine")).stdout == "fine\n"
        assert engine.vm_pool("a").shared_vms == 0
        assert [vm.status for vm in engine.list_vms()] == ["ready", "ready"]


async def test_all_at_once_with_room_for_few(data_dir: Path) -> None:
    """Each is answered: it ran, or was told that there was no room."""
    async with engine_with(data_dir, vm_type={"warm": 1}, pool={"max_vms": 3}) as engine:
        most = 0

        async def one(number: int) -> str:
            nonlocal most
            try:
                result = await run(engine, f"a{number % 8}", f"echo {number}")
            except HostFull:
                return "full"
            finally:
                most = max(most, engine.fleet.slots.up)
            assert result.stdout == f"{number}\n"
            return "ran"

        told = await asyncio.gather(*(one(number) for number in range(40)))
        assert "ran" in told
        assert most <= 3


# Over HTTP


async def test_a_client_waits_for_a_vm_without_asking_again(data_dir: Path) -> None:
    with Server(data_dir) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as http:
            made = (await http.post("/api/vms", json={"agent_id": "ada"})).json()
            assert made["status"] == "booting"
            waited = await http.get(f"/api/vms/{made['id']}", params={"wait_seconds": 30})
            assert waited.json()["status"] == "ready"
            for wrong in (-1, 61, "soon"):
                refused = await http.get(f"/api/vms/{made['id']}", params={"wait_seconds": wrong})
                assert refused.status_code in (400, 422)
            unknown = await http.get("/api/vms/vm-0", params={"wait_seconds": 1})
            assert unknown.status_code == 404
        for mode in ("http", "direct"):
            config = VmExecutionConfig(
                api_base_url=server.url, history=HistoryConfig(integration_mode=mode)
            )
            own = settings_module.load(data_dir=data_dir / "own") if mode == "direct" else None
            async with VmExecutionClient(config, settings=own) as client:
                vm = await client.provision_vm("grace")
                ready = await client.wait_for_vm_ready(vm.id, 30)
                assert ready.status in ("ready", "stopped")
