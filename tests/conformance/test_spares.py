"""The process that waits for the next program, and what a program that still runs can do to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from support.spares import END, LOWER, Heard, meddler

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def beside(machine, what: str) -> AsyncIterator[None]:
    """A program that did something to the spare and goes on."""
    heard = Heard()
    task = asyncio.create_task(
        machine.run(meddler(what), "python", on_output=heard, timeout_ms=60_000)
    )
    try:
        await heard.until(b"looks")
        assert await machine.text("touch go; echo short") == "short\n"  # and a spare is made
        done = asyncio.ensure_future(heard.until(b"done"))
        await asyncio.wait({task, done}, return_when=asyncio.FIRST_COMPLETED)
        assert done.done(), task.result().stderr
        await done
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert await machine.text("rm -f go; echo gone") == "gone\n"


async def test_a_limit_set_for_it_is_no_limit_of_a_program(machine) -> None:
    async with beside(machine, LOWER):
        refused = await machine.run("ulimit -Hn")
        assert refused.reason == "setup", refused
        assert "changed what this one was to be held to" in refused.message
        assert int(await machine.text("ulimit -Hn")) > 32


@pytest.mark.parametrize(
    "what",
    [
        "os.sched_setaffinity(spare, {min(os.sched_getaffinity(0))})",
        "os.setpriority(os.PRIO_PROCESS, spare, 19)",
        "os.sched_setscheduler(spare, os.SCHED_IDLE, os.sched_param(0))",
    ],
)
async def test_nobody_says_where_and_when_it_runs(machine, what: str) -> None:
    """It is refused, or whoever would have begun in it does not."""
    tells = "import os; print(os.nice(0), os.sched_getscheduler(0), len(os.sched_getaffinity(0)))"
    usual = await machine.text(tells, "python")
    asks = f"try:\n    {what}\nexcept PermissionError:\n    pass"
    async with beside(machine, asks):
        begun = await machine.run(tells, "python")
        if begun.reason == "setup":
            assert "changed what this one was to be held to" in begun.message, begun
            begun = await machine.run(tells, "python")
        assert begun.stdout.decode() == usual


async def test_programs_start_where_it_was_stopped(machine) -> None:
    async with beside(machine, "os.kill(spare, signal.SIGSTOP)"):
        assert await machine.text("echo next") == "next\n"
        assert await machine.text("print(1)", "python") == "1\n"


async def test_programs_start_where_it_was_ended(machine) -> None:
    async with beside(machine, END):
        assert await machine.text("echo next") == "next\n"
        assert await machine.text("print(1)", "python") == "1\n"


@pytest.mark.long
async def test_one_that_nobody_wants_is_let_go_of(machine) -> None:
    async with beside(machine, "while spare in siblings():\n    time.sleep(0.1)"):
        assert await machine.text("echo next") == "next\n"
