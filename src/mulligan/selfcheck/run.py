"""The run: plants the secret, boots VMs, has probes tried in them and, for the control, outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from mulligan.drivers.qemu.image import lend
from mulligan.engine.engine import Engine
from mulligan.errors import VmExecutionError
from mulligan.images.store import store_of
from mulligan.layers.directories import make_directory, remove_tree
from mulligan.models import VmLimit
from mulligan.selfcheck import outer, output, remains, spies
from mulligan.selfcheck.answers import ANSWERS, AnswerProbe, Asked, LeakedError, MissingError
from mulligan.selfcheck.inside import files, kernel, namespaces, network, processes, runtime
from mulligan.selfcheck.inside import resources as resource_probes
from mulligan.selfcheck.inside.probing import MARK, PROBES, Probe, short
from mulligan.selfcheck.kernels import OF_KERNELS
from mulligan.selfcheck.places import AGENT, ControlPlace, Place, VmPlace, control_user
from mulligan.selfcheck.planted import Planted, plant
from mulligan.selfcheck.verdicts import FAILED, GROUPS, PASSED, SKIPPED, Outcome, Report, Verdict
from mulligan.settings import HistorySettings, HookSettings, Settings, VmType
from mulligan.version import __version__

INSIDE = "mulligan.selfcheck.inside"
MODULES = {
    each.__name__.removeprefix(f"{INSIDE}."): each
    for each in (kernel, namespaces, runtime, network, files, resource_probes, processes)
}
HOST_SIDE = (outer, output, remains, spies)  # importing them registers their probes
NEEDS = {"kernel": ("processes",), "runtime": ("processes",)}  # what else a group's source asks for
# Small enough for a probe to meet each limit in a moment, and large enough for every language.
LIMITS: dict[str, int] = {
    "memory_mb": 384,
    "max_processes": 40,
    "max_open_files": 256,
    "cpu_seconds": 60,
    "shm_mb": 16,
    "disk_mb": 48,
}
# What is not held on a host cannot be tried there.
HELD = {
    "resources.processes": "max_processes",
    "resources.threads": "max_processes",
    "resources.open_files": "max_open_files",
    "resources.more_files": "max_open_files",
    "resources.cpu_limit": "cpu_seconds",
    "resources.shared_memory": "shm_mb",
    "resources.disk": "disk_mb",
    "resources.memory": "memory_mb",
}
# What has to be seen before any probe of resources starts.
FIRST = ("namespaces.pid", "namespaces.mnt", "namespaces.net")
NEIGHBOUR = "selfcheck-neighbour"
LOADER = """\
import json, sys, types
SOURCES = %s
for name, source in SOURCES.items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
asked = json.load(sys.stdin)
sys.modules["mulligan.selfcheck.inside.probing"].main(asked["facts"], asked["wanted"])
"""
AnyProbe = Probe | AnswerProbe
OnVerdict = Callable[[Verdict], None]

# What the host's image has not of the host, or read-only; others have their own.
OF_IMAGES = frozenset(
    f"files.{name}"
    for name in (
        "apt",
        "boot",
        "caches",
        "cron",
        "fstab",
        "logs",
        "media",
        "packages",
        "pam",
        "read_only_python",
        "read_only_usr",
        "root_home",
        "run_lock",
        "shadow",
        "spool",
        "systemd",
        "top",
        "write_elsewhere",
    )
)


def probes(groups: Sequence[str] = ()) -> list[AnyProbe]:
    """All probes, or those of some groups, in the groups' order.

    Raises:
        ValueError: there is no such group; the text names those there are.
    """
    unknown = [each for each in groups if each not in GROUPS]
    if unknown:
        raise ValueError(f"no group {unknown[0]!r}: use one of {', '.join(GROUPS)}")
    everything: list[AnyProbe] = [*PROBES.values(), *ANSWERS.values()]
    wanted = groups or GROUPS
    return [
        each for group in GROUPS if group in wanted for each in everything if _group(each) == group
    ]


def _group(probe: AnyProbe) -> str:
    return probe.id.partition(".")[0]


async def selfcheck(
    settings: Settings,
    groups: Sequence[str] = (),
    *,
    control: bool = False,
    vm_type: str | None = None,
    on_verdict: OnVerdict | None = None,
) -> Report:
    """Tries probes in VMs of an engine of its own, in a directory of its own in the data directory.

    Args:
        settings: of the engine; gates are off, limits are small.
        groups: only these.
        control: tries them outside a VM, too.
        vm_type: whose driver and image VMs have; else those of the default type.
        on_verdict: called with each verdict as it comes (without a control).

    Raises:
        ValueError: no such group.
        VmExecutionError: no VM could be made.
    """
    wanted = probes(groups)
    kind = settings.vm_type(vm_type or settings.default_vm_type)
    make_directory(settings.data_dir)
    directory = settings.data_dir / f"selfcheck-{secrets.token_hex(4)}"
    make_directory(directory)
    lend(settings.data_dir / "images", directory / "images")
    try:
        user = control_user((settings.guest_uid, settings.guest_gid))
        async with Engine(_configured(settings, directory, kind)) as engine:
            with plant(user, directory) as planted:
                driver = engine.drivers.of_type(settings.default_vm_type)
                host = _host(driver.name)
                planted.facts["own_kernel"] = driver.capabilities.own_kernel
                in_vm = await _in_vm(engine, planted, wanted, on_verdict)
                if control:
                    in_vm = await _with_control(planted, user, in_vm, engine)
        return Report(tuple(in_vm), host)
    finally:
        remove_tree(directory)


def _host(driver: str) -> dict[str, str]:
    release = os.uname()
    user = "root" if os.geteuid() == 0 else "an ordinary user"
    return {
        "mulligan": __version__,
        "driver": driver,
        "kernel": f"{release.sysname} {release.release} {release.machine}",
        "user": user,
    }


def _configured(settings: Settings, directory: Path, kind: VmType) -> Settings:
    """As set, but for what would stand in the way of probes, which are no model's code."""
    return settings.model_copy(
        update={
            "data_dir": directory,
            "database_url": None,
            "hooks": HookSettings(enabled=False),
            "history": HistorySettings(snapshot_on_failure=False),
            "max_code_length": 10**6,
            "auto_provision": True,
            "secrets": {},
            "vm_types": {settings.default_vm_type: kind.model_copy(update=LIMITS)},
            "images": settings.images.model_copy(
                update={"directory": store_of(settings).directory}
            ),
        }
    )


def program(modules: Sequence[str]) -> str:
    """The program that runs probes of some modules; it reads facts and names from its input."""
    sources = {}
    for name in ("probing", *modules):
        text = resources.files(INSIDE).joinpath(f"{name}.py").read_text()
        sources[f"{INSIDE}.{name}"] = text
    return LOADER % repr(sources)


async def _in_vm(
    engine: Engine, planted: Planted, wanted: list[AnyProbe], on_verdict: OnVerdict | None
) -> list[Verdict]:
    place = VmPlace(engine)
    await _settle_neighbour(place, planted)
    first = await _inside(place, planted, [PROBES[name] for name in FIRST])
    held = _limits(engine)
    walled = all(outcome.state == PASSED for outcome in first.values())
    verdicts = []
    asked = Asked(place, planted, tuple(engine.languages()), LIMITS)
    for group in GROUPS:
        of_group = [each for each in wanted if _group(each) == group]
        if not of_group:
            continue
        skipped = _not_to_be_tried(of_group, held, walled=walled) | _of_the_image(of_group, engine)
        skipped |= _of_the_kernel(of_group, engine)
        tried = [each for each in of_group if each.id not in skipped]
        outcomes = skipped | await _outcomes(asked, tried)
        for each in of_group:
            verdict = Verdict(each.id, each.tried, each.must, each.outside, outcomes[each.id])
            verdicts.append(verdict)
            if on_verdict is not None:
                on_verdict(verdict)
    return verdicts


def _limits(engine: Engine) -> dict[str, VmLimit]:
    """What holds the limits of the VM that probes run in."""
    (vm,) = engine.list_vms(AGENT)
    return vm.limits or {}


def _not_to_be_tried(
    of_group: list[AnyProbe], held: dict[str, VmLimit], *, walled: bool
) -> dict[str, Outcome]:
    """Probes of resources that nothing would stop: a missing wall is a failure, for all of them."""
    found = {}
    for each in of_group:
        if _group(each) != "resources":
            continue
        if not walled:
            found[each.id] = Outcome(FAILED, "not tried: the VM has no namespaces of its own")
            continue
        limit = held.get(HELD.get(each.id, ""))
        if each.id in HELD and (limit is None or limit.held_by == "none"):
            why = limit.reason if limit is not None else "the VM's record does not say"
            found[each.id] = Outcome(SKIPPED, f"nothing holds {HELD[each.id]} on this host: {why}")
    return found


def _of_the_image(of_group: list[AnyProbe], engine: Engine) -> dict[str, Outcome]:
    """Probes of what an image beside the host's has of its own, and its VMs may write to."""
    (vm,) = engine.fleet.of(AGENT)
    if vm.spec.image.digest is None:
        return {}
    skipped = Outcome(SKIPPED, "of the VM's own image, not of this host")
    return {each.id: skipped for each in of_group if each.id in OF_IMAGES}


def _of_the_kernel(of_group: list[AnyProbe], engine: Engine) -> dict[str, Outcome]:
    """Probes that ask of the host's kernel what a VM's own has no answer to."""
    (vm,) = engine.fleet.of(AGENT)
    why = OF_KERNELS.get(vm.driver.name, {})
    return {each.id: Outcome(SKIPPED, why[each.id]) for each in of_group if each.id in why}


async def _settle_neighbour(place: Place, planted: Planted) -> None:
    """Has another agent's VM write the secret, and finds where that is on the host."""
    name = f"{MARK}neighbour"
    code = f"import sys; open({name!r}, 'w').write(sys.stdin.read())"
    await place.run(code, stdin=planted.secret, agent=NEIGHBOUR)
    found = await asyncio.to_thread(_find, Path(planted.facts["data_dir"]), name)
    planted.facts["neighbour"] = found


def _find(directory: Path, name: str) -> str | None:
    return next((str(path) for path in directory.rglob(name)), None)


async def _outcomes(asked: Asked, tried: list[AnyProbe]) -> dict[str, Outcome]:
    """Of probes of one group."""
    inside = [each for each in tried if isinstance(each, Probe)]
    outcomes = await _inside(asked.place, asked.planted, inside)
    for each in tried:
        if isinstance(each, AnswerProbe):
            outcomes[each.id] = await _answered(asked, each)
    return outcomes


async def _answered(asked: Asked, probe: AnswerProbe) -> Outcome:
    try:
        ok, happened = await probe.run(asked)
    except LeakedError:
        return Outcome(FAILED, "the planted secret came back")
    except MissingError as missing:
        return Outcome(SKIPPED, str(missing))
    except VmExecutionError as error:
        return Outcome(FAILED, f"the VM failed: {short(error)}")
    return Outcome(PASSED if ok else FAILED, happened)


async def _inside(place: Place, planted: Planted, wanted: list[Probe]) -> dict[str, Outcome]:
    """Runs probes of one group in one program; one that says nothing has failed."""
    if not wanted:
        return {}
    group = _group(wanted[0])
    facts = planted.facts | {
        "limits": LIMITS,
        "outside": place.outside,
        "own_kernel": planted.facts["own_kernel"] and not place.outside,
        "agent": planted.facts["target"][0] if place.outside else 1,
    }
    said = json.dumps({"facts": facts, "wanted": [each.id for each in wanted]})
    answer = await place.run(program((*NEEDS.get(group, ()), group)), stdin=said)
    outcomes = dict(_read(answer.text))
    lost = Outcome(
        FAILED, f"nothing was said of it: {short(answer.stderr[-200:]) or answer.outcome}"
    )
    leaked = Outcome(FAILED, "the planted secret came back")
    found = {each.id: outcomes.get(each.id, lost) for each in wanted}
    if planted.leaked(answer.text + answer.stderr):
        guilty = {name for name, each in found.items() if planted.leaked(each.happened)}
        found |= dict.fromkeys(guilty or found, leaked)
    return found


def _read(text: str) -> Iterator[tuple[str, Outcome]]:
    """The lines of JSON that probes print; what is none of them is left out."""
    for line in text.splitlines():
        with contextlib.suppress(ValueError, TypeError):
            name, ok, happened = json.loads(line)
            if isinstance(name, str) and isinstance(ok, bool):
                yield name, Outcome(PASSED if ok else FAILED, str(happened))


# The control


async def _with_control(
    planted: Planted, user: tuple[int, int] | None, in_vm: list[Verdict], engine: Engine
) -> list[Verdict]:
    """The same verdicts, with what the same probes did outside a VM."""
    with _own_directory(user) as directory:
        place = ControlPlace(user, directory)
        asked = Asked(place, planted, tuple(engine.languages()), LIMITS)
        found: dict[str, Outcome] = {}
        for group in GROUPS:
            tried: list[AnyProbe] = []
            for each in in_vm:
                if each.group == group:
                    if each.outside == "untried" or each.vm.state == SKIPPED:
                        found[each.id] = Outcome(SKIPPED, "not tried outside a VM")
                    else:
                        tried.append(PROBES.get(each.id) or ANSWERS[each.id])
            found |= await _outcomes(asked, tried)
    return [replace(each, control=found[each.id]) for each in in_vm]


@contextlib.contextmanager
def _own_directory(user: tuple[int, int] | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mulligan-selfcheck-control-") as name:
        directory = Path(name)
        if user is not None:
            os.chown(directory, *user)
        yield directory
