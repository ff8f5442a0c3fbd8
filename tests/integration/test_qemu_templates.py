"""MicroVMs that are copies of a template: alike in nothing they must not be alike in."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from integration.test_qemu_vms import configured, images, parts, printed
from mulligan.drivers.qemu import image, templates
from mulligan.engine.engine import Engine
from mulligan.engine.vms.templates import make_template
from mulligan.errors import ConfigError, ExecutionFailed
from mulligan.models import RollbackTo, VmExecuteRequest
from support import host

pytestmark = pytest.mark.anyio
RANDOM = """
import os, random, uuid
print(os.urandom(16).hex(), uuid.uuid4().hex, random.random(), sep="\\n")
"""


@pytest.fixture
async def copied() -> AsyncIterator[Engine]:
    """An engine whose VMs are copies of a template; afterwards nothing of it may be left."""
    before, open_before = host.descendants(os.getpid()), host.descriptors()
    with host.data_directory() as directory:
        image.lend(images(), directory / "images")
        settings = configured(directory)
        await make_template(settings, "default")
        assert not host.descendants(os.getpid()) - before
        async with Engine(settings) as engine:
            yield engine
        left = [path.name for path in directory.iterdir() if path.name.startswith("tmp")]
        assert not left, f"files left: {left}"
        assert not host.naming(directory)
    assert not host.descendants(os.getpid()) - before
    assert host.descriptors() <= open_before + 1  # asyncio's own


def are_copies() -> bool:
    lines = [host.command_line(pid) for pid in parts(b"/usr/bin/qemu-system")]
    return bool(lines) and all(b"-incoming" in line for line in lines)


def made(engine: Engine) -> Path:
    (pointer,) = (engine.settings.data_dir / "images").glob("template-*.json")
    known = templates.Pointer.model_validate_json(pointer.read_bytes())
    return pointer.with_name(known.directory)


@pytest.mark.long
async def test_copies_run_programs_and_come_back_as_others_do(copied: Engine) -> None:
    assert await printed(copied, "print(6 * 7)") == "42\n"
    assert are_copies()
    seen = await printed(copied, "uname -r; id -un; pwd; nproc; ls /usr/bin/env", "bash")
    release = image.load(images()).stamp.release
    assert seen.split() == [release, "agent", "/workspace", "1", "/usr/bin/env"]
    await printed(copied, "scores = {'ada': 3}; open('note', 'w').write('one')", kernel="k")
    request = VmExecuteRequest(
        agent_id="tester", language="python", code="scores.clear(); open('note', 'w')", kernel="k"
    )
    broke = await copied.execute(request)
    await copied.past.rollback(broke.vm_id, RollbackTo(execution_id=broke.execution_id))
    assert await printed(copied, "print(scores, open('note').read())", kernel="k") == (
        "{'ada': 3} one\n"
    )


@pytest.mark.long
async def test_what_a_template_saw_of_the_host_is_read_only_in_its_copies(copied: Engine) -> None:
    tried = "for each in /usr /etc /packages; do touch $each/x && echo wrote $each; done; mount"
    seen = await printed(copied, f"({tried}) 2>/dev/null; true", "bash")
    assert "wrote /usr" not in seen
    assert "wrote /packages" not in seen
    assert "/late" not in seen


@pytest.mark.long
async def test_no_two_copies_draw_the_same(copied: Engine) -> None:
    """Neither of their kernels nor of their interpreters; a new VM is a new copy."""
    drawn: list[str] = []
    for _ in range(3):
        drawn += (await printed(copied, RANDOM)).split()
        assert are_copies()
        (vm,) = list(copied.fleet.vms.values())
        await vm.stop()
    assert len(drawn) == len(set(drawn)) == 9


@pytest.mark.long
async def test_the_clock_of_a_copy_is_the_host_s(copied: Engine) -> None:
    """Its template stopped when it was kept, and that is a while ago."""
    before = time.time()
    told = float(await printed(copied, "import time; print(time.time())"))
    assert before <= told <= time.time()


@pytest.mark.long
async def test_a_template_of_something_else_is_told_of_and_vms_boot(
    copied: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    (pointer,) = (copied.settings.data_dir / "images").glob("template-*.json")
    known = templates.Pointer.model_validate_json(pointer.read_bytes())
    other = known.stamp.model_copy(update={"qemu": "0:0", "kernel": "0"})
    pointer.write_text(known.model_copy(update={"stamp": other}).model_dump_json())
    assert await printed(copied, "print(1)") == "1\n"
    assert not are_copies()
    (said,) = [each.getMessage() for each in caplog.records if "template_refused" in str(each.msg)]
    assert "was made with another qemu, kernel" in said
    assert "mulligan microvm template" in said


@pytest.mark.long
async def test_a_damaged_template_fails_clearly_and_leaves_nothing(copied: Engine) -> None:
    devices = made(copied) / templates.DEVICES
    devices.write_bytes(devices.read_bytes()[:5000])
    with pytest.raises(ExecutionFailed, match="migrate-incoming"):
        await printed(copied, "print(1)")
    async with asyncio.timeout(20):
        while parts(b"/usr/bin/qemu-system"):
            await asyncio.sleep(0.01)


async def test_without_a_kernel_there_is_no_template(data_dir: Path) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("this host has no QEMU (Debian: apt-get install qemu-system-x86)")
    with pytest.raises(ConfigError, match="no kernel image for microVMs yet") as caught:
        await make_template(configured(data_dir), "default")
    assert caught.value.remedy == "mulligan microvm build"
