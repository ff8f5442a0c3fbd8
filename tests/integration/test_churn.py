"""VMs made, used and removed in a row: nothing grows."""

import asyncio
import gc
import os
from pathlib import Path

import pytest

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.models import DEFAULT_VM_TYPE, VmCreateRequest, VmExecuteRequest
from support import host

pytestmark = pytest.mark.anyio
AGENTS = 7
BEFORE = 20  # what is made once is made by then
CONNECTIONS = 12  # descriptors of the history's connections, which come as threads want them
MEMORY_KB = 4096  # allocators keep some


def rss_kb() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def there_is(data: Path) -> dict[str, int]:
    gc.collect()
    below = [data / "vms", data / "layers", data / "history" / "outputs"]
    return {
        "processes": len(host.descendants(os.getpid())),
        "mounts": len(host.mounts()),
        "descriptors": host.descriptors(),
        "files": sum(len(list(each.rglob("*"))) for each in below if each.exists()),
    }


async def churn(data: Path, number: int, warm: int, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = settings_module.load(
        data_dir=data, vm_types={DEFAULT_VM_TYPE: {"warm": warm}}, hooks={"enabled": False}
    )

    async def one(engine: Engine, each: int) -> None:
        agent = f"agent-{each % AGENTS}"
        vm = await engine.create_vm(VmCreateRequest(agent_id=agent))
        request = VmExecuteRequest(
            agent_id=agent, vm_id=vm.id, language="bash", code=f"echo {each} > note; cat note"
        )
        assert (await engine.execute(request)).stdout == f"{each}\n"
        await engine.delete_vm(vm.id)

    async def settled(engine: Engine) -> dict[str, int]:
        await engine.settle()
        async with asyncio.timeout(60):
            while engine.fleet.spares.ready(DEFAULT_VM_TYPE, None) < warm:
                await asyncio.sleep(0.05)
            await engine.fleet.spares.settle()
        return there_is(data)

    async with Engine(chosen) as engine:
        for each in range(BEFORE):
            await one(engine, each)
        before, memory = await settled(engine), rss_kb()
        for each in range(number):
            await one(engine, each)
        after = await settled(engine)
        grown = rss_kb() - memory
        with capsys.disabled():
            print(f"\n{number} VMs made and removed: {after}, memory {grown:+} KiB")
        assert after.pop("descriptors") <= before.pop("descriptors") + CONNECTIONS
        assert after == before
        assert grown < MEMORY_KB + 2 * number
    assert not host.naming(data)


@pytest.mark.parametrize("warm", [0, 1])
@pytest.mark.timeout(300)
async def test_60_vms_in_two_rows_leave_nothing(
    data_dir: Path, warm: int, capsys: pytest.CaptureFixture[str]
) -> None:
    await churn(data_dir, 30, warm, capsys)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_1000_vms_leave_nothing(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await churn(data_dir, 1000, 2, capsys)
