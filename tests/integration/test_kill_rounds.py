"""kill -9 at random moments under load, again and again on one data directory."""

import os
import random
import time
from pathlib import Path

import pytest

from mulligan import settings
from mulligan.engine.engine import Engine
from mulligan.engine.lock import holder
from support import host
from support.load import Client, Load, Promises
from support.server import Server

AGENTS = ("one", "two", "three")
LONGEST_S = 0.6
pytestmark = pytest.mark.anyio


@pytest.mark.timeout(300)
async def test_what_was_promised_survives_20_kills(capsys: pytest.CaptureFixture[str]) -> None:
    await play(20, 1, capsys)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_what_was_promised_survives_200_kills(capsys: pytest.CaptureFixture[str]) -> None:
    await play(200, 2, capsys)


async def play(rounds: int, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(seed)
    mounts = host.mounts()
    clients = [Client(agent, Promises()) for agent in AGENTS]
    with host.data_directory() as path:
        data = path / "data"
        for number in range(rounds):
            one_round(data, clients, rng, number)
            assert host.mounts() == mounts
            assert holder(data) is None
        with server(data) as last:
            for client in clients:
                client.serve(last.url)
                client.check(rng)
                for snapshot in client.promises.snapshots:
                    client.restore(snapshot)
        for client in clients:
            client.close()
        await nothing_is_left(data)
    with capsys.disabled():
        kept = [client.promises for client in clients]
        executions = sum(len(each.executions) for each in kept)
        snapshots = sum(each.snapshots_made for each in kept)
        print(
            f"\n{rounds} kills: {executions} acknowledged executions in the history, "
            f"{snapshots} acknowledged snapshots restored"
        )


def server(data: Path) -> Server:
    return Server(data, MULLIGAN_HISTORY__MAX_HISTORY_ENTRIES="100000")


def one_round(data: Path, clients: list[Client], rng: random.Random, number: int) -> None:
    """A server checks what those before it promised, promises more, and is killed."""
    with server(data) as running:
        for client in clients:
            client.serve(running.url)
            client.check(rng)
        load = Load(clients, number)
        if number % 2 == 0:  # every other server is killed as soon as it has something to do
            host.wait_until(lambda: load.steps >= rng.randrange(2, 8), 60)
        time.sleep(rng.random() * LONGEST_S)
        everything = host.descendants(running.pid)
        running.kill()
        load.join()
        assert host.wait_until(lambda: not host.alive(everything), 10), host.alive(everything)
    assert host.wait_until(lambda: not host.naming(data), 10), host.naming(data)


async def nothing_is_left(data: Path) -> None:
    """No half-made VM, layer or output, and none that nobody needs."""
    async with Engine(settings.load(data_dir=data)) as engine:
        for vm in engine.list_vms():
            assert vm.agent_id in AGENTS
            await engine.delete_vm(vm.id)
        await engine.settle()
    left = [
        os.path.relpath(path, data)
        for pattern in ("vms/*", "layers/*/*", "history/outputs/*/*", "history/outputs/.*")
        for path in data.glob(pattern)
    ]
    assert not left
