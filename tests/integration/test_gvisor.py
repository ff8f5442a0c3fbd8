"""Choosing a driver, and an engine whose VMs are gVisor's; the conformance suite has the rest."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from mulligan.drivers.gvisor import runsc
from mulligan.drivers.gvisor.driver import GvisorDriver
from mulligan.engine.engine import Engine
from mulligan.errors import ConfigError, ExecutionFailed
from mulligan.models import RollbackTo, VmCreateRequest, VmExecuteRequest
from mulligan.settings import Settings, VmType
from support import host

pytestmark = pytest.mark.anyio

try:
    runsc.find()
    MISSING = None
except ConfigError as missing:
    MISSING = f"{missing.detail}: {missing.remedy}"
gvisor = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
HERE = {"focal-optimized": VmType(disk_mb=0)}
SERVER = """
import asyncio, sys
from pathlib import Path
from mulligan.engine.engine import Engine
from mulligan.models import VmExecuteRequest
from mulligan.settings import Settings

async def main():
    settings = Settings(data_dir=Path(sys.argv[1]), driver="gvisor", vm_pool_size=0)
    async with Engine(settings) as engine:
        request = VmExecuteRequest(
            agent_id="a", language="bash", code="nohup sleep 600 >&- 2>&- & echo well"
        )
        print((await engine.execute(request)).stdout.strip(), flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def settings(directory: Path, **changes) -> Settings:
    return Settings(data_dir=directory, vm_pool_size=0, **changes)


def request(code: str, language: str = "bash", **more) -> VmExecuteRequest:
    return VmExecuteRequest(agent_id="a", language=language, code=code, **more)


def gone() -> NoReturn:
    raise ConfigError("runsc, which is gVisor, is not on PATH", remedy=runsc.REMEDY)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runsc that says all is well, and cannot start anything."""
    program = tmp_path / "runsc"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in --version) echo "runsc version 1" ;;\n'
        '"help platforms") echo systrap ;;\n'
        '"help run") echo "  -pass-fd value" ;;\n'
        "flags) ;;\n"
        '*) echo "this host lets nobody trace" >&2; exit 128 ;;\nesac\n'
    )
    program.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/local/bin:/usr/bin:/bin")


@gvisor
async def test_an_engine_with_it(data_dir: Path) -> None:
    """Files and variables are taken back, forks go on; what is chosen is what VMs show."""
    async with Engine(settings(data_dir, driver="auto")) as engine:
        assert (await engine.execute(request("uname -r"))).stdout.strip().endswith("-gvisor")
        (vm,) = engine.list_vms()
        assert (vm.driver, vm.capabilities.own_kernel, vm.capabilities.network) == (
            "gvisor",
            True,
            ["none", "allowlist"],
        )
        first = await engine.execute(request("kept = {'a': 1}", "python", kernel="k"))
        assert first.exit_code == 0
        bad = await engine.execute(
            request("kept.clear(); open('junk', 'w').write('x')", "python", kernel="k")
        )
        await engine.past.rollback(vm.id, RollbackTo(execution_id=bad.execution_id))
        again = await engine.execute(request("kept", "python", kernel="k"))
        assert again.result == "{'a': 1}"
        assert (await engine.execute(request("ls"))).stdout == ""
        late = await engine.execute(request("while :; do :; done", timeout_seconds=1))
        assert late.outcome == "timeout"
        assert json.loads((data_dir / "drivers.json").read_text())["gvisor"]
    assert host.naming(data_dir) == []


@gvisor
async def test_types_of_both_drivers_in_one_engine(data_dir: Path) -> None:
    types = HERE | {"strong": VmType(driver="gvisor")}
    async with Engine(settings(data_dir, vm_types=types)) as engine:
        for vm_type, expected in (("focal-optimized", "bubblewrap"), ("strong", "gvisor")):
            vm = await engine.create_vm(VmCreateRequest(vm_type=vm_type, agent_id="a"))
            done = await engine.execute(request("uname -r", vm_id=vm.id))
            assert vm.driver == expected
            assert ("gvisor" in done.stdout) == (expected == "gvisor")


@gvisor
async def test_auto_takes_it_for_a_type_with_a_network(data_dir: Path) -> None:
    wanted = VmType(driver="auto", network="allowlist", allow=["example.org"])
    async with Engine(settings(data_dir, vm_types=HERE | {"n": wanted})) as engine:
        assert engine.drivers.of_type("n").name == "gvisor"


@gvisor
async def test_a_type_whose_packages_it_cannot_build_is_refused_at_start(data_dir: Path) -> None:
    wanted = VmType(driver="gvisor", allow_builds=True)
    with pytest.raises(ConfigError, match="is not what packages are built in") as caught:
        await Engine(settings(data_dir, vm_types=HERE | {"n": wanted})).open()
    assert caught.value.field == "vm_types.n.allow_builds"
    assert caught.value.remedy == 'set it to false, or vm_types.n.driver to "bubblewrap"'


@gvisor
async def test_auto_gives_a_type_that_builds_packages_to_bubblewrap(data_dir: Path) -> None:
    types = HERE | {"n": VmType(driver="auto", allow_builds=True)}
    async with Engine(settings(data_dir, vm_types=types)) as engine:
        assert engine.drivers.of_type("n").name == "bubblewrap"


async def test_auto_passes_over_what_does_not_work(data_dir: Path, broken) -> None:
    async with Engine(settings(data_dir, driver="auto")) as engine:
        assert engine.drivers.of_type("focal-optimized").name == "bubblewrap"
        assert "lets nobody trace" in str(engine.drivers.reasons["gvisor"])
        assert (await engine.execute(request("echo well"))).stdout == "well\n"
    assert not list(data_dir.glob("trial-*"))
    assert host.naming(data_dir) == []


async def test_one_that_cannot_start_says_what_runsc_said(data_dir: Path, broken) -> None:
    async with Engine(settings(data_dir, driver="gvisor")) as engine:
        with pytest.raises(ConfigError, match="this host lets nobody trace"):
            await engine.execute(request("echo"))
    assert host.naming(data_dir) == []


async def test_without_runsc_a_type_that_names_it_is_refused(data_dir: Path, monkeypatch) -> None:
    monkeypatch.setattr(runsc, "find", gone)
    types = HERE | {"strong": VmType(driver="gvisor")}
    with pytest.raises(ConfigError, match="not on PATH") as caught:
        await Engine(settings(data_dir, vm_types=types)).open()
    assert caught.value.field == "vm_types.strong.driver"
    assert "go install" in caught.value.remedy


@gvisor
async def test_vms_of_a_driver_that_is_gone_do_not_boot(data_dir: Path, monkeypatch) -> None:
    async with Engine(settings(data_dir, driver="gvisor")) as engine:
        await engine.execute(request("echo x > kept"))
    monkeypatch.setattr(runsc, "find", gone)
    async with Engine(settings(data_dir)) as engine:
        (vm,) = engine.list_vms()
        assert vm.driver == "gvisor"
        with pytest.raises(ConfigError, match="not on PATH"):
            await engine.execute(request("cat kept"))


@gvisor
async def test_a_full_disk_is_met_and_got_over(data_dir: Path) -> None:
    types = {"focal-optimized": VmType(disk_mb=20)}
    async with Engine(settings(data_dir, driver="gvisor", vm_types=types)) as engine:
        fill = (
            "dd if=/dev/zero of=big bs=1M count=500 2>/dev/null; echo $(($(stat -c %s big) >> 20))"
        )
        filled = await engine.execute(request(fill))
        assert "disk quota of 20 MB exceeded" in filled.notes[0]
        assert int(filled.stdout) < 500 << 20
        assert (await engine.execute(request("echo x > file"))).exit_code == 1
        assert (await engine.execute(request("echo x > /dev/null; rm big"))).exit_code == 0
        await engine.execute(request("sleep 0.5"))
        assert (await engine.execute(request("echo x > file && cat file"))).stdout == "x\n"


@gvisor
async def test_a_program_that_takes_too_much_memory_is_ended_and_its_vm_goes_on(
    data_dir: Path,
) -> None:
    types = {"focal-optimized": VmType(memory_mb=96)}
    async with Engine(settings(data_dir, driver="gvisor", vm_types=types)) as engine:
        await engine.execute(request("kept = 1", "python", kernel="k"))
        take = (
            "import time\nheld = []\n"
            "for _ in range(20):\n    held.append(b'x' * (8 << 20))\n    time.sleep(0.02)\n"
            "print('through')"
        )
        taken = await engine.execute(request(take, "python"))
        assert (taken.outcome, taken.stdout) == ("out_of_memory", "")
        assert (await engine.execute(request("kept", "python", kernel="k"))).result == "1"


@gvisor
async def test_one_that_is_faster_than_its_agent_looks_ends_the_vm_which_says_so(
    data_dir: Path, monkeypatch
) -> None:
    """Here the agent does not look at all."""
    unwatched = {"open_files": 0, "cpu_seconds": 0, "processes": 0}
    monkeypatch.setattr(GvisorDriver, "_limits_of_agent", lambda *_: unwatched)
    types = {"focal-optimized": VmType(memory_mb=64)}
    async with Engine(settings(data_dir, driver="gvisor", vm_types=types)) as engine:
        await engine.execute(request("echo x > kept"))
        (vm,) = engine.list_vms()
        if vm.limits["memory_mb"].held_by == "watched":
            pytest.skip(f"nothing holds VMs to their memory here: {vm.limits['memory_mb'].reason}")
        take = "held = bytearray(1 << 30)\nfor at in range(0, 1 << 30, 4096): held[at] = 1"
        with pytest.raises(ExecutionFailed, match="its memory was used up"):
            await engine.execute(request(take, "python"))
        assert (await engine.execute(request("cat kept"))).stdout == "x\n"


@gvisor
def test_nothing_outlives_a_server_that_is_killed(data_dir: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(data_dir)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "well\n"
        below = host.descendants(server.pid)
        assert len(below) > 4  # bubblewrap, runsc, its gofer and its sandbox
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
        server.stdout.close()
    assert host.wait_until(lambda: not host.alive(below))
    assert host.wait_until(lambda: not host.naming(data_dir))
