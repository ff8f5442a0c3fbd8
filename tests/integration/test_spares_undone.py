"""What was done to the process that waits for the next program does not outlast a rollback."""

from __future__ import annotations

import asyncio

import pytest

from mulligan.engine.engine import Engine
from mulligan.models import RollbackTo, VmExecuteRequest
from support.spares import LOWER, Heard, meddler

pytestmark = pytest.mark.anyio


async def test_a_rollback_ends_it(engine: Engine) -> None:
    async def run(code: str, language: str = "bash"):
        return await engine.execute(VmExecuteRequest(agent_id="a", language=language, code=code))

    vm_id = (await run("rm -f go")).vm_id
    heard = Heard()
    request = VmExecuteRequest(agent_id="a", language="python", code=meddler(LOWER))
    task = asyncio.create_task(engine.execute(request, heard))
    await heard.until(b"looks")
    assert (await run("touch go")).outcome == "success"
    await heard.until(b"done")
    await engine.past.rollback(vm_id, RollbackTo())
    assert (await task).outcome == "cancelled"
    after = await run("ulimit -Hn")
    assert after.outcome == "success"
    assert int(after.stdout) > 32
