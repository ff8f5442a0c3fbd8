"""Building a set of packages, in a VM of its own whose only way out is the configured index."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uv

from mulligan.drivers.interface import BootSpec, Driver
from mulligan.engine.vms.disk import disk_size
from mulligan.engine.vms.limits import limits_of
from mulligan.engine.vms.program import Program
from mulligan.engine.vms.quota import Bounds
from mulligan.engine.vms.replies import ProgramResult
from mulligan.engine.vms.state import VmState
from mulligan.engine.vms.store import Stores, VmRecord, VmStore, new_id
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ExecutionFailed, RequirementsRefused
from mulligan.guest.root import DISK
from mulligan.images.host import PACKAGES, WORKSPACE, HostImage
from mulligan.layers.directories import make_directory, remove_tree
from mulligan.models import utc_now
from mulligan.models.packages import Package
from mulligan.packages import inside
from mulligan.packages.indexes import Sources
from mulligan.settings import Settings

if TYPE_CHECKING:
    from mulligan.packages.gate import Gate

NOBODY = ""  # no agent is called so
TOOLS = "/mnt"  # as inside.GATE and inside.UV have it
OUTPUT_LIMIT = 4 * 1024 * 1024
MOST_PACKAGES = 10_000
MOST_SAID = 2000
MIB = 1024 * 1024
STEPS = {
    "preparing": "preparing",
    "resolving": "finding the versions",
    "installing": "fetching and installing",
    "compiling": "compiling",
}
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_FRAME = re.compile("[\u00d7\u2500-\u257f\u25b6]+")
_NAME = re.compile(r"[A-Za-z0-9@][A-Za-z0-9@/._~+-]{0,213}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,127}")
_HASH = re.compile(r"[a-z0-9]{3,10}[:-][A-Za-z0-9+/=]{16,200}")
NOISE = ("npm notice", "A complete log of this run", "For a full report see")
CONFLICTS = ("No solution found", "ERESOLVE", "E404", "ETARGET", "not found in the registry")


@dataclass(frozen=True)
class Order:
    """What is to be built.

    Attributes:
        image: whose interpreter the packages are for, and what the builder is of.
        set_id: of the set to be; its place in VMs is made of it.
        language: "python" or "javascript".
        requirements: checked.
        program: the interpreter, or the command that runs npm.
        sources: what may be asked.
        builds: whether code of packages may run to make them.
    """

    image: HostImage
    set_id: str
    language: str
    requirements: list[str]
    program: list[str]
    sources: Sources
    builds: bool

    def task(self) -> dict[str, object]:
        """What ``inside`` reads."""
        return {
            "language": self.language,
            "requirements": self.requirements,
            "program": self.program[0] if self.language == "python" else self.program,
            "target": f"{PACKAGES}/{self.set_id}",
            "work": WORKSPACE,
            "indexes": len(self.sources.indexes),
            "links": len(self.sources.links),
            "strategy": self.sources.strategy,
            "builds": self.builds,
        }


@dataclass(frozen=True)
class Built:
    """What came of it.

    Attributes:
        packages: what was resolved, by name.
        size_bytes: what the tree takes.
        tree: where it is, for as long as the builder's disk is kept.
    """

    packages: list[Package]
    size_bytes: int
    tree: Path


class Builder:
    """Makes VMs that build. A VM and its disk are gone when its context is left.

    Args:
        settings: bounds of builders; they are of the default VM type.
        driver: as for the VMs of users.
        stores: those of users; builders have a directory of VMs of their own.
        directory: for their disks.
    """

    def __init__(self, settings: Settings, driver: Driver, stores: Stores, directory: Path) -> None:
        self._settings = settings
        self._driver = driver
        self._directory = directory
        vms = VmStore(directory / "vms", driver.disk_owner())
        self._stores = Stores(vms, stores.layers)

    async def build(
        self,
        order: Order,
        progress: Callable[[str], None],
        take: Callable[[Built], object],
    ) -> None:
        """Builds a set.

        Args:
            order: what.
            progress: told in a few words what is under way.
            take: called in a thread with what was built, which it moves away.

        Raises:
            RequirementsRefused: they cannot be had; the text is what the resolver said.
            ExecutionFailed: the index cannot be reached, or the builder failed.
            ConfigError: this host cannot boot it.
        """
        # It brings an HTTP client along, which most engines never need.
        from mulligan.packages.gate import Gate  # noqa: PLC0415

        record = VmRecord(
            id=new_id("builder"),
            name="builder",
            agent_id=NOBODY,
            vm_type=self._settings.default_vm_type,
            driver=self._driver.name,
            created_at=utc_now(),
            image=order.image.digest,
        )
        tools = self._directory / f"{record.id}.tools"
        state = await asyncio.to_thread(self._stores.vms.create, record)
        vm = self._vm(record, tools, state, order.image)
        try:
            await asyncio.to_thread(self._lay_tools, tools)
            gate = Gate(
                order.sources,
                tools / "gate",
                self._driver.disk_owner(),
                most_bytes=self._settings.packages.max_set_mb * MIB,
            )
            async with gate:
                built = await self._run(vm, order, progress, gate)
            await vm.close()
            await asyncio.to_thread(take, built)
        finally:
            await asyncio.shield(asyncio.create_task(self._leave(vm, tools)))

    def _vm(self, record: VmRecord, tools: Path, state: VmState, image: HostImage) -> Vm:
        limits = limits_of(self._settings, record)
        spec = BootSpec(
            vm_id=record.id,
            image=image,
            layers=self._stores.layers.family(NOBODY),
            disk=self._stores.vms.disk(record.id),
            limits=limits,
            limits_required=self._settings.limits_required,
            shares=((tools, TOOLS),),
        )
        most = self._settings.packages.max_set_mb * MIB
        bounds = Bounds(self._settings.data_dir, most, self._settings.min_free_mb)
        timeout = self._settings.boot_timeout_seconds
        return Vm(record, state, self._driver, spec, self._stores, timeout, bounds)

    def _lay_tools(self, tools: Path) -> None:
        """What a builder is shown beside its image: uv, as a file of its own."""
        make_directory(tools)
        target = tools / "uv"
        shutil.copyfile(uv.find_uv_bin(), target)
        target.chmod(0o755)

    async def _leave(self, vm: Vm, tools: Path) -> None:
        await vm.close()
        await asyncio.to_thread(self._stores.vms.delete, vm.record.id)
        await asyncio.to_thread(_remove, tools)

    async def _run(
        self, vm: Vm, order: Order, progress: Callable[[str], None], gate: Gate
    ) -> Built:
        program = Program(
            runtime="exec",
            steps=[[str(order.image.toolchains["python"].program), "-I", "/run/mulligan/main.py"]],
            files={"main.py": await asyncio.to_thread(_inside)},
            env={},
            cwd=WORKSPACE,
            timeout_ms=self._settings.packages.build_timeout_seconds * 1000,
            output_limit=OUTPUT_LIMIT,
            stdin=json.dumps(order.task()).encode(),
        )
        result = await vm.run(program, _listener(progress))
        packages = self._read(result, gate)
        async with vm.steady():
            connection = await vm.up()
        place = f"{vm.state.generation}/upper{PACKAGES}/{order.set_id}"
        size = await disk_size(connection, [f"{DISK}/{place}"])
        return Built(packages, size, self._stores.vms.disk(vm.record.id) / place)

    def _read(self, result: ProgramResult, gate: Gate) -> list[Package]:
        """What the builder says it has installed.

        Raises:
            RequirementsRefused, ExecutionFailed: it has not.
        """
        last = _last_line(result.stdout)
        if result.reason == "timeout":
            raise ExecutionFailed(
                f"building took longer than {self._settings.packages.build_timeout_seconds} s",
                field="packages.build_timeout_seconds",
                remedy="ask for less, or raise it (MULLIGAN_PACKAGES__BUILD_TIMEOUT_SECONDS)",
            )
        if result.disk is not None:
            raise ExecutionFailed(
                f"the packages take more than {self._settings.packages.max_set_mb} MB",
                field="packages.max_set_mb",
                remedy="ask for less, or raise it (MULLIGAN_PACKAGES__MAX_SET_MB)",
            )
        if "failed" in last:
            said = readable(str(last.get("said", "")))
            if gate.trouble is not None and not any(each in said for each in CONFLICTS):
                raise ExecutionFailed(
                    gate.trouble, remedy="see what pip, uv or npm on this host are configured with"
                )
            raise _refused(said)
        packages = _packages(last.get("resolved"))
        if packages is None:
            said = readable(result.stderr.decode(errors="replace"))
            raise ExecutionFailed(f"the builder did not say what it installed; it said: {said}")
        return packages


def _inside() -> str:
    return Path(inside.__file__).read_text()


def _remove(tools: Path) -> None:
    if tools.exists():
        remove_tree(tools)


def _refused(said: str) -> RequirementsRefused:
    remedy = "ask for names and versions that the index has"
    if "wheel" in said or "no-build" in said or "building" in said.lower():
        remedy = (
            "only built packages (wheels) are installed: ask for a version that has one for this "
            "interpreter, or allow building (vm_types.<type>.allow_builds)"
        )
    return RequirementsRefused(said, field="requirements", remedy=remedy)


def readable(said: str) -> str:
    """What a resolver said, as one short line without decoration."""
    text = _FRAME.sub(" ", _CONTROL.sub("", said))
    text = re.sub(r"/file/[0-9a-f]{32}/", "", text)
    lines = [line.strip().removeprefix("npm error").strip() for line in text.splitlines()]
    words = " ".join(" ".join(each for each in lines if not each.startswith(NOISE)).split())
    return words if len(words) <= MOST_SAID else words[: MOST_SAID - 1] + "…"


def _listener(progress: Callable[[str], None]) -> Callable[[str, bytes], None]:
    """Takes a builder's output as it comes and tells of its steps."""
    rest = bytearray()

    def listen(stream: str, data: bytes) -> None:
        if stream != "stdout" or len(rest) > OUTPUT_LIMIT:
            return
        rest.extend(data)
        *lines, last = bytes(rest).split(b"\n")
        rest[:] = last
        for line in lines:
            step = _object(line).get("step")
            if isinstance(step, str) and step in STEPS:
                progress(STEPS[step])

    return listen


def _last_line(stdout: bytes) -> dict[str, object]:
    lines = stdout.strip().rsplit(b"\n", 1)
    return _object(lines[-1])


def _object(line: bytes) -> dict[str, object]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _packages(resolved: object) -> list[Package] | None:
    """Packages from what a builder says; None where it says nothing of the kind."""
    if not isinstance(resolved, list) or len(resolved) > MOST_PACKAGES:
        return None
    packages = []
    for each in resolved:
        if not isinstance(each, dict):
            return None
        name, version, hashes = each.get("name"), each.get("version"), each.get("hashes")
        if not (isinstance(name, str) and isinstance(version, str) and isinstance(hashes, list)):
            return None
        if not (_NAME.fullmatch(name) and _VERSION.fullmatch(version)):
            return None
        kept = [each for each in hashes if isinstance(each, str) and _HASH.fullmatch(each)]
        packages.append(Package(name=name, version=version, hashes=sorted(kept)))
    return sorted(packages, key=lambda each: (each.name, each.version))
