"""Making sure of a VM's walls before a program that would harm a machine without them."""

import os
from pathlib import Path

from mulligan.engine.engine import Engine
from mulligan.models import VmExecuteRequest

NAMESPACES = ("pid", "mnt", "net", "user", "ipc", "uts", "cgroup")
MINE = "; ".join(f"readlink /proc/self/ns/{name}" for name in NAMESPACES)


async def walled(engine: Engine, agent: str, *limits: str) -> str:
    """The VM of an agent, once it was seen to be one: namespaces of its own, and limits that hold.

    Fails the test where one is missing.
    """
    request = VmExecuteRequest(agent_id=agent, language="bash", code=MINE)
    answer = await engine.execute(request)
    seen = answer.stdout.split()
    assert len(seen) == len(NAMESPACES), answer.stderr
    here = [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES]
    assert not set(seen) & set(here), "a namespace is the host's"
    held = engine.get_vm(answer.vm_id).limits or {}
    for name in limits:
        assert held[name].value > 0, f"{name} is no limit"
        assert held[name].held_by != "none", f"{name}: {held[name].reason}"
    return answer.vm_id


def groups(data_dir: Path) -> list[Path]:
    """The control groups there are of the VMs of a data directory."""
    status = data_dir.stat()
    name = f"mulligan-{status.st_dev:x}-{status.st_ino:x}"
    # Others' come and go meanwhile, which this way of walking passes over.
    found = [Path(top, each) for top, below, _ in os.walk("/sys/fs/cgroup") for each in below]
    return sorted(path for path in found if path.parent.name == name)
