"""`mulligan selfcheck`: green as root and as an ordinary user, red where a wall is missing."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from mulligan import settings as settings_module
from mulligan.cli.app import app
from mulligan.drivers.bubblewrap import arguments, seccomp
from mulligan.drivers.gvisor import runsc
from mulligan.drivers.qemu import image
from mulligan.engine import engine as engine_module
from mulligan.errors import ConfigError
from mulligan.images.host import prepare
from mulligan.selfcheck import report as reports
from mulligan.selfcheck.inside.probing import PROBES
from mulligan.selfcheck.kernels import OF_KERNELS
from mulligan.selfcheck.run import FIRST, HELD, MODULES, probes, program, selfcheck
from mulligan.selfcheck.verdicts import FAILED, GROUPS, PASSED, SKIPPED, Outcome, Report
from support import host, microvm

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
LANGUAGES = {f"runtime.language_{name}" for name in ("javascript", "bash", "rust")}
FEWEST = 100  # probes that tell a VM from none
ORDINARY = 61500
try:
    runsc.find()
    MISSING = None
except ConfigError as missing:
    MISSING = f"{missing.detail}: {missing.remedy}"
ALLOW = bytes.fromhex("060000000000ff7f")  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


def planted_things() -> set[str]:
    """What a run may have left in the places it plants its secret."""
    found = {str(p) for d in ("/tmp", "/dev/shm") for p in Path(d).glob("mulligan-selfcheck-*")}
    for kind in ("shm", "sem", "msg"):
        lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
        found |= {f"{kind} {line.split()[1]}" for line in lines}
    return found | {
        line for line in Path("/proc/keys").read_text().splitlines() if "selfche" in line
    }


async def check(
    groups: tuple[str, ...] = (),
    *,
    control: bool = False,
    driver: str = "bubblewrap",
    images: Path | None = None,
) -> Report:
    """A run of its own, after which nothing is left but the images it was lent."""
    before, things, env = host.descendants(os.getpid()), planted_things(), dict(os.environ)
    open_before = host.descriptors()
    with host.data_directory() as directory:
        if images is not None:
            image.lend(images, directory / "images")
        before_it = list(directory.iterdir())
        settings = settings_module.load(data_dir=directory, driver=driver)
        report = await selfcheck(settings, groups, control=control)
        assert list(directory.iterdir()) == before_it
    assert not host.descendants(os.getpid()) - before
    assert not {each for each in planted_things() - things if not revoked(each)}
    assert dict(os.environ) == env
    assert host.descriptors() <= open_before
    return report


def revoked(thing: str) -> bool:
    """Keys that were revoked are listed until the kernel's collector has been."""
    return "selfche" in thing and thing.split()[1].startswith("I") and "R" in thing.split()[1]


@pytest.fixture(scope="module")
async def controlled() -> Report:
    """One run of everything with its control."""
    return await check(control=True)


def states(report: Report, state: str) -> dict[str, str]:
    return {each.id: each.vm.happened for each in report.verdicts if each.vm.state == state}


async def test_everything_passes(controlled: Report) -> None:
    assert states(controlled, FAILED) == {}
    assert states(controlled, SKIPPED).keys() <= {*LANGUAGES, *HELD}
    assert controlled.good
    assert [each.id for each in controlled.verdicts] == [each.id for each in probes()]
    assert {each.group for each in controlled.verdicts} == set(GROUPS)


async def test_every_probe_passes_in_gvisor_or_says_why_it_is_not_tried() -> None:
    if MISSING is not None:
        pytest.skip(MISSING)
    report = await check(driver="gvisor")
    assert states(report, FAILED) == {}
    assert states(report, SKIPPED).keys() <= {*OF_KERNELS["gvisor"], *HELD, *LANGUAGES}
    assert report.host["driver"] == "gvisor"


@pytest.mark.long
async def test_every_probe_passes_in_a_microvm() -> None:
    found = microvm.images()
    if isinstance(found, str):
        pytest.skip(found)
    report = await check(driver="qemu", images=found)
    assert states(report, FAILED) == {}
    assert states(report, SKIPPED).keys() <= {*HELD, *LANGUAGES}
    assert report.host["driver"] == "qemu"


async def test_drivers_side_by_side(controlled: Report) -> None:
    """Only what differs is in it, each with what every driver did."""
    first, *others = controlled.verdicts
    changed = replace(first, vm=Outcome(SKIPPED, "no | such thing"))
    other = Report((changed, *others), controlled.host | {"driver": "other"})
    table = reports.side_by_side([controlled, other])
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == 1
    assert rows[0].endswith("| not tried: no \\| such thing |")
    assert "| Network | 28 of 28 | 28 of 28 |" in table


async def test_most_of_it_fails_without_a_vm(controlled: Report) -> None:
    """As each probe says of itself; what passes outside as well is not counted."""
    surprises = {}
    for each in controlled.verdicts:
        assert each.control is not None
        wanted = {"fails": FAILED, "passes": PASSED, "untried": SKIPPED}.get(each.outside)
        if each.vm.state != SKIPPED and wanted not in (None, each.control.state):
            surprises[each.id] = each.control
        assert each.proves is (
            None if each.control.state == SKIPPED else each.control.state == FAILED
        )
    assert surprises == {}
    assert controlled.proving >= FEWEST
    assert not controlled.control_failed
    assert controlled.proving == sum(each.proves is True for each in controlled.verdicts)


async def test_the_secret_is_met_outside(controlled: Report) -> None:
    """Else nobody would know whether probes that read can see it at all."""
    met = {each.id for each in controlled.verdicts if "the planted secret" in each.control.happened}
    assert met >= {
        "files.planted_tmp",
        "network.host_v4",
        "network.host_udp",
        "network.abstract",
        "network.path",
        "processes.command_lines",
        "processes.environments",
        "processes.own_environment",
        "runtime.inherited_read",
        "runtime.language_bash",
        "runtime.live_interpreter",
        "files.neighbour",
    }
    assert not {each.id for each in controlled.verdicts if "the planted secret" in each.vm.happened}


async def test_json_and_markdown(controlled: Report) -> None:
    said = json.loads(json.dumps(reports.as_json(controlled)))
    schema = reports.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(said)
    assert said["proving"] == controlled.proving
    assert said["passed"] + said["failed"] + said["skipped"] == len(said["probes"])
    lines = reports.markdown(controlled).splitlines()
    for each in controlled.verdicts:
        (line,) = [line for line in lines if line.startswith(f"| `{each.id}` |")]
        assert line.replace("\\|", "").count("|") == 7, line


def test_the_page_has_every_probe() -> None:
    text = PAGE.read_text()
    table = text.split("<!-- selfcheck:begin -->")[1].split("<!-- selfcheck:end -->")[0]
    shown = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert shown == [each.id for each in probes()], "run `make selfcheck`"
    assert " 0 failed" in table


def test_probes_are_told_apart() -> None:
    everything = probes()
    assert len(everything) == len({each.id for each in everything})
    assert {each.outside for each in everything} <= {"fails", "depends", "passes", "untried"}
    assert set(HELD) <= {each.id for each in everything}
    assert set(FIRST) <= set(PROBES)
    with pytest.raises(ValueError, match="no group 'nothing': use one of kernel"):
        probes(["nothing"])


@pytest.mark.parametrize("name", MODULES)
def test_what_is_sent_is_a_program(name: str) -> None:
    compile(program([name]), name, "exec")


def without(*dropped: str):
    """The driver's walls, but for some."""
    whole = arguments._walls()
    assert set(dropped) <= set(whole)
    return lambda: [each for each in whole if each not in dropped]


async def test_a_driver_without_a_network_namespace(monkeypatch) -> None:
    monkeypatch.setattr(arguments, "_walls", without("--unshare-net"))
    report = await check(("namespaces", "network", "resources"))
    failed = states(report, FAILED)
    assert failed.keys() >= {"namespaces.net", "network.host_v4", "network.tcp_table"}
    assert "the planted secret" in failed["network.host_v4"]
    assert "the planted secret" in failed["network.abstract"]
    # No probe of resources starts where a wall is missing.
    for each in report.verdicts:
        if each.group == "resources":
            assert each.vm.state == FAILED, each
            assert each.vm.happened.startswith("not tried: "), each
    assert not report.good
    rest = {name for name in failed if not name.startswith(("network.", "resources."))}
    assert rest == {"namespaces.net", "namespaces.around"}


@pytest.mark.long
async def test_a_driver_without_an_ipc_namespace(monkeypatch) -> None:
    monkeypatch.setattr(arguments, "_walls", without("--unshare-ipc"))
    report = await check(("namespaces", "processes"))
    failed = states(report, FAILED)
    kinds = {"shared_memory", "semaphores", "messages", "list_shm", "list_sem", "list_msg"}
    assert failed.keys() >= {"namespaces.ipc", *(f"processes.{kind}" for kind in kinds)}
    assert failed.keys() <= {
        "namespaces.around",
        "namespaces.ipc",
        "processes.posix_queue",
        *(f"processes.{kind}" for kind in kinds),
    }
    assert "the planted secret" in failed["processes.shared_memory"]


@pytest.mark.long
async def test_a_driver_without_its_filter_of_system_calls(monkeypatch) -> None:
    monkeypatch.setattr(seccomp, "program", lambda machine: ALLOW)
    report = await check(("kernel",))
    failed = states(report, FAILED)
    assert failed.keys() >= {"kernel.add_key", "kernel.request_key", "kernel.perf_event_open"}
    assert "kernel.sys_kernel" not in failed


@pytest.mark.long
async def test_a_driver_that_shows_a_directory_of_the_host(monkeypatch) -> None:
    def careless(*given):
        image = prepare(*given)
        return replace(image, binds=(*image.binds, Path("/tmp")))

    monkeypatch.setattr(engine_module, "prepare", careless)
    failed = states(await check(("files", "network")), FAILED)
    met = {each for each in failed if "the planted secret" in failed[each]}
    assert met >= {"files.planted_tmp", "files.own_root", "files.own_cwd", "network.path"}
    assert not {"files.planted_shm", "network.abstract", "files.shadow"} & set(failed)


def cli(directory: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["selfcheck", *words, "--data-dir", str(directory)])
    assert done.exit_code in (0, 1), done.stderr
    return done.exit_code, done.stdout


def test_the_command(data_dir: Path, monkeypatch) -> None:
    code, said = cli(data_dir, "--group", "network", "--json")
    assert code == 0
    assert {each["group"] for each in json.loads(said)["probes"]} == {"network"}
    monkeypatch.setattr(arguments, "_walls", without("--unshare-net"))
    code, said = cli(data_dir, "--group", "network")
    assert code == 1
    assert "FAIL network.host_v4 " in said
    assert "must be: nobody there" in said


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="this run is an ordinary user's already")
def test_as_an_ordinary_user() -> None:
    python = host.python_for(ORDINARY)
    if python is None:
        pytest.skip("no Python of this version that an ordinary user could start")
    with host.data_directory() as directory:
        os.chown(directory, ORDINARY, ORDINARY)
        done = subprocess.run(
            [python, "-c", "from mulligan.cli.app import main; main()", "selfcheck", "--json"],
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "HOME": str(directory),
                "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
                "MULLIGAN_DATA_DIR": str(directory / "data"),
            },
            cwd="/",
            user=ORDINARY,
            group=ORDINARY,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert not done.stderr
    said = json.loads(done.stdout)
    assert {each["id"]: each for each in said["probes"] if each["state"] == FAILED} == {}
    assert done.returncode == 0
    assert said["host"]["user"] == "an ordinary user"
    assert said["passed"] >= FEWEST
