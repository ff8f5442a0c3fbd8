"""The queue over real VMs: order, deadlines, cancel, events, batches; starting, stopping."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import httpx
import pytest

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.engine.requests.batch import run_batch
from mulligan.errors import (
    ConfigError,
    ExecutionFailed,
    TooManyRequests,
    Unavailable,
    VmNotAvailable,
)
from mulligan.models import (
    ForkRequest,
    HistoryQueryRequest,
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
)
from support import host
from support.server import Server

pytestmark = pytest.mark.anyio
GATE = "until [ -e /workspace/go ]; do sleep 0.01; done; echo done"


def ask(agent: str, code: str, **more: Any) -> VmExecuteRequest:
    return VmExecuteRequest(agent_id=agent, language="bash", code=code, **more)


@asynccontextmanager
async def engine_with(**admission: Any) -> AsyncIterator[Engine]:
    with host.data_directory() as path:
        settings = settings_module.load(data_dir=path / "data", admission=admission)
        async with Engine(settings) as engine:
            yield engine


class Holder:
    """An execution that holds the only place until it is let go."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def __aenter__(self) -> None:
        self.execution = await self.engine.executions.start(ask("holder", GATE))
        async with asyncio.timeout(60):
            while not (self.execution.vm and self.execution.vm.running):
                await asyncio.sleep(0.01)

    async def __aexit__(self, *_: object) -> None:
        assert self.execution.vm is not None
        vm_id = self.execution.vm.record.id
        with suppress(VmNotAvailable, ExecutionFailed):
            await self.engine.files.make_directory(vm_id, "/workspace/go")
        assert self.execution.task is not None
        await self.execution.task


async def waiting(engine: Engine, number: int) -> None:
    async with asyncio.timeout(60):
        while engine.admission.waiting != number:
            await asyncio.sleep(0.005)


async def test_a_queued_execution_says_so_starts_and_tells_how_long_it_waited() -> None:
    async with engine_with(max_running=1) as engine:
        first = await engine.execute(ask("a", "echo 1"))
        assert first.queue_ms == 0
        async with Holder(engine):
            execution = await engine.executions.start(ask("a", "echo hi"))
            await waiting(engine, 1)
            state = await engine.executions.status(execution.execution_id)
            assert (state.state, state.last_event) == ("queued", 1)
            await asyncio.sleep(0.05)
        events = [each async for each in execution.events.listen()]
        assert [each.kind for each in events] == ["queued", "started", "stdout", "result"]
        assert [each.number for each in events] == [1, 2, 3, 4]
        assert (events[0].ahead, events[0].vm_id) == (0, events[1].vm_id)
        result = events[-1].final
        assert isinstance(result, VmExecuteResponse)
        assert result.queue_ms >= 50
        assert result.queue_ms == events[1].queue_ms
        assert result.duration_ms <= (result.completed_at - result.started_at).total_seconds() * 1e3
        resumed = [each async for each in execution.events.listen(1)]
        assert [each.number for each in resumed] == [2, 3, 4]


async def test_agents_take_turns_over_real_vms() -> None:
    """The order of starts, not their time: nobody waits for what another has queued."""
    order: list[str] = []
    async with engine_with(max_running=1) as engine:
        for agent in ("greedy", "polite"):
            await engine.execute(ask(agent, "true"))

        async def run(agent: str) -> None:
            await engine.execute(ask(agent, "true"))
            order.append(agent)

        async with Holder(engine):
            greedy = [asyncio.create_task(run("greedy")) for _ in range(20)]
            await waiting(engine, 20)
            polite = [asyncio.create_task(run("polite")) for _ in range(3)]
            await waiting(engine, 23)
        await asyncio.gather(*greedy, *polite)
    assert order[:6] == ["greedy", "polite"] * 3


async def test_a_deadline_counts_the_queue_and_nothing_starts_after_it() -> None:
    async with engine_with(max_running=1) as engine:
        await engine.execute(ask("a", "true"))
        async with Holder(engine):
            late = await engine.execute(ask("a", "touch /workspace/ran", timeout_seconds=1))
        assert (late.outcome, late.exit_code, late.duration_ms) == ("timeout", -1, 0)
        assert "waited for its turn and never started" in (late.error or "")
        assert (await engine.execute(ask("a", "ls"))).stdout == ""
        row = await asyncio.to_thread(engine.history.get, late.execution_id)
        assert row is not None
        assert (row.outcome, row.exit_code, row.error) == ("timeout", -1, late.error)


async def test_one_that_is_cancelled_in_the_queue_never_starts() -> None:
    async with engine_with(max_running=1) as engine:
        await engine.execute(ask("a", "true"))
        async with Holder(engine):
            execution = await engine.executions.start(ask("a", "touch ran"))
            await waiting(engine, 1)
            state = await engine.executions.cancel(execution.execution_id)
            assert state.result is not None
            assert state.result.error == "Execution cancelled before it started"
            assert (state.result.outcome, state.result.exit_code) == ("cancelled", -1)
            assert engine.admission.waiting == 0
            row = await asyncio.to_thread(engine.history.get, execution.execution_id)
            assert row is not None
            assert (row.outcome, row.error) == ("cancelled", state.result.error)
        assert (await engine.execute(ask("a", "ls"))).stdout == ""
        kinds = [each.kind async for each in execution.events.listen()]
        assert kinds == ["queued", "result"]


async def test_a_batch_waits_in_the_same_queue_and_a_full_one_refuses_its_rest() -> None:
    async with engine_with(max_running=1, max_queued=2) as engine:
        for agent in "ab":
            await engine.execute(ask(agent, "true"))
        async with Holder(engine):
            batch = asyncio.create_task(
                run_batch([ask("a", "echo 1"), ask("a", "echo 2")], engine.execute, engine.list_vms)
            )
            await waiting(engine, 1)
            with pytest.raises(TooManyRequests, match="1 executions of agent a wait"):
                await engine.execute(ask("a", "true"))
            other = asyncio.create_task(engine.execute(ask("b", "echo 3")))
            await waiting(engine, 2)
            with pytest.raises(TooManyRequests, match="the queue is full: 2 executions wait"):
                await engine.execute(ask("c", "true"))
        answers = (await batch).results
        assert [each.result.stdout for each in answers if each.result] == ["1\n", "2\n"]
        assert (await other).stdout == "3\n"


async def test_a_vm_that_is_removed_lets_go_of_those_who_wait_for_it() -> None:
    async with engine_with(max_running=1) as engine:
        vm = (await engine.execute(ask("a", "true"))).vm_id
        async with Holder(engine):
            execution = asyncio.create_task(engine.execute(ask("a", "true")))
            await waiting(engine, 1)
            await engine.delete_vm(vm)
            with pytest.raises(VmNotAvailable):
                await execution


async def test_an_engine_that_drains_finishes_what_runs_and_turns_away_the_rest() -> None:
    async with engine_with(max_running=1, shutdown_seconds=60) as engine:
        await engine.execute(ask("a", "true"))
        await engine.execute(ask("holder", "true"))
        running = asyncio.create_task(engine.execute(ask("holder", "sleep 0.3; echo whole")))
        async with asyncio.timeout(60):
            while not engine.admission.running:
                await asyncio.sleep(0.01)
        queued = asyncio.create_task(engine.execute(ask("a", "true")))
        await waiting(engine, 1)
        drained = asyncio.create_task(engine.drain())
        with pytest.raises(Unavailable):
            await queued
        for refused in (
            lambda: engine.execute(ask("a", "true")),
            lambda: engine.executions.start(ask("a", "true")),
            lambda: engine.create_vm(VmCreateRequest(vm_type="focal-optimized", agent_id="a")),
        ):
            with pytest.raises(Unavailable, match="shutting down"):
                await refused()
        await drained
        assert (await running).stdout == "whole\n"


async def test_draining_ends_at_its_deadline_or_at_once() -> None:
    async with engine_with(shutdown_seconds=0.01) as engine:
        execution = await engine.executions.start(ask("a", "sleep 300"))
        await engine.drain()
        assert not execution.is_over
    async with engine_with(shutdown_seconds=300) as engine:
        execution = await engine.executions.start(ask("a", "sleep 300"))
        hurry = asyncio.Event()
        hurry.set()
        await engine.drain(hurry)
        assert not execution.is_over


async def test_forks_are_made_all_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_with() as engine:
        vm = (await engine.execute(ask("a", "echo 1 > f"))).vm_id
        store, create, made = engine.fleet.stores.vms, engine.fleet.stores.vms.create, []

        def third_fails(*arguments: Any) -> Any:
            if len(made) == 2:
                raise OSError(28, "No space left on device")
            made.append(arguments[0].id)
            return create(*arguments)

        monkeypatch.setattr(store, "create", third_fails)
        with pytest.raises(ConfigError, match="No space left on device"):
            await engine.past.fork(vm, ForkRequest(count=5))
        monkeypatch.undo()
        assert len(made) == 2
        assert [each.id for each in engine.list_vms()] == [vm]
        assert {each.name for each in (engine.settings.data_dir / "vms").iterdir()} == {vm}
        assert len((await engine.past.fork(vm, ForkRequest(count=2))).vms) == 2


async def test_a_refusal_by_the_queue_is_in_the_history() -> None:
    async with engine_with(max_running=1, queue_timeout_seconds=0.05) as engine:
        vm = (await engine.execute(ask("a", "true"))).vm_id
        async with Holder(engine):
            with pytest.raises(TooManyRequests, match="never started"):
                await engine.execute(ask("a", "true"))
        rows = (await engine.past.history(HistoryQueryRequest(vm_id=vm))).entries
        assert [row.outcome for row in rows] == ["refused", "success"]


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def test_a_server_that_starts_says_so_and_takes_no_work() -> None:
    """Its database is locked by another: what it waits for in its start."""
    with host.data_directory() as path:
        with Server(path):
            pass
        port = free_port()
        database = path / "history" / "history.db"
        hold = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN EXCLUSIVE');"
            "print('held', flush=True); input()"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", hold, str(database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        url = f"http://127.0.0.1:{port}"
        seen: dict[str, httpx.Response] = {}

        def look() -> None:
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
                assert host.wait_until(lambda: answers(client), 60)
                seen["health"] = client.get("/health")
                seen["work"] = client.get("/api/vms")
            holder.communicate("\n")

        looking = threading.Thread(target=look)
        looking.start()
        with Server(path, "--port", str(port)) as server:
            looking.join(60)
            assert httpx.get(f"{server.url}/health", trust_env=False).json()["status"] == "ok"
    assert (seen["health"].status_code, seen["health"].json()["status"]) == (503, "starting")
    assert (seen["work"].status_code, seen["work"].headers["retry-after"]) == (503, "1")


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 503
    except httpx.TransportError:
        return False


def test_a_server_that_stops_lets_what_runs_end_and_refuses_the_rest() -> None:
    with (
        host.data_directory() as path,
        Server(path, MULLIGAN_ADMISSION__SHUTDOWN_SECONDS="60") as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client,
    ):
        answer: dict[str, Any] = {}
        body = {"agent_id": "a", "language": "bash", "code": GATE}

        def run() -> None:
            answer.update(client.post("/api/llm/execute", json=body).json())

        running = threading.Thread(target=run)
        running.start()
        vms: list[dict[str, Any]] = []
        assert host.wait_until(lambda: vms.extend(client.get("/api/vms").json()) or bool(vms), 60)
        state = f"/api/vms/{vms[0]['id']}"
        assert host.wait_until(lambda: client.get(state).json()["status"] == "running", 60)
        server.process.send_signal(signal.SIGTERM)
        health = client.get("/health")
        while health.status_code == 200:
            health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "stopping")
        refused = client.post("/api/llm/execute", json=body)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        server.process.send_signal(signal.SIGTERM)  # the second: no more time
        running.join(60)
        server.process.wait(30)
        assert "Traceback" not in server.log()
        assert "stopped" in str(answer), answer
