"""The command line of a VM: its walls, what it shows, and that nothing else gets in."""

from dataclasses import replace
from pathlib import Path

import pytest

from mulligan.drivers.bubblewrap.arguments import VmPlan, command
from mulligan.guest.kernel import AGENT_CAPABILITIES
from mulligan.guest.root import AGENT, DISK, IMAGE, LAYERS

TOOLS = Path("/root/.tools/python")
OTHER_TOOLS = Path("/root/.tools/rust")
PLAIN = VmPlan(
    bwrap=Path("/opt/m/bwrap"),
    python=TOOLS / "bin/python3",
    binds=(Path("/usr"), TOOLS, OTHER_TOOLS),
    symlinks=(("usr/bin", "/bin"), ("usr/lib", "/lib")),
    environment={"PATH": "/usr/bin", "HOME": "/home/agent", "ODD": "--bind / /"},
    rootfs=Path("/data/images/host-1/rootfs"),
    etc=Path("/data/images/host-1/rootfs/etc"),
    agent=Path("/data/images/host-1/agent"),
    layers=Path("/data/layers/f"),
    disk=Path("/data/vms/vm-1/disk"),
    descriptor=17,
    info=19,
    seccomp=9,
)
AS_ROOT = replace(PLAIN, run_as=(61000, 61001))
STAGED = replace(
    AS_ROOT,
    staged=(TOOLS, OTHER_TOOLS),
    stage=Path("/data/stage"),
    setpriv=Path("/usr/bin/setpriv"),
)
every_plan = pytest.mark.parametrize(
    "plan", [PLAIN, AS_ROOT, STAGED], ids=["plain", "as_root", "staged"]
)
ARITY = {
    "--setenv": 2,
    "--bind": 2,
    "--ro-bind": 2,
    "--symlink": 2,
    "--dev-bind": 2,
} | dict.fromkeys(
    ["--uid", "--gid", "--hostname", "--cap-drop", "--cap-add", "--proc", "--dev", "--tmpfs"]
    + ["--remount-ro", "--chdir", "--info-fd", "--seccomp", "--size"],
    1,
)


def parsed(arguments: list[str]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Options with their operands as bubblewrap reads them, and the program behind ``--``."""
    options, rest = [], arguments
    while rest[0] != "--":
        count = 1 + ARITY.get(rest[0], 0)
        assert rest[0].startswith("--"), rest[0]
        options.append(tuple(rest[:count]))
        rest = rest[count:]
    return options, rest[1:]


def outer(plan: VmPlan) -> tuple[list[tuple[str, ...]], list[str]]:
    """The first bubblewrap's options and what it starts."""
    program, *arguments = command(plan)
    assert program == str(plan.bwrap)
    return parsed(arguments)


def inner(plan: VmPlan) -> tuple[list[tuple[str, ...]], list[str]]:
    """The options of the bubblewrap that makes the VM, and what it starts."""
    options, program = outer(plan)
    if not plan.staged:
        return options, program
    start = program.index(str(plan.bwrap))
    return parsed(program[start + 1 :])


def operands(options: list[tuple[str, ...]], name: str) -> list[tuple[str, ...]]:
    return [rest for option, *rest in map(list, options) if option == name]


@every_plan
def test_pure(plan: VmPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same plan gives the same list, wherever and whoever one is, and a list of its own."""
    first = command(plan)
    copy = list(first)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MULLIGAN_CANARY", "canary")
    monkeypatch.setenv("PATH", "/canary")
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert command(plan) == first
    first.clear()
    assert command(replace(plan)) == copy
    assert "canary" not in " ".join(copy).lower()


@every_plan
@pytest.mark.parametrize(
    "wall",
    [f"--unshare-{name}" for name in ("user", "pid", "net", "ipc", "uts", "cgroup")]
    + ["--disable-userns", "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"],
)
def test_walls(plan: VmPlan, wall: str) -> None:
    assert inner(plan)[0].count((wall,)) == 1


@every_plan
def test_nothing_but_the_disk_can_be_written(plan: VmPlan) -> None:
    options, _ = inner(plan)
    assert operands(options, "--bind") == [["/data/vms/vm-1/disk", DISK]]
    mounting = {name for name, *_ in options if "bind" in name or "overlay" in name}
    assert mounting == {"--bind", "--ro-bind"}
    assert not any("share-net" in name and name != "--unshare-net" for name, *_ in options)


@every_plan
def test_what_is_shown(plan: VmPlan) -> None:
    options, _ = inner(plan)
    shown = {target: source for source, target in operands(options, "--ro-bind")}
    assert set(shown) == {"/usr", str(TOOLS), str(OTHER_TOOLS), IMAGE, AGENT, LAYERS, "/etc"}
    assert shown["/usr"] == "/usr"
    assert (shown[IMAGE], shown[AGENT]) == (str(plan.rootfs), str(plan.agent))
    staged = [shown[str(path)] for path in (TOOLS, OTHER_TOOLS)]
    expected = ["/data/stage/0", "/data/stage/1"] if plan.staged else [str(TOOLS), str(OTHER_TOOLS)]
    assert staged == expected
    assert operands(options, "--symlink") == [["usr/bin", "/bin"], ["usr/lib", "/lib"]]
    assert ("--remount-ro", "/dev") in options


@every_plan
def test_the_environment_is_the_plans(plan: VmPlan) -> None:
    options, _ = inner(plan)
    names = [name for name, *_ in options]
    assert names.index("--clearenv") < names.index("--setenv")
    assert [tuple(pair) for pair in operands(options, "--setenv")] == list(plan.environment.items())


@every_plan
def test_rights(plan: VmPlan) -> None:
    options, _ = inner(plan)
    rights = [option for option in options if option[0].startswith("--cap-")]
    assert rights[0] == ("--cap-drop", "ALL")
    assert rights[1:] == [("--cap-add", name) for name in AGENT_CAPABILITIES]
    assert [*operands(options, "--uid"), *operands(options, "--gid")] == [["1000"], ["1000"]]


@every_plan
def test_the_program_is_the_agent(plan: VmPlan) -> None:
    options, program = inner(plan)
    assert operands(options, "--info-fd") == [["19"]]
    assert program[:-1] == [str(plan.python), "-I", "-S", "-c"]
    assert program[-1].endswith("main(17, [], [], None)")


@pytest.mark.parametrize("plan", [PLAIN, AS_ROOT], ids=["plain", "as_root"])
def test_without_staging_there_is_one_bubblewrap(plan: VmPlan) -> None:
    """Who becomes another user then does it before it starts the command."""
    assert command(plan) == command(PLAIN)
    assert command(plan).count(str(plan.bwrap)) == 1
    assert not any("setpriv" in part for part in command(plan))


def test_staging_shows_and_then_gives_up_root() -> None:
    options, program = outer(STAGED)
    assert options == [
        ("--die-with-parent",),
        ("--dev-bind", "/", "/"),
        ("--tmpfs", "/data/stage"),
        ("--ro-bind", str(TOOLS), "/data/stage/0"),
        ("--ro-bind", str(OTHER_TOOLS), "/data/stage/1"),
    ]
    identity = ["--reuid", "61000", "--regid", "61001", "--clear-groups", "--"]
    assert program[:8] == ["/usr/bin/setpriv", *identity, str(STAGED.bwrap)]
    assert command(STAGED).count(str(STAGED.bwrap)) == 2
