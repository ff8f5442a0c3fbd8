"""Finding control groups, what is written into them, and groups as the kernel has them."""

import os
import subprocess
from pathlib import Path

import pytest

from mulligan.drivers.bubblewrap.holding import holding
from mulligan.drivers.cgroups import Cgroups, VmGroups
from mulligan.drivers.cgroups.bases import Base, find, present
from mulligan.drivers.cgroups.hierarchies import Hierarchy, hierarchies
from mulligan.drivers.cgroups.values import (
    AGENT,
    PROGRAMS,
    RESERVE_MB,
    RESERVE_PROCESSES,
    VM,
    counted,
    values,
)
from mulligan.drivers.limits import Limits, Strain

SYSTEMD = (
    "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    "31 24 0:27 / /proc rw - proc proc rw\n"
)
FIRST = (
    "40 39 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "41 39 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "42 39 0:32 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"
    "43 39 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
)
CONTAINER = "50 49 0:40 /docker/ab /sys/fs/cgroup/pids\\040x ro - cgroup cgroup rw,pids\n"


@pytest.mark.parametrize(
    ("mountinfo", "membership", "expected"),
    [
        ("", "0::/\n", []),
        ("nonsense\n1 2 - \n - cgroup\n", "0::/\nnonsense\n", []),
        (
            SYSTEMD,
            "0::/user.slice/user-1000.slice/run-1.scope\n",
            [(2, set(), "/sys/fs/cgroup", "/sys/fs/cgroup/user.slice/user-1000.slice/run-1.scope")],
        ),
        (
            FIRST,
            "9:name=systemd:/\n4:memory:/jobs/7\n1:cpu,cpuacct:/\n0::/\n",
            [
                (1, {"memory"}, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/jobs/7"),
                (1, {"cpu"}, "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            ],
        ),
        (
            CONTAINER,
            "8:pids:/docker/ab/inner\n",
            [(1, {"pids"}, "/sys/fs/cgroup/pids x", "/sys/fs/cgroup/pids x/inner")],
        ),
        (CONTAINER, "8:pids:/other\n", [(1, {"pids"}, "/sys/fs/cgroup/pids x", None)]),
        (SYSTEMD, "0::/../outside\n", [(2, set(), "/sys/fs/cgroup", None)]),
        (FIRST + SYSTEMD, "4:memory:/\n1:cpu,cpuacct:/\n0::/a\n", [1, 1, 2]),
    ],
)
def test_where_groups_are(mountinfo: str, membership: str, expected: list) -> None:
    found = hierarchies(mountinfo, membership)
    if expected and isinstance(expected[0], int):
        assert [each.version for each in found] == expected
        return
    assert found == [
        Hierarchy(version, frozenset(controllers), Path(mount), Path(own) if own else None)
        for version, controllers, mount, own in expected
    ]


ASKED = Limits(memory_mb=128, vcpus=1.5, cpu_weight=50, max_processes=64)
MIB = 1024 * 1024


def written(limits: Limits, version: int) -> dict[str, str]:
    return {f"{each.group}/{each.file}": each.text for each in values(limits, version)}


def test_what_is_written_into_groups_of_version_1() -> None:
    assert written(ASKED, 1) == {
        f"{VM}/memory.limit_in_bytes": str((128 + RESERVE_MB) * MIB),
        f"{VM}/memory.memsw.limit_in_bytes": str((128 + RESERVE_MB) * MIB),
        f"{PROGRAMS}/memory.limit_in_bytes": str(128 * MIB),
        f"{PROGRAMS}/memory.memsw.limit_in_bytes": str(128 * MIB),
        f"{VM}/pids.max": str(65 + RESERVE_PROCESSES),
        f"{PROGRAMS}/pids.max": "65",
        f"{VM}/cpu.shares": "512",
        f"{AGENT}/cpu.shares": "10240",
        f"{PROGRAMS}/cpu.cfs_period_us": "100000",
        f"{PROGRAMS}/cpu.cfs_quota_us": "150000",
    }


def test_what_is_written_into_groups_of_version_2() -> None:
    assert written(ASKED, 2) == {
        f"{VM}/memory.max": str((128 + RESERVE_MB) * MIB),
        f"{VM}/memory.swap.max": "0",
        f"{PROGRAMS}/memory.max": str(128 * MIB),
        f"{PROGRAMS}/memory.swap.max": "0",
        f"{VM}/pids.max": str(65 + RESERVE_PROCESSES),
        f"{PROGRAMS}/pids.max": "65",
        f"{VM}/cpu.weight": "50",
        f"{AGENT}/cpu.weight": "1000",
        f"{PROGRAMS}/cpu.max": "150000 100000",
    }


@pytest.mark.parametrize(("weight", "shares"), [(1, "10"), (100, "1024"), (10_000, "102400")])
def test_weights_as_shares(weight: int, shares: str) -> None:
    assert written(Limits(cpu_weight=weight), 1)[f"{VM}/cpu.shares"] == shares


@pytest.mark.parametrize("version", [1, 2])
def test_without_limits_only_the_agent_is_favoured(version: int) -> None:
    assert [each.group for each in values(Limits(), version)] == [AGENT]


@pytest.mark.parametrize(
    ("text", "number"),
    [("oom_kill 3\n", 3), ("max 1\noom_kill 7", 7), ("", 0), ("oom_kill\n", 0), ("oom_kill x", 0)],
)
def test_counting(text: str, number: int) -> None:
    assert counted(text, "oom_kill") == number


def test_strain_is_what_came_since() -> None:
    assert Strain(5, 2).since(Strain(3, 2)) == Strain(2, 0)


def test_why_nothing_holds_is_said(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("cgroup.procs", "cgroup.events"):
        (own / name).write_text("1\n2\n")
    (tmp_path / "cgroup.events").touch()
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory\n")
    bases, why = find([Hierarchy(2, frozenset(), tmp_path, own)], "mulligan-x")
    assert bases == []
    assert "is not delegated to this process; start the server" in why["memory"]
    assert "no cgroup controller" in why["pids"]
    groups = Cgroups(tmp_path, [])
    held = holding(ASKED, groups)
    assert (held["vcpus"].held_by, held["vcpus"].value) == ("none", ASKED.vcpus)
    assert (held["memory_mb"].held_by, held["memory_mb"].value) == ("watched", 128)
    for name in ("vcpus", "memory_mb"):
        assert "no cgroup controller" in (held[name].reason or "")
    assert held["cpu_seconds"].reason is None
    assert groups.create("vm-1", ASKED) is None


def _second() -> Path | None:
    """Where version 2 is mounted and groups can be made in, if it is."""
    for each in present():
        if each.version == 2 and each.own is not None and os.access(each.own, os.W_OK):
            return each.own
    return None


@pytest.mark.skipif(_second() is None, reason="no cgroup v2 that may be written to")
def test_groups_of_version_2_by_its_kernel(tmp_path: Path) -> None:
    """Without controllers, which may be bound to version 1; how processes get in is the same."""
    parent = _second()
    assert parent is not None
    home = f"mulligan-{tmp_path.stat().st_ino:x}"
    groups = VmGroups("vm-1.1", [Base(2, frozenset(), parent)], home, Limits())
    entry = groups.programs[0]
    inside = f"import os; os.write({entry}, b'0'); print(open('/proc/self/cgroup').read())"
    said = subprocess.run(
        ["python3", "-c", inside],
        pass_fds=groups.programs,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert f"/{home}/vm-1.1/programs\n" in said
    assert not groups.holds(os.getpid())
    assert groups.strain() == Strain()
    assert groups.remove()
    assert not (parent / home).exists()
