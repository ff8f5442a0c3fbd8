"""Taking images in: unpacked and looked at in VMs, and only then kept.

The host copies bytes and renames directories. Archives are read, and trees of them walked, inside a
VM without programs (``guest/imports``); what is in an image runs for the first time, to say its
version, in a VM of the image, as any program does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mulligan.drivers.bubblewrap.driver import BubblewrapDriver
from mulligan.drivers.interface import BootSpec, Driver
from mulligan.drivers.limits import Limits
from mulligan.engine.images.turns import alone, finished
from mulligan.engine.vms.program import Program
from mulligan.engine.vms.replies import ProgramResult
from mulligan.engine.vms.state import VmState
from mulligan.engine.vms.store import Stores, VmRecord, VmStore, new_id
from mulligan.engine.vms.vm import Vm
from mulligan.errors import ConfigError, ExecutionFailed, ValidationFailed
from mulligan.guest.root import LAYERS
from mulligan.images.host import HostImage, prepare
from mulligan.images.layouts import Layout
from mulligan.images.store import ImageRecord, store_of
from mulligan.images.stored import stored_image
from mulligan.layers.directories import make_directory, remove_tree
from mulligan.layers.store import LayerStore
from mulligan.log import get_logger
from mulligan.models import ImageProgram, utc_now
from mulligan.settings import Settings

log = get_logger()

MIB = 1024 * 1024
PLACE = "/import"  # where a VM is shown what it unpacks
BOOT_TIMEOUT_S = 30.0
LIMITS = Limits(memory_mb=1024, vcpus=2, cpu_weight=100, max_processes=256, max_open_files=4096)
MOST_RATIO = 200
MOST_SAID = 4 * MIB
MOST_TEXT = 500
MOST_VERSION = 100
ASK_MS = 20_000
NOBODY = ""  # no agent is called so
TREE = "tree"
Progress = Callable[[str], None]


class Importer:
    """Takes images in, one at a time. Use as a context manager.

    Args:
        settings: of the data directory.
        progress: told in a few words what is under way.
        stopped: asked while this waits for others, who may take long; where it says so, no more.

    Raises:
        ConfigError: this host makes no VMs, or the data directory takes nothing.
        ExecutionFailed: it was stopped.
    """

    def __init__(
        self,
        settings: Settings,
        progress: Progress = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._progress = progress
        self.store = store_of(settings)
        for path in (settings.data_dir, self.store.directory, self.store.work):
            make_directory(path)
        self._exit = contextlib.ExitStack()
        try:
            self._exit.enter_context(alone(self.store.work, progress, stopped))
            self._clear()
            self._exit.callback(self._clear)
            guest = (settings.guest_uid, settings.guest_gid)
            self._driver: Driver = BubblewrapDriver(guest, self.store.work)
            self._driver.sweep()
            self._driver.guard()
            self._exit.callback(self._driver.close)
            owner = self._driver.disk_owner()
            self._host = prepare(self.store.directory, owner)
            layers = LayerStore(self.store.work / "layers", owner)
            self._stores = Stores(VmStore(self.store.work / "vms", owner), layers)
        except BaseException:
            self._exit.close()
            raise

    def __enter__(self) -> Importer:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _clear(self) -> None:
        """Removes what is left of images that were not finished, or are gone."""
        for path in self.store.work.iterdir():
            if path.name in {"layers", "vms"}:
                for each in path.iterdir():
                    remove_tree(each)
            elif path.name != "lock" and not path.name.startswith("bwrap-"):
                remove_tree(path)

    def directory(self) -> Path:
        """A new directory for what is made on the way; it goes with the importer."""
        path = self.store.work / new_id("made")
        make_directory(path)
        return path

    async def take(
        self, name: str, archive: Path, source: str, reference: str | None = None
    ) -> ImageRecord:
        """Makes an image of an archive.

        Args:
            name: what it is called from now on.
            archive: a tar of a root file system, what ``docker save`` wrote, or an OCI layout, as
                an archive or a directory.
            source: what it was made of, in words.
            reference: which image of several is meant.

        Raises:
            ValidationFailed: it is no such archive, or one that is not taken in; the text says why.
            ExecutionFailed: the VM that unpacks it failed.
            ConfigError: there is no room for it, or this host makes no VMs.
        """
        given = self.directory()
        self._progress("copying the archive")
        await finished(self._lay, archive, given / "it")
        staging = await finished(self._stores.layers.prepare, f".new-{new_id('image')}")
        fields = await self._unpack(given, staging, reference)
        await finished(remove_tree, given)
        record = _record(fields, source)
        record = await self._ask(record, staging / TREE)
        self._progress("keeping it")
        kept = await finished(self.store.add, name, record, staging / TREE)
        log.info("image_made", name=name, digest=kept.digest, entries=kept.entries)
        return kept

    def _lay(self, archive: Path, target: Path) -> None:
        """Puts an archive where a VM can read it and nobody changes it meanwhile."""
        try:
            status = archive.stat()
            if stat.S_ISDIR(status.st_mode):
                _copy_layout(archive, target, self._room)
            elif stat.S_ISREG(status.st_mode):
                self._room(status.st_size)
                if archive.parent.parent == self.store.work:
                    archive.rename(target)  # it was made here
                else:
                    shutil.copyfile(archive, target)
                target.chmod(0o644)
            else:
                raise ValidationFailed(f"{archive} is no file and no directory", field="file")
        except OSError as error:
            raise ValidationFailed(f"{archive}: {error.strerror}", field="file") from None

    def _room(self, size: int) -> None:
        free = shutil.disk_usage(self.store.work).free
        if free - size < self._settings.min_free_mb * MIB:
            raise ConfigError(
                f"{size // MIB} MB more in {self.store.work} would leave less than "
                f"{self._settings.min_free_mb} MB free (min_free_mb)",
                remedy="make room",
            )

    async def _unpack(self, given: Path, staging: Path, reference: str | None) -> dict[str, Any]:
        known = self._settings.images
        arguments: dict[str, object] = {
            "op": "unpack",
            "source": f"{PLACE}/it",
            "target": LAYERS,
            "reference": reference,
            "most_bytes": known.max_mb * MIB,
            "most_entries": known.max_entries,
            "most_ratio": MOST_RATIO,
            "min_free": self._settings.min_free_mb * MIB,
        }
        program = Program(
            runtime="job",
            steps=[],
            files={},
            env={},
            cwd="/",
            timeout_ms=known.timeout_seconds * 1000,
            output_limit=MOST_SAID,
            job=arguments,
        )
        vm = self._vm(self._host, staging, ((given, PLACE),))
        try:
            async with vm.steady():
                connection = await vm.up()
            result = await connection.run(program, _listener(self._progress))
        finally:
            await asyncio.shield(asyncio.create_task(vm.close()))
        return _read(result, known.timeout_seconds)

    def _vm(self, image: HostImage, layers: Path, shares: tuple[tuple[Path, str], ...] = ()) -> Vm:
        """A VM without a disk."""
        record = self._new_record("image")
        spec = BootSpec(vm_id=record.id, image=image, layers=layers, disk=None, shares=shares)
        return Vm(record, VmState(), self._driver, spec, self._stores, BOOT_TIMEOUT_S)

    def _new_record(self, prefix: str) -> VmRecord:
        return VmRecord(
            id=new_id(prefix),
            name=prefix,
            agent_id=NOBODY,
            vm_type="",
            driver=self._driver.name,
            created_at=utc_now(),
        )

    async def _ask(self, record: ImageRecord, tree: Path) -> ImageRecord:
        """Asks an image's interpreters for their versions, in a VM of it.

        Raises:
            ValidationFailed: none of them runs.
        """
        self._progress("asking its programs what they are")
        own = self._new_record("image")
        state = await asyncio.to_thread(self._stores.vms.create, own)
        spec = BootSpec(
            vm_id=own.id,
            image=stored_image(record, tree, self._host),
            layers=self._stores.layers.family(NOBODY),
            disk=self._stores.vms.disk(own.id),
            limits=LIMITS,
        )
        held = self._driver.limits(LIMITS)
        vm = Vm(own, state, self._driver, spec, self._stores, BOOT_TIMEOUT_S, limits=held)
        programs, mute, said = {}, dict(record.left_out), ""
        try:
            for language, program in record.programs.items():
                result = await vm.run(_asking(program.path))
                lines = _lines(result.stdout) or _lines(result.stderr)
                if result.reason == "exit" and result.status == 0:
                    version = lines[0][:MOST_VERSION] if lines else ""
                    programs[language] = ImageProgram(path=program.path, version=version)
                else:
                    said = lines[-1] if lines else result.message or f"status {result.status:#x}"
                    mute[f"{language} that does not run"] = 1
        finally:
            await asyncio.shield(asyncio.create_task(vm.close()))
            await asyncio.to_thread(self._stores.vms.delete, own.id)
        if not programs:
            raise ValidationFailed(
                f"none of its programs ({', '.join(record.programs)}) runs: {said[:MOST_TEXT]}",
                field="file",
            )
        return record.model_copy(update={"programs": programs, "left_out": mute})


def _asking(path: str) -> Program:
    return Program(
        runtime="exec",
        steps=[[path, "--version"]],
        files={},
        env={},
        cwd="/",
        timeout_ms=ASK_MS,
        output_limit=64 * 1024,
    )


def _lines(data: bytes) -> list[str]:
    lines = data.decode(errors="replace").splitlines()
    return ["".join(c for c in line if c.isprintable()).strip() for line in lines if line.strip()]


def _listener(progress: Progress) -> Callable[[str, bytes], None]:
    def listen(stream: str, data: bytes) -> None:
        if stream == "stdout":
            text = _object(data.strip().rsplit(b"\n", 1)[-1]).get("progress")
            if isinstance(text, str):
                progress(text[:MOST_VERSION])

    return listen


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(result: ProgramResult, timeout_s: int) -> dict[str, Any]:
    """What the VM says of the image it made.

    Raises:
        ValidationFailed: it refused the archive.
        ExecutionFailed: it failed.
    """
    last = _object(result.stdout.strip().rsplit(b"\n", 1)[-1])
    if isinstance(last.get("refused"), str):
        raise ValidationFailed(last["refused"][:MOST_TEXT], field="file")
    if result.reason == "timeout":
        raise ExecutionFailed(
            f"unpacking took longer than {timeout_s} s", field="images.timeout_seconds"
        )
    image = last.get("image")
    if result.reason != "exit" or result.status != 0 or not isinstance(image, dict):
        said = _lines(result.stderr)
        why = said[-1][:MOST_TEXT] if said else f"it ended with {result.reason}"
        raise ExecutionFailed(f"the VM that unpacks failed: {why}")
    return image


def _record(fields: dict[str, Any], source: str) -> ImageRecord:
    """The record of an image, as far as the VM says it; versions come later.

    Raises:
        ExecutionFailed: it says nothing that could be.
    """
    try:
        programs = {
            language: ImageProgram(path=path, version="")
            for language, path in dict(fields["programs"]).items()
        }
        names = ("digest", "kind", "search", "env", "shell", "machine", "entries", "bytes")
        return ImageRecord(
            **{name: fields[name] for name in names},
            left_out=fields["left_out"],
            source=source,
            created_at=utc_now(),
            programs=programs,
        )
    except (ValidationError, KeyError, TypeError, ValueError):
        raise ExecutionFailed("the VM that unpacks did not say what it made") from None


def _copy_layout(source: Path, target: Path, room: Callable[[int], None]) -> None:
    """Copies what of a directory is an OCI layout; links are not followed."""
    with Layout(source) as layout:
        room(sum(layout.files.values()))
        for name in layout.files:
            path = target / name
            for above in (target, *reversed(path.relative_to(target).parents)):
                directory = target / above
                directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            with layout.open(name) as file, path.open("wb") as copy:
                shutil.copyfileobj(file, copy, MIB)
            path.chmod(0o644)
