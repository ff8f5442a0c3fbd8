"""MicroVMs behind an engine: they run programs, come back, and leave nothing."""

import asyncio
import hashlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from mulligan import settings as settings_module
from mulligan.drivers.qemu import driver, image
from mulligan.engine.engine import Engine
from mulligan.errors import ConfigError, ExecutionFailed
from mulligan.models import RollbackTo, VmExecuteRequest, VmExecuteResponse
from support import host, microvm
from support.server import Server
from support.upstream import Upstream, listening

pytestmark = pytest.mark.anyio
AGENT = "tester"
TYPE = {"default": {"memory_mb": 256, "vcpus": 1}}


def images() -> Path:
    found = microvm.images()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def configured(directory: Path, **more: object) -> settings_module.Settings:
    chosen = {"vm_types": TYPE, "default_vm_type": "default"} | more
    return settings_module.load(data_dir=directory, driver="qemu", **chosen)


@pytest.fixture
async def microvms() -> AsyncIterator[Engine]:
    """An engine whose VMs are microVMs; afterwards nothing of it may be left."""
    before, open_before = host.descendants(os.getpid()), host.descriptors()
    with host.data_directory() as directory:
        image.lend(images(), directory / "images")
        async with Engine(configured(directory)) as engine:
            yield engine
        left = [path.name for path in directory.iterdir() if path.name.startswith("tmp")]
        assert not left, f"files left: {left}"
        assert not host.naming(directory)
    assert not host.descendants(os.getpid()) - before
    assert host.descriptors() <= open_before + 1  # asyncio's own


async def run(
    engine: Engine, code: str, language: str = "python", **more: object
) -> VmExecuteResponse:
    request = VmExecuteRequest(agent_id=AGENT, language=language, code=code, **more)
    return await engine.execute(request)


async def printed(engine: Engine, code: str, language: str = "python", **more: object) -> str:
    answer = await run(engine, code, language, **more)
    assert answer.exit_code == 0, answer.stderr
    return answer.stdout


def parts(program: bytes) -> list[int]:
    """The running processes of a program that serves a microVM of this process."""
    below = host.descendants(os.getpid())
    return [pid for pid in below if host.command_line(pid).startswith(program)]


@pytest.mark.long
async def test_programs_run_on_a_kernel_of_their_own(microvms: Engine) -> None:
    """And so do the time machine and live interpreters, whose variables come back, too."""
    seen = await printed(microvms, "uname -r; id -un; pwd; nproc", "bash")
    assert seen.split() == [image.load(images()).stamp.release, "agent", "/workspace", "1"]
    assert os.uname().release not in seen
    assert await printed(microvms, "print(6 * 7)") == "42\n"
    await run(microvms, "scores = {'ada': 3}; open('note', 'w').write('one')", kernel="k")
    broke = await run(microvms, "scores.clear(); open('note', 'w').write('two')", kernel="k")
    await microvms.past.rollback(broke.vm_id, RollbackTo(execution_id=broke.execution_id))
    assert await printed(microvms, "print(scores, open('note').read())", kernel="k") == (
        "{'ada': 3} one\n"
    )


@pytest.mark.long
async def test_hard_links_are_refused_and_git_does_without(microvms: Engine) -> None:
    refused = await run(microvms, "touch a; ln a b", "bash")
    assert "Operation not permitted" in refused.stderr
    locked = "import multiprocessing as m; lock = m.Lock(); lock.acquire(); print('locked')"
    assert await printed(microvms, locked) == "locked\n"  # semaphores are linked, in /dev/shm
    if shutil.which("git") is None:
        pytest.skip("this host has no git")
    commit = "git -c user.name=x -c user.email=x@example.com commit -qm first"
    said = await printed(
        microvms, f"git init -q r && cd r && touch f && git add f && {commit} && git fsck", "bash"
    )
    assert "error" not in said


@pytest.mark.long
async def test_qemu_runs_without_rights_and_without_a_network(microvms: Engine) -> None:
    await printed(microvms, "true", "bash")
    (qemu,) = parts(b"/usr/bin/qemu-system")
    (share,) = parts(b"/usr/lib/qemu/virtiofsd") or parts(b"/usr/libexec/virtiofsd")
    expected = str(61000 if os.geteuid() == 0 else os.geteuid())
    for pid in (qemu, share):
        assert host.status(pid, "Uid") == [expected] * 4
        assert host.status(pid, "NoNewPrivs") == ["1"]
        assert host.status(pid, "Seccomp") == ["2"]
        assert os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino
        assert os.stat(f"/proc/{pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino
    assert int(host.status(qemu, "CapEff")[0], 16) == 0


@pytest.mark.long
async def test_a_kernel_that_does_not_come_up_is_told_and_leaves_nothing(
    microvms: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that hangs: what it has said by then is in the error."""
    monkeypatch.setitem(driver.GUEST_UP_S, driver.accel.EMULATED, 0.2)
    with pytest.raises(ExecutionFailed, match=r"did not come up within 0\.2 s"):
        await run(microvms, "print(1)")
    told = [host.command_line(pid) for pid in host.descendants(os.getpid())]
    assert not any(b"qemu-system" in each or b"virtiofsd" in each for each in told)
    monkeypatch.undo()
    assert await printed(microvms, "print(1)") == "1\n"


@pytest.mark.long
@pytest.mark.parametrize("program", [b"/usr/bin/qemu-system", b"virtiofsd"])
async def test_a_part_that_is_killed_from_outside_is_told_and_the_next_one_boots(
    microvms: Engine, program: bytes
) -> None:
    await printed(microvms, "echo kept > note", "bash")
    found = [
        pid
        for pid in host.descendants(os.getpid())
        if program in host.command_line(pid).split(b"\0")[0]
    ]
    assert found
    os.kill(found[0], signal.SIGKILL)
    async with asyncio.timeout(20):
        while any(vm.connection is not None for vm in microvms.fleet.vms.values()):
            await asyncio.sleep(0.01)
    assert await printed(microvms, "cat note", "bash") == "kept\n"


@pytest.mark.long
def test_kill_9_of_the_server_leaves_nothing() -> None:
    with host.data_directory() as directory:
        image.lend(images(), directory / "images")
        with Server(directory, MULLIGAN_DRIVER="qemu") as server:
            answer = httpx.post(
                f"{server.url}/api/llm/execute",
                json={"agent_id": AGENT, "language": "bash", "code": "(setsid sleep 300 &)"},
                timeout=100,
                trust_env=False,
            ).json()
            assert answer["exit_code"] == 0, answer
            everything = host.descendants(server.pid)
            assert any(b"qemu-system" in host.command_line(pid) for pid in everything)
            server.kill()
            assert host.wait_until(lambda: not host.alive(everything)), host.alive(everything)
        assert not host.naming(directory)


# What is refused at the start, and says why


async def refused(settings: settings_module.Settings) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        await Engine(settings).open()
    return caught.value


async def test_without_an_image_the_server_does_not_start(data_dir: Path) -> None:
    error = await refused(configured(data_dir))
    assert error.field == "driver"
    if shutil.which("qemu-system-x86_64"):
        assert "no kernel image for microVMs yet" in str(error)
        assert error.remedy == "mulligan microvm build"


@pytest.mark.long
async def test_a_network_is_that_of_every_driver(data_dir: Path, monkeypatch) -> None:
    """Who may be reached is, by a secret that programs do not have; the history says who was."""
    monkeypatch.setenv("MADE_UP", value := "made-up-value-" + "1729")
    image.lend(images(), data_dir / "images")
    server = Upstream()
    async with listening(server.serve) as port:
        here = f"127.0.0.1:{port}"
        secrets = {"KEY": {"value_from": "env:MADE_UP", "hosts": [here]}}
        network = {"network": "allowlist", "allow": [here], "secrets": secrets}
        types = {"default": TYPE["default"] | network}
        async with Engine(configured(data_dir, vm_types=types)) as engine:
            get = f'curl -sS -H "Key: $KEY" {here}; curl -sS 10.0.0.1; env; cat /proc/net/route'
            done = await run(engine, get, "bash")
            assert done.stdout.startswith("ok"), done.stderr
            assert "10.0.0.1:80 is refused" in done.stdout
            assert len(done.stdout.partition("Iface")[2].splitlines()) == 1  # the title's
            assert value not in done.stdout
            assert f"Key: {value}\r\n".encode() in server.heads[0]
            entry = engine.history.get(done.execution_id)
            assert entry is not None
            found = [(each.host, each.verdict, each.secrets) for each in entry.network]
            assert found == [("127.0.0.1", "allowed", ["KEY"]), ("10.0.0.1", "refused", [])]
            big = f"head -c 1000000 /dev/urandom > f; curl -sS -T f {here}; sha256sum < f"
            sent = await run(engine, big, "bash")
            assert hashlib.sha256(server.bodies[-1]).hexdigest() in sent.stdout
    assert not host.naming(data_dir)


@pytest.mark.long
async def test_a_type_with_another_image_is_refused(data_dir: Path) -> None:
    image.lend(images(), data_dir / "images")
    error = await refused(configured(data_dir, vm_types={"default": {"image": "debian"}}))
    assert "which makes VMs of the host's image alone" in str(error)
    assert error.field == "vm_types.default.image"


@pytest.mark.long
async def test_a_terabyte_of_memory_is_refused(data_dir: Path) -> None:
    image.lend(images(), data_dir / "images")
    huge = {"default": {"memory_mb": 1024 * 1024}}
    async with Engine(configured(data_dir, vm_types=huge)) as engine:
        with pytest.raises(ConfigError, match="does not fit into this host"):
            await run(engine, "print(1)")
