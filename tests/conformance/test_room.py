"""An agent that has few descriptors left: it refuses what would take them, and goes on."""

import asyncio
import os
import subprocess

import pytest

from mulligan.engine.vms.connection import Program
from mulligan.images.host import WORKSPACE
from support import host
from support.profiles import SEEN

pytestmark = pytest.mark.anyio

FEW = 120


def soft_limit(pid: int, soft: int) -> int:
    """Sets a process's soft limit of descriptors, as the user it belongs to; what it was."""
    code = (
        "import resource as r; kind = r.RLIMIT_NOFILE;"
        f"old, hard = r.prlimit({pid}, kind); r.prlimit({pid}, kind, ({soft}, hard)); print(old)"
    )
    owner = int(host.status(pid, "Uid")[0])
    user = {"user": owner, "group": owner, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        **user,
    )
    return int(done.stdout)


@pytest.fixture
async def few(machine):
    """Few descriptors for the agent, set from outside; as many as before afterwards."""
    machine.needs(SEEN)
    await machine.text("true")
    agent = machine.agent()
    before = soft_limit(agent, FEW)
    yield machine
    soft_limit(agent, before)


def cell(machine, name: str, language: str = "python") -> Program:
    program = str(machine.image.toolchains[language].program)
    return Program(
        "kernel",
        [[program]],
        {},
        {},
        WORKSPACE,
        20_000,
        1024,
        kernel=name,
        language=language,
        code="x = 1" if language == "python" else "x=1",
    )


@pytest.mark.parametrize("language", ["python", "bash"])
async def test_more_kernels_than_descriptors(few, language: str) -> None:
    booted = await few.text("stat -c %Z /proc/1")
    names = [f"k{number}" for number in range(30)]
    results = await asyncio.gather(*(few.vm.run(cell(few, name, language)) for name in names))
    refused = [result for result in results if result.reason == "setup"]
    assert all("Too many open files" in result.message for result in refused)
    assert 0 < len(refused) < len(names)
    assert {result.reason for result in results} == {"exit", "setup"}
    kept = await few.vm.connection.kernels("checkpoint", "all")
    assert kept
    if language == "python":  # a shell's memory takes a descriptor, an image of Python several
        assert "not kept" in {each.memory for each in kept}
    await few.vm.connection.kernels("end", "")
    assert await few.text("stat -c %Z /proc/1") == booted


async def test_more_programs_than_descriptors(few) -> None:
    results = await asyncio.gather(*(few.run("sleep 0.3; echo x") for _ in range(60)))
    assert {result.reason for result in results} == {"exit", "setup"}
    assert await few.text("echo alive") == "alive\n"
