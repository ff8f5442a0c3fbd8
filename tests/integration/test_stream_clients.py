"""Clients that listen: both modes, lost connections, early ends, engines that are shared."""

import asyncio
import inspect
import threading
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest

from mulligan import (
    ExecutionEvent,
    HistoryConfig,
    SyncVmExecutionClient,
    VmExecuteRequest,
    VmExecutionClient,
)
from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.errors import (
    ApiError,
    ConfigError,
    ConnectionFailed,
    ExecutionNotFound,
    UnsupportedLanguage,
    ValidationFailed,
)
from mulligan.models import VmExecutionConfig
from support import host
from support.proxy import Proxy

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["http", "direct"])
def options(request, server, data_dir: Path) -> dict:
    """What makes a client of either mode."""
    if request.param == "http":
        return {"config": VmExecutionConfig(api_base_url=server.url)}
    config = VmExecutionConfig(history=HistoryConfig(integration_mode="direct"))
    return {"config": config, "settings": settings_module.load(data_dir=data_dir)}


STREAM = b"200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def asked(code: str, agent: str = "s", language: str = "bash", **more) -> VmExecuteRequest:
    return VmExecuteRequest(agent_id=agent, language=language, code=code, **more)


def kinds(events: list[ExecutionEvent]) -> list[str]:
    return [event.event for event in events]


async def test_every_method(options: dict) -> None:
    async with VmExecutionClient(**options) as client:
        events = [event async for event in client.stream(asked("echo a; sleep 0.1; echo b >&2"))]
        assert kinds(events) == ["started", "stdout", "stderr", "result"]
        assert [event.text for event in events[1:3]] == ["a\n", "b\n"]
        result = events[-1].result
        assert result
        assert (result.stdout, result.stderr) == ("a\n", "b\n")
        execution_id = events[0].execution_id
        assert {event.execution_id for event in events} == {execution_id}
        assert events[0].vm_id == result.vm_id
        again = [event async for event in client.follow_execution(execution_id, after=2)]
        assert again == events[2:]
        assert [event async for event in client.follow_execution(execution_id, after=4)] == []
        status = await client.get_execution(execution_id)
        assert (status.state, status.result) == ("ended", result)
        assert await client.cancel_execution(execution_id) == status


async def test_errors_have_their_types(options: dict) -> None:
    async with VmExecutionClient(**options) as client:
        with pytest.raises(UnsupportedLanguage):
            await anext(client.stream(asked("x", language="cobol")))
        for odd in ("exec-0", "../x", ""):
            with pytest.raises(ExecutionNotFound):
                await client.get_execution(odd)
            with pytest.raises(ExecutionNotFound):
                await client.cancel_execution(odd)
            with pytest.raises(ExecutionNotFound):
                await anext(client.follow_execution(odd))
        events = [event async for event in client.stream(asked("true"))]
        with pytest.raises(ValidationFailed, match="has not happened"):
            await anext(client.follow_execution(events[0].execution_id, after=99))
        failed = [event async for event in client.stream(asked("x", working_dir="/no/such"))]
        assert kinds(failed) == ["started", "error"]
        assert failed[-1].error
        assert isinstance(failed[-1].error.exception(), ValidationFailed)


async def test_a_listener_that_stops_does_not_stop_the_program(options: dict) -> None:
    async with VmExecutionClient(**options) as client:
        async with aclosing(client.stream(asked("echo a; sleep 0.3; echo b"))) as events:
            first = await anext(events)
        rest = [event async for event in client.follow_execution(first.execution_id, first.id)]
        assert rest[-1].result
        assert rest[-1].result.stdout == "a\nb\n"


async def test_a_listener_that_takes_the_program_with_it(options: dict) -> None:
    async with VmExecutionClient(**options) as client:
        stream = client.stream(asked("echo a; sleep 300"), cancel_on_disconnect=True)
        async with aclosing(stream) as events:
            first = await anext(events)
            assert (await anext(events)).text == "a\n"
        rest = [event async for event in client.follow_execution(first.execution_id, 2)]
        assert rest[-1].result
        assert rest[-1].result.error == (
            "Execution cancelled: its client went away"
            if client.config.history.integration_mode == "http"
            else "Execution cancelled: its listener went away"
        )


async def test_cancel_of_a_cell_that_waits_for_its_turn(options: dict) -> None:
    """Its kernel is taken: it never starts, and is told to have been cancelled."""
    async with VmExecutionClient(**options) as client:
        cell = {"language": "python", "kernel": "k", "agent": "turns"}
        first = client.stream(asked("import time; print(1, flush=True); time.sleep(300)", **cell))
        second = client.stream(asked("print(2)", **cell))
        running = [await anext(first), await anext(first)]
        waiting = await anext(second)
        cancelled = await client.cancel_execution(waiting.execution_id)
        assert cancelled.result
        assert cancelled.result.error == "Execution cancelled before it started"
        assert [event.result async for event in second] == [cancelled.result]
        ended = await client.cancel_execution(running[0].execution_id)
        assert ended.result
        assert (ended.result.outcome, ended.result.stdout) == ("cancelled", "1\n")
        assert (await client.execute_code(asked("print(3)", **cell))).stdout == "3\n"
        await first.aclose()


async def test_a_batch(options: dict) -> None:
    async with VmExecutionClient(**options) as client:
        requests = [asked("echo 1"), asked("echo 2", language="cobol"), asked("exit 3")]
        first, second, third = (await client.execute_batch(requests)).results
        assert first.result
        assert third.result
        assert (first.result.stdout, third.result.exit_code) == ("1\n", 3)
        assert second.error
        assert isinstance(second.error.exception(), UnsupportedLanguage)
        with pytest.raises(ValidationFailed, match="more than 100"):
            await client.execute_batch(requests * 50)


async def test_lost_connections_lose_nothing_and_run_nothing_twice(server) -> None:
    code = "echo ran >> count; for i in $(seq 60); do echo $i; sleep 0.02; done; cat count"
    async with Proxy(server.url) as proxy:
        config = VmExecutionConfig(api_base_url=proxy.url)
        async with VmExecutionClient(config) as client:
            events = []
            async for event in client.stream(asked(code, "cut")):
                events.append(event)
                if event.id % 10 == 3:
                    proxy.cut()
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    expected = "".join(f"{number}\n" for number in range(1, 61)) + "ran\n"
    assert "".join(event.text or "" for event in events) == expected
    assert events[-1].result
    assert events[-1].result.stdout == expected
    assert proxy.accepted > 3
    assert [line.split()[0] for line in proxy.requests].count("POST") == 1


async def test_a_server_that_does_not_come_back(server, monkeypatch) -> None:
    monkeypatch.setattr("mulligan.client.streaming.FIRST_WAIT_S", 0.001)
    proxy = Proxy(server.url)
    await proxy.__aenter__()
    config = VmExecutionConfig(api_base_url=proxy.url)
    async with VmExecutionClient(config) as client:
        stream = client.stream(asked("echo a; sleep 300", "lost"), cancel_on_disconnect=True)
        await anext(stream)
        await proxy.__aexit__()
        with pytest.raises(ConnectionFailed, match=r"lost the events of exec-\w+ after event"):
            async for _ in stream:
                pass
        with pytest.raises(ConnectionFailed, match="cannot reach"):
            await anext(client.stream(asked("echo never")))


async def test_a_connection_lost_before_anything_was_answered() -> None:
    """Whether the code ran cannot be known, so it is not sent again."""
    heard: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(65536))
        writer.transport.abort()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening, VmExecutionClient(VmExecutionConfig(api_base_url=url)) as client:
        with pytest.raises(ConnectionFailed, match="before the execution had an id") as caught:
            await anext(client.stream(asked("echo once")))
    assert len(heard) == 1
    assert "history" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"200 OK\r\nContent-Type: text/html\r\n\r\n<html>", "Failed to parse response"),
        (b"404 Not Found\r\n\r\n", "does not stream executions"),
        (
            STREAM + b"id: x\nevent: stdout\ndata: {}\n\n",
            "'stdout'",
        ),
        (
            STREAM + b"id: 1\nevent: result\ndata: {}\n\n",
            "'result'",
        ),
        (
            STREAM + b"id: 1\nevent: gap\ndata: [\n\n",
            "'gap'",
        ),
    ],
)
async def test_a_server_that_is_something_else(answer: bytes, text: str) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"HTTP/1.1 " + answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(reply, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening, VmExecutionClient(VmExecutionConfig(api_base_url=url)) as client:
        with pytest.raises(ApiError, match=text):
            await anext(client.stream(asked("x")))


def test_the_blocking_client_iterates(options: dict) -> None:
    before = host.descriptors()
    with SyncVmExecutionClient(**options) as client:
        events = list(client.stream(asked("echo a; sleep 0.1; echo b")))
        assert list(dict.fromkeys(kinds(events))) == ["started", "stdout", "result"]
        for event in client.stream(asked("echo c; sleep 300")):
            if event.text:
                break  # and with it the listening, not the program
        assert client.cancel_execution(event.execution_id).state == "ended"
        stream = client.stream(asked("true"))
        assert next(stream).event == "started"
        stream.close()
        with pytest.raises(UnsupportedLanguage):
            next(client.stream(asked("x", language="cobol")))
    assert not [thread for thread in threading.enumerate() if thread.name == "mulligan-client"]
    assert host.wait_until(lambda: host.descriptors() <= before)


def test_the_blocking_client_has_the_same_iterators() -> None:
    for name in ("stream", "follow_execution"):
        blocking, method = getattr(SyncVmExecutionClient, name), getattr(VmExecutionClient, name)
        assert inspect.isasyncgenfunction(method)
        assert not inspect.isasyncgenfunction(blocking)
        assert inspect.signature(blocking) == inspect.signature(method)


async def test_clients_of_one_loop_share_an_engine_and_the_last_closes_it(data_dir: Path) -> None:
    settings = settings_module.load(data_dir=data_dir)
    config = VmExecutionConfig(history=HistoryConfig(integration_mode="direct"))
    one = VmExecutionClient(config, settings=settings)
    other = VmExecutionClient(config, settings=settings)
    first, second = await asyncio.gather(
        one.execute_bash("a", "echo 1 > f; echo 1"), other.execute_bash("b", "echo 2")
    )
    assert (first.stdout, second.stdout) == ("1\n", "2\n")
    await one.close()
    assert (await other.execute_bash("a", "cat f")).vm_id == first.vm_id
    changed = settings_module.load(data_dir=data_dir, max_code_length=5)
    with pytest.raises(ConfigError, match="other settings: max_code_length"):
        await VmExecutionClient(config, settings=changed).health_check()

    def on_a_loop_of_its_own() -> None:
        with SyncVmExecutionClient(config, settings=settings) as third:
            third.health_check()

    with pytest.raises(ConfigError, match="another event loop of this process"):
        await asyncio.to_thread(on_a_loop_of_its_own)
    await other.close()
    async with Engine(settings):  # the directory is free
        pass


async def test_a_cancel_while_the_vm_boots_leaves_no_row_that_runs(engine: Engine) -> None:
    """Wherever in its beginning it is caught, what the history has of it has ended."""
    for delay in (0, 0.01, 0.03, 0.06, 0.1):
        execution = await engine.executions.start(asked("sleep 300", f"boot-{delay}"))
        await asyncio.sleep(delay)
        status = await engine.executions.cancel(execution.execution_id)
        assert status.result
        assert status.result.outcome == "cancelled"
        await engine.execute(asked("true", f"boot-{delay}"))  # what was begun before it is over
        row = engine._history.get(execution.execution_id) if engine._history else None
        assert row is None or row.outcome == "cancelled"


async def test_closing_the_engine_ends_what_is_listened_to(settings) -> None:
    async with Engine(settings) as engine:
        execution = await engine.executions.start(asked("echo a; sleep 300"))
        heard = asyncio.create_task(_all(execution.events.listen()))
        while execution.events.last < 2:
            await asyncio.sleep(0.01)
    events = await heard
    assert [event.kind for event in events] == ["started", "stdout", "error"]


async def _all(events) -> list:
    return [event async for event in events]


async def test_a_listener_costs_a_slow_server_nothing(server) -> None:
    """A client that never reads is held by its connection alone."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as http:
        request = asked("head -c 900000 /dev/zero | tr '\\0' x", "unread").model_dump()
        opened = [
            await http.send(
                http.build_request("POST", "/api/llm/execute/stream", json=request), stream=True
            )
            for _ in range(20)
        ]
        answer = await http.post("/api/llm/execute", json=asked("echo fine", "other").model_dump())
        assert answer.json()["stdout"] == "fine\n"
        for each in opened:
            await each.aclose()
