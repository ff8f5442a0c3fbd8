"""One booted VM for the suite, of every driver this host has."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mulligan.drivers.choosing import MAKERS
from mulligan.drivers.interface import BootSpec, Driver
from mulligan.engine.executions.programs import steps_for
from mulligan.engine.vms.program import OutputCallback, Program
from mulligan.engine.vms.replies import ProgramResult
from mulligan.engine.vms.store import Stores, VmRecord, VmStore, new_id
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ConfigError
from mulligan.images.host import WORKSPACE, HostImage, prepare
from mulligan.layers.directories import make_directory
from mulligan.layers.store import LayerStore
from mulligan.models import utc_now
from support import host, microvm
from support.kernels import Kernel
from support.profiles import LACKS

GUEST = (61000, 61000)


class Machine:
    """A VM of a driver, and short ways to use it.

    Attributes:
        pace: the driver's: bounds of what is to be there in a moment are so many times longer.
    """

    def __init__(self, vm: Vm, image: HostImage, driver: Driver) -> None:
        self.vm = vm
        self.image = image
        self.driver = driver
        self.pace = driver.pace

    def program(
        self,
        code: str,
        language: str = "bash",
        *,
        timeout_ms: int = 20_000,
        limit: int = 1024 * 1024,
        stdin: bytes | None = None,
        env: dict[str, str] | None = None,
        cwd: str = WORKSPACE,
    ) -> Program:
        runtime, steps, name = steps_for(language, self.image)
        return Program(runtime, steps, {name: code}, env or {}, cwd, timeout_ms, limit, stdin)

    async def run(
        self, code: str, language: str = "bash", on_output: OutputCallback | None = None, **more
    ) -> ProgramResult:
        return await self.vm.run(self.program(code, language, **more), on_output)

    async def text(
        self, code: str, language: str = "bash", *, timeout_ms: int = 20_000, **more
    ) -> str:
        """What a program prints; it must succeed, and may take its time."""
        result = await self.run(code, language, timeout_ms=timeout_ms * self.pace, **more)
        assert (result.reason, result.status) == ("exit", 0), result.stderr.decode()
        return result.stdout.decode()

    def has(self, what: str) -> bool:
        """Whether its VMs can have something of ``support.profiles``."""
        return what not in LACKS[self.driver.name]

    def needs(self, what: str) -> None:
        """Skips a test of something its VMs cannot have."""
        if not self.has(what):
            pytest.skip(f"{self.driver.name} has no {what}: {LACKS[self.driver.name][what]}")

    def agent(self) -> int:
        """The number of the booted VM's process 1 on the host."""
        below = host.descendants(self.vm._machine.pid)
        (agent,) = (pid for pid in below if host.number_inside(pid) == 1)
        return agent

    def stop_zygote(self) -> None:
        """Stops it from outside: no program can."""
        agent = self.agent()
        (zygote,) = (
            pid
            for pid in host.descendants(agent)
            if host.parent(pid) == agent and b"main.py" in host.command_line(pid)
        )
        os.kill(zygote, signal.SIGSTOP)


def make(name: str, directory: Path) -> Driver:
    """Raises ConfigError, or skips the test, where this host has no such driver."""
    return microvm.driver(GUEST, directory) if name == "qemu" else MAKERS[name](GUEST, directory)


@pytest.fixture(
    scope="module",
    params=[
        "bubblewrap",
        pytest.param("gvisor", marks=pytest.mark.long),
        pytest.param("qemu", marks=[pytest.mark.long, pytest.mark.timeout(400)]),
    ],
)
async def machine(request: pytest.FixtureRequest) -> AsyncIterator[Machine]:
    before = host.descendants(os.getpid())
    with host.data_directory() as directory:
        try:
            driver = make(request.param, directory)
        except ConfigError as error:
            pytest.skip(f"{error.detail}: {error.remedy}")
        make_directory(directory / "images")
        image = prepare(directory / "images", driver.disk_owner())
        store = VmStore(directory / "vms", driver.disk_owner())
        record = VmRecord(
            id=new_id("vm"),
            name="conformance",
            agent_id="tester",
            vm_type="any",
            driver=driver.name,
            created_at=utc_now(),
        )
        state = store.create(record)
        layers = LayerStore(directory / "layers", driver.disk_owner())
        spec = BootSpec(record.id, image, layers.family("tester"), store.disk(record.id))
        vm = Vm(record, state, driver, spec, Stores(store, layers), 20.0)
        yield Machine(vm, image, driver)
        await vm.stop()
    assert not host.descendants(os.getpid()) - before


@pytest.fixture
async def python(machine: Machine) -> AsyncIterator[Kernel]:
    kernel = Kernel(machine)
    yield kernel
    await kernel.memory("end", "")


@pytest.fixture
async def bash(machine: Machine) -> AsyncIterator[Kernel]:
    kernel = Kernel(machine, "bash")
    yield kernel
    await kernel.memory("end", "")


@pytest.fixture
async def node(machine: Machine) -> AsyncIterator[Kernel]:
    if "javascript" not in machine.image.toolchains:
        pytest.skip("this host has no Node.js")
    kernel = Kernel(machine, "javascript")
    yield kernel
    await kernel.memory("end", "")
