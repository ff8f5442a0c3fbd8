"""An agent that has few descriptors left: it refuses what would take them, and goes on."""

import asyncio

import pytest

from mulligan.engine.connection import Program
from mulligan.images.host import WORKSPACE

pytestmark = pytest.mark.anyio

FEW = 120


LIMIT = """
import resource
_, hard = resource.prlimit(1, resource.RLIMIT_NOFILE)
resource.prlimit(1, resource.RLIMIT_NOFILE, ({soft}, hard))
"""


@pytest.fixture
async def few(machine):
    """Few descriptors for the agent; as many as before afterwards. Programs may set that."""
    await machine.text(LIMIT.format(soft=FEW), "python")
    yield machine
    await machine.text(LIMIT.format(soft="hard"), "python")


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
