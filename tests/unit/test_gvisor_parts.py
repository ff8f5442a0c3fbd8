"""The configuration and command line of a gVisor VM, what is asked of runsc, and what holds."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mulligan.drivers.bubblewrap.arguments import VmPlan
from mulligan.drivers.gvisor import runsc
from mulligan.drivers.gvisor.arguments import (
    BUNDLE,
    CAPABILITIES,
    MEMORY,
    RUNSC,
    RunscPlan,
    command,
)
from mulligan.drivers.gvisor.bundle import CONNECTION, MOST_DESCRIPTORS, ROOTFS, config
from mulligan.drivers.gvisor.holding import OWN_MB, by_agent, holding, of_groups
from mulligan.drivers.limits import NO_LIMITS, Limits
from mulligan.errors import ConfigError
from mulligan.guest.kernel import AGENT_CAPABILITIES
from mulligan.guest.root import AGENT, DISK, IMAGE, LAYERS, MOUNT_POINT, WALLS

TOOLS = Path("/root/.tools/python")
PLAIN = VmPlan(
    bwrap=Path("/opt/m/bwrap"),
    python=TOOLS / "bin/python3",
    binds=(Path("/usr"), TOOLS),
    symlinks=(("usr/bin", "/bin"), ("usr/lib", "/lib")),
    environment={"PATH": "/usr/bin", "ODD": "a=b\n--network=host"},
    rootfs=Path("/data/images/host-1/rootfs"),
    agent=Path("/data/images/host-1/agent"),
    etc=Path("/image/etc"),
    layers=Path("/data/layers/f"),
    disk=Path("/data/vms/vm-1/disk"),
    descriptor=17,
    info=19,
    seccomp=9,
    shm_mb=64,
    shares=((Path("/data/packages"), "/packages"),),
    files=((Path("/data/trust"), "/etc/ssl/ca"),),
)
JOBS = replace(PLAIN, disk=None)
STAGED = replace(
    PLAIN,
    run_as=(61000, 61001),
    staged=(TOOLS, Path("/root/go/bin/runsc")),
    stage=Path("/data/stage"),
    setpriv=Path("/usr/bin/setpriv"),
)
INNER = RunscPlan(Path("/opt/runsc"), "systrap", ("--overlay2=none",), 21, 23)


def by_destination(plan: VmPlan) -> dict[str, dict]:
    return {mount["destination"]: mount for mount in config(plan, (1024, 4096))["mounts"]}


@pytest.mark.parametrize("plan", [PLAIN, JOBS, STAGED], ids=["plain", "jobs", "staged"])
def test_one_place_can_be_written_to(plan: VmPlan) -> None:
    mounts = by_destination(plan)
    binds = [mount for mount in mounts.values() if mount["type"] == "bind"]
    written = [each["destination"] for each in binds if "ro" not in each["options"]]
    assert written == [LAYERS if plan.disk is None else DISK]
    assert all({"nosuid", "nodev"} <= set(each["options"]) for each in binds)


def test_it_shows_what_bubblewrap_shows_at_the_same_paths() -> None:
    """Nothing else of where the server keeps things is named in it."""
    mounts = by_destination(PLAIN)
    binds = {name for name, each in mounts.items() if each["type"] == "bind"}
    assert binds == {
        *("/usr", str(TOOLS), "/packages", "/etc/ssl/ca", "/etc"),
        *(IMAGE, AGENT, LAYERS, DISK, WALLS),
    }
    assert all(mounts[name]["source"] == name for name in binds)
    assert "size=67108864" in mounts["/dev/shm"]["options"]
    assert {"nosuid", "noexec"} <= set(mounts["/dev"]["options"])  # the agent makes it read-only
    assert mounts[MOUNT_POINT]["type"] == "tmpfs"
    assert "/data/" not in json.dumps(config(PLAIN, (1024, 4096)))


def test_files_come_after_the_tree_they_are_in() -> None:
    order = list(by_destination(PLAIN))
    assert order.index("/etc/ssl/ca") > order.index("/etc")
    assert order.index("/dev/shm") > order.index("/dev/pts") > order.index("/dev")


def test_the_process_is_the_agent_with_its_rights_alone() -> None:
    described = config(PLAIN, (1024, 4096))
    process = described["process"]
    assert process["args"][:-1] == [str(PLAIN.python), "-I", "-S", "-c"]
    assert process["args"][-1].endswith(f"main({CONNECTION}, [], [], None, {WALLS!r})")
    assert process["user"] == {"uid": 1000, "gid": 1000}
    assert process["env"] == ["PATH=/usr/bin", "ODD=a=b\n--network=host"]
    assert all(each == list(AGENT_CAPABILITIES) for each in process["capabilities"].values())
    assert described["root"] == {"path": ROOTFS, "readonly": True}
    kinds = {each["type"] for each in described["linux"]["namespaces"]}
    assert kinds == {"pid", "network", "ipc", "uts", "mount"}
    assert all("path" not in each for each in described["linux"]["namespaces"])


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ((1024, 4096), (1024, 4096)),
        ((-1, -1), (MOST_DESCRIPTORS,) * 2),
        ((5, 1 << 40), (5, 1 << 20)),
    ],
)
def test_descriptors_are_bounded(asked: tuple[int, int], given: tuple[int, int]) -> None:
    (limit,) = config(PLAIN, asked)["process"]["rlimits"]
    assert (limit["type"], limit["soft"], limit["hard"]) == ("RLIMIT_NOFILE", *given)


def test_the_command_line_is_bubblewraps_and_then_runscs() -> None:
    arguments = command(PLAIN, INNER)
    outer, inner = arguments[: arguments.index(RUNSC)], arguments[arguments.index(RUNSC) :]
    assert outer[0] == "/opt/m/bwrap"
    unshared = {each for each in outer if each.startswith("--unshare-")}
    assert unshared == {f"--unshare-{n}" for n in ("user", "pid", "net", "ipc", "uts", "cgroup")}
    assert {"--die-with-parent", "--new-session", "--clearenv"} <= set(outer)
    given = [outer[n + 1] for n, each in enumerate(outer) if each == "--cap-add"]
    assert given == list(CAPABILITIES)
    inner = arguments[len(arguments) - arguments[::-1].index("--") :]
    assert inner[0] == RUNSC
    assert {"--platform=systrap", "--network=none", "--overlay2=none"} <= set(inner)
    assert inner[-4:] == ["run", "--bundle", BUNDLE, "vm"]
    assert "--seccomp" not in arguments  # it would be around gVisor's kernel


def test_nothing_starts_before_the_gate_opens() -> None:
    arguments = command(PLAIN, INNER)
    assert arguments[arguments.index("--block-fd") + 1] == "23"


def test_kvm_is_shown_to_who_uses_it_alone() -> None:
    assert "/dev/kvm" not in command(PLAIN, INNER)
    assert "/dev/kvm" in command(PLAIN, replace(INNER, platform="kvm"))


def test_memory_is_shown_to_runsc_alone_and_what_is_kept_there_restored() -> None:
    kept = replace(INNER, memory=Path("/data/vms/vm-1/memory"))
    arguments = command(PLAIN, kept)
    at = arguments.index("/data/vms/vm-1/memory")
    assert arguments[at - 1 : at + 2] == ["--bind", "/data/vms/vm-1/memory", MEMORY]
    assert arguments[-4:] == ["run", "--bundle", BUNDLE, "vm"]
    again = command(PLAIN, replace(kept, resumes="3f9c"))
    restore = ["restore", "--image-path", f"{MEMORY}/3f9c"]
    assert again[-6:] == [*restore, "--bundle", BUNDLE, "vm"]
    assert again[:-6] == arguments[:-4]
    assert MEMORY not in command(PLAIN, INNER)
    assert MEMORY not in json.dumps(config(PLAIN, (1024, 4096)))


DEBIANS = """Usage: run [flags] <container id> - create and run a container.

  -bundle string
    \tpath to the root of the bundle directory (default ".")
  -console-socket string
    \tpath to an AF_UNIX socket
  -pid-file string
    \tfilename"""
CURRENT = DEBIANS + "\n  --pass-fd value\n    \tfile descriptor\n  -x86-shadow-stack\n    \tno"


def test_flags_are_read_from_the_help() -> None:
    assert runsc.flags_of(DEBIANS) == {"bundle", "console-socket", "pid-file"}
    assert runsc.flags_of(CURRENT) >= {"pass-fd", "bundle", "x86-shadow-stack"}
    assert runsc.flags_of("") == set()
    assert runsc.known_of({"overlay2", "network"}) == ("--overlay2=none",)


def fake(
    directory: Path,
    monkeypatch,
    *,
    run: str = CURRENT,
    platforms: str = "systrap",
    version: str = "1",
) -> Path:
    """A program called runsc that answers as one does."""
    (directory / "run.txt").write_text(run)
    program = directory / "runsc"
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in --version) echo "runsc version {version}" ;;\n'
        f"flags) echo '  -overlay2 value' ;;\n"
        f'"help platforms") echo {platforms} ;;\n'
        f'"help run") cat {directory}/run.txt >&2 ;;\n'
        "*) echo 'it cannot start here' >&2; exit 128 ;;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return program


def test_what_is_found_is_asked_what_it_can_do(tmp_path, monkeypatch) -> None:
    program = fake(tmp_path, monkeypatch, platforms="kvm ptrace systrap")
    found = runsc.find()
    assert found == runsc.Runsc(program, "runsc version 1", "systrap", ("--overlay2=none",))
    before = found.stamp()
    program.write_text(program.read_text() + "# another\n")
    assert found.stamp() != before


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"run": DEBIANS}, "no --pass-fd"),
        ({"platforms": "kvm"}, "none of the platforms systrap, ptrace, only kvm"),
        ({"platforms": ""}, "only none"),
        ({"version": "0.0~20240729.0"}, "becomes user 0 of its sandbox"),
        ({"version": "release-20260323.0"}, "those from 20260330 on do not"),
    ],
)
def test_what_lacks_something_is_refused(tmp_path, monkeypatch, answers, why: str) -> None:
    fake(tmp_path, monkeypatch, **answers)
    with pytest.raises(ConfigError, match=why) as caught:
        runsc.find()
    assert "go install" in caught.value.remedy


def test_versions_without_a_date_and_of_later_ones_are_taken(tmp_path, monkeypatch) -> None:
    for version in ("VERSION_MISSING", "release-20260330.0", "0.0~20260921.0", "20240101"):
        fake(tmp_path, monkeypatch, version=version)
        assert runsc.find().version == f"runsc version {version}"


def test_none_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="not on PATH"):
        runsc.find()


def test_one_that_does_not_run_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "runsc").write_text("#!/nowhere/at/all\n")
    (tmp_path / "runsc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be run"):
        runsc.find()


def test_one_that_hangs_is_refused(tmp_path, monkeypatch) -> None:
    fake(tmp_path, monkeypatch)

    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("runsc", runsc.ASK_TIMEOUT_S)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(ConfigError, match="timed out"):
        runsc.find()


class NoGroups:
    """Stands for a host without control groups."""

    missing = dict.fromkeys(("memory", "cpu", "pids"), "none here")

    def version(self, controller: str) -> None:
        del controller


class Groups(NoGroups):
    """And for one with the second version."""

    def version(self, controller: str) -> int:
        del controller
        return 2


ASKED = Limits(memory_mb=512, vcpus=1.5, max_processes=100, max_open_files=64, cpu_seconds=9)


def test_processes_are_counted_by_its_own_kernel_whatever_the_host_has() -> None:
    for groups in (NoGroups(), Groups()):
        held = holding(ASKED, groups)["max_processes"]
        assert (held.value, held.held_by) == (100, "rlimit")
    assert holding(NO_LIMITS, Groups())["max_processes"].held_by == "none"
    assert by_agent(ASKED) == {
        "open_files": 64,
        "cpu_seconds": 9,
        "processes": 102,
        "memory": 512 << 20,
        "memory_told": True,
    }


def test_memory_is_the_whole_vms() -> None:
    held = holding(ASKED, Groups())["memory_mb"]
    assert (held.value, held.held_by) == (512, "cgroup-v2")
    assert f"{OWN_MB} MiB" in held.reason
    assert holding(ASKED, NoGroups())["memory_mb"].held_by == "watched"
    assert of_groups(ASKED) == replace(ASKED, memory_mb=512 + OWN_MB, max_processes=0)
    assert of_groups(NO_LIMITS) == NO_LIMITS
