"""Whose server was killed: no process is left within two seconds, and what is listed is there."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mulligan import settings
from mulligan.drivers.bubblewrap import orphans, preflight
from mulligan.engine.engine import Engine
from mulligan.models import VmExecuteRequest
from support import host
from support.server import Server

pytestmark = pytest.mark.anyio
SLACK_S = 10.0  # of a machine that does other things; what it took is told
LONGEST_S = 0.5
SHELL = '"$0" "$@" > /dev/null 2>&1 & echo $!'


class Churn:
    """Makes, uses and removes VMs, and knows what a server has promised."""

    def __init__(self, url: str, number: int) -> None:
        self.url = url
        self.agent = f"agent-{number}"
        self.kept: dict[str, str] = {}  # of VMs there must be, what their note says
        self.gone: set[str] = set()  # there must not be
        self.steps = 0
        self.rng = random.Random(number)
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=30) as http:
            try:
                while True:
                    self.step(http)
                    self.steps += 1
            except (httpx.HTTPError, KeyError, ValueError):
                return  # the server is gone

    def step(self, http: httpx.Client) -> None:
        if self.kept and self.rng.random() < 0.4:
            vm = self.rng.choice(sorted(self.kept))
            self.kept.pop(vm)  # from now on it may be there or not
            assert http.delete(f"/api/vms/{vm}").status_code == 204
            self.gone.add(vm)
            return
        made = http.post("/api/vms", json={"agent_id": self.agent}).json()
        note = self.rng.randbytes(8).hex()
        answer = self.write(http, made["id"], note)
        if answer["exit_code"] == 0:
            self.kept[made["id"]] = note
        if self.rng.random() < 0.5:
            time.sleep(self.rng.random() * 0.2)  # it may hibernate

    def write(self, http: httpx.Client, vm: str, note: str) -> dict[str, int]:
        code = f"echo {note} > note"
        body = {"agent_id": self.agent, "vm_id": vm, "language": "bash", "code": code}
        return http.post("/api/llm/execute", json=body).json()


async def play(data: Path, rounds: int, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(seed)
    options = {
        "MULLIGAN_VM_TYPES": '{"focal-optimized": {"warm": 2}}',
        "MULLIGAN_POOL__IDLE_HIBERNATE_SECONDS": "0.1",
        "MULLIGAN_POOL__MAX_VMS": "6",
    }
    mounts, longest, made = host.mounts(), 0.0, 0
    kept: dict[str, tuple[str, str]] = {}
    gone: set[str] = set()
    for number in range(rounds):
        with Server(data, **options) as server:
            churns = [Churn(server.url, number * 3 + each) for each in range(3)]
            for each in churns:
                each.thread.start()
            if number % 2 == 0:  # every other server is killed among its first boots
                wanted = rng.randrange(3, 10)
                host.wait_until(
                    lambda those=churns, most=wanted: sum(each.steps for each in those) >= most, 20
                )
            time.sleep(rng.random() * LONGEST_S)
            everything = host.descendants(server.pid)
            server.kill()
            killed = time.monotonic()
            everything |= set(host.naming(data))
            assert host.wait_until(
                lambda those=everything: not host.alive(those) and not host.naming(data), SLACK_S
            ), (host.alive(everything), host.naming(data))
            longest = max(longest, time.monotonic() - killed)
            for each in churns:
                each.thread.join(30)
                kept |= {vm: (each.agent, note) for vm, note in each.kept.items()}
                gone |= each.gone
                made += len(each.kept) + len(each.gone)
        assert host.mounts() == mounts
    async with Engine(settings.load(data_dir=data)) as engine:
        listed = {vm.id for vm in engine.list_vms()}
        assert set(kept) <= listed
        assert not gone & listed
        assert listed == {path.name for path in (data / "vms").iterdir()}
        assert not list((data / "layers").glob(".*"))
        for vm, (agent, note) in rng.sample(sorted(kept.items()), min(8, len(kept))):
            request = VmExecuteRequest(agent_id=agent, vm_id=vm, language="bash", code="cat note")
            assert (await engine.execute(request)).stdout == f"{note}\n"
    assert not host.naming(data)
    with capsys.disabled():
        print(f"\n{rounds} kills among {made} VMs: nothing left after {longest:.2f} s at most")


@pytest.mark.timeout(300)
async def test_a_killed_server_leaves_nothing(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await play(data_dir / "data", 4, 1, capsys)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_a_server_killed_100_times_leaves_nothing(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await play(data_dir / "data", 100, 2, capsys)


@pytest.fixture
def waiting(data_dir: Path) -> Iterator[tuple[int, int]]:
    """Two processes of bubblewrap that wait for ever: an orphan, and one with a parent."""
    (data_dir / "layers" / "x").mkdir(parents=True)
    bwrap = preflight.find_bwrap()
    blocked, hold = os.pipe()
    place = str(data_dir / "layers" / "x")
    arguments = [str(bwrap), "--dev-bind", "/", "/", "--bind", place, "/mnt"]
    arguments += ["--block-fd", str(blocked), "--", "true"]
    child = subprocess.Popen(arguments, pass_fds=[blocked])
    shell = ["/bin/sh", "-c", SHELL, *arguments]
    made = subprocess.run(shell, pass_fds=[blocked], stdout=subprocess.PIPE, check=True)
    orphan = int(made.stdout.split()[0])
    assert host.wait_until(lambda: {orphan, child.pid} <= set(host.naming(data_dir)))
    yield orphan, child.pid
    os.close(hold)
    os.close(blocked)
    child.kill()
    child.wait()
    if orphan in host.naming(data_dir):
        os.kill(orphan, signal.SIGKILL)
    assert host.wait_until(lambda: not host.naming(data_dir))


def test_orphans_are_ended_and_nobody_else(data_dir: Path, waiting: tuple[int, int]) -> None:
    orphan, child = waiting
    bwrap = preflight.find_bwrap()
    reaper = int(Path(f"/proc/{orphan}/stat").read_text().rpartition(")")[2].split()[1])
    assert orphans.end_orphans(bwrap, data_dir / "other", reaper) == []
    assert orphan in orphans.end_orphans(bwrap, data_dir, reaper)
    assert host.wait_until(lambda: orphan not in host.naming(data_dir))
    assert child in host.naming(data_dir)
    assert child in orphans.end_all(bwrap, data_dir)


def test_the_sentinel_sees_to_it_when_its_server_is_killed(
    data_dir: Path, waiting: tuple[int, int]
) -> None:
    """Ended by a word it does nothing; ended without one, it ends what was left."""
    orphan, child = waiting
    told = {
        orphans.BWRAP: str(preflight.find_bwrap()),
        orphans.DIRECTORY: str(data_dir),
    }
    program = (
        "import os, sys\n"
        "from mulligan.drivers.sentinel import Sentinel\n"
        f"sentinel = Sentinel({orphans.__name__!r}, {told!r})\n"
        "sys.stdin.readline()\n"
        "sentinel.dismiss()\n"
    )
    for kill in (False, True):
        server = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
        assert host.wait_until(lambda it=server.pid: host.descendants(it))
        assert server.stdin is not None
        if kill:
            server.kill()
        else:
            server.stdin.write(b"\n")
        server.stdin.close()
        server.wait()
        if kill:
            assert host.wait_until(lambda: orphan not in host.naming(data_dir))
        else:
            assert orphan in host.naming(data_dir)
    assert child in host.naming(data_dir)
