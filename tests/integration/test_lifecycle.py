"""Cancels and closes at awkward moments: afterwards nothing may be left, anywhere in /proc."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from mulligan.client.direct import DirectBackend
from mulligan.engine.engine import Engine
from mulligan.errors import ExecutionFailed, VmExecutionError, VmNotAvailable
from mulligan.models import VmCreateRequest, VmExecuteRequest
from mulligan.settings import Settings
from support import host
from support.server import Server

pytestmark = pytest.mark.anyio
BOOTS = 40


def request(code: str = "echo x", agent: str = "a", vm_id: str | None = None) -> VmExecuteRequest:
    return VmExecuteRequest(agent_id=agent, language="bash", code=code, vm_id=vm_id)


async def test_boots_cancelled_at_any_moment_leave_nothing(settings: Settings) -> None:
    rng = random.Random(1)
    descriptors = host.descriptors()
    async with Engine(settings) as engine:
        for _ in range(BOOTS):
            vm = await engine.create_vm(VmCreateRequest(agent_id="a"))
            task = asyncio.create_task(engine.execute(request("sleep 300", vm_id=vm.id)))
            await asyncio.sleep(rng.random() * 0.04)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await engine.delete_vm(vm.id)
        assert host.wait_until(lambda: not host.naming(settings.data_dir))
        assert (await engine.execute(request())).stdout == "x\n"
    assert not host.naming(settings.data_dir)
    assert host.descriptors() <= descriptors + 1


async def test_close_ends_what_comes_while_it_closes(settings: Settings) -> None:
    engine = Engine(settings)
    await engine.open()
    await engine.execute(request())
    running = asyncio.create_task(engine.execute(request("sleep 300")))
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0.001)
    for agent in ("a", "b"):
        with pytest.raises(VmExecutionError):
            await engine.execute(request(agent=agent))
    await closing
    with pytest.raises(ExecutionFailed):
        await running
    with pytest.raises(ExecutionFailed):
        await engine.execute(request())
    assert not host.naming(settings.data_dir)


async def test_a_cancelled_delete_is_finished_all_the_same(settings: Settings) -> None:
    async with Engine(settings) as engine:
        vm = await engine.create_vm(VmCreateRequest(agent_id="a"))
        booting = asyncio.create_task(engine.execute(request(vm_id=vm.id)))
        await asyncio.sleep(0.01)
        deleting = asyncio.create_task(engine.delete_vm(vm.id))
        await asyncio.sleep(0.001)
        deleting.cancel()
        await asyncio.wait({deleting, booting})
        assert isinstance(booting.exception(), VmExecutionError)
    assert list((settings.data_dir / "vms").iterdir()) == []
    assert not host.naming(settings.data_dir)


async def test_delete_under_an_execution_fails_it(engine: Engine) -> None:
    vm = await engine.create_vm(VmCreateRequest(agent_id="a"))
    running = asyncio.create_task(engine.execute(request("sleep 300", vm_id=vm.id)))
    await asyncio.sleep(0.3)
    await engine.delete_vm(vm.id)
    with pytest.raises((ExecutionFailed, VmNotAvailable)):
        await running


async def test_a_callback_that_raises_ends_its_own_execution_only(engine: Engine) -> None:
    def fail(*_: object) -> None:
        raise KeyError("mine")

    other = asyncio.create_task(engine.execute(request("sleep 0.5; echo fine")))
    await asyncio.sleep(0.1)
    with pytest.raises(KeyError, match="mine"):
        await engine.execute(request("while :; do echo x; sleep 0.01; done"), fail)
    assert (await other).stdout == "fine\n"


async def test_a_backend_closed_while_it_opens(settings: Settings) -> None:
    backend = DirectBackend(settings)
    opening = asyncio.create_task(backend.execute(request()))
    await asyncio.sleep(0.01)
    await backend.close()
    await asyncio.wait({opening})
    assert opening.exception() is None or isinstance(opening.exception(), VmExecutionError)
    assert not host.naming(settings.data_dir)
    with pytest.raises(VmExecutionError):
        await backend.execute(request())
    async with Engine(settings):  # the lock is free
        pass


async def test_orphans_of_a_killed_server_are_swept(data_dir: Path) -> None:
    """Killed while it boots VMs: what is left is ended by the next start at the latest."""
    import httpx

    for _ in range(5):
        with Server(data_dir) as server:
            async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
                tasks = [
                    asyncio.create_task(
                        client.post(
                            "/api/llm/execute",
                            json={"agent_id": f"a{n}", "language": "bash", "code": "sleep 300"},
                        )
                    )
                    for n in range(3)
                ]
                await asyncio.sleep(random.Random(_).random() * 0.05)
                server.kill()
                await asyncio.wait(tasks)
                for task in tasks:
                    assert task.exception() is not None
    with Server(data_dir) as server:
        mine = host.descendants(server.pid) | {server.pid}
        assert set(host.naming(data_dir)) <= mine
    assert host.wait_until(lambda: not host.naming(data_dir))


def test_the_servers_session_keyring_stays_outside(data_dir: Path) -> None:
    """No namespace confines a session keyring: a key planted in the server's is looked for."""
    import subprocess

    from support.server import clean_environment, command

    numbers = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
    plant = (
        "import ctypes, os, sys\n"
        f"ADD_KEY, KEYCTL = {numbers}\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.syscall(KEYCTL, 1, b'mulligan-test') > 0\n"
        "assert libc.syscall(ADD_KEY, b'user', b'planted', b'value', 5, -3) > 0\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    look = "print('planted' in open('/proc/keys').read(), open('/proc/keys').read())"
    run = command("run", "-c", look)
    done = subprocess.run(
        [run[0], "-c", plant, *run],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(MULLIGAN_DATA_DIR=str(data_dir)),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False"), done.stdout
