"""VMs on disk: one directory each, whole or not at all.

::

    <data_dir>/lock                  held by the process that serves this directory
    <data_dir>/vms/<id>/vm.json      the record, the server's
    <data_dir>/vms/<id>/state.json   which layer its disk is stacked on, and which generation it is
    <data_dir>/vms/<id>/trust.pem    certificates its programs trust, made anew as it boots
    <data_dir>/vms/<id>/disk/        the VM's own, shown to its agent alone
        <generation>/upper/  work/   what its programs wrote since, and overlayfs' scratch

Replacing ``state.json`` is the one step that takes a VM from one state to another. The exception
is a frozen ``upper``: a VM whose upper has become a layer is simply one generation further.
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt, StrictStr, ValidationError

from mulligan.engine.vms.state import Scratch, VmState, fill, is_generation, there
from mulligan.errors import ExecutionFailed
from mulligan.layers.directories import (
    inside,
    itself,
    make_directory,
    remove_tree,
    replace_file,
    sync_directory,
)
from mulligan.layers.store import LayerStore
from mulligan.models import UtcTime

NEW = ".new-"
GONE = ".gone-"
STAGING, ASIDE = ".staged", ".aside"


class VmRecord(BaseModel):
    """What is kept of a VM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: StrictStr
    name: StrictStr
    agent_id: StrictStr
    vm_type: StrictStr
    driver: StrictStr
    created_at: UtcTime
    session: StrictBool = False
    image: StrictStr | None = None  # its digest; None: the host's own
    network: StrictStr | None = None  # None: as its type has it
    allow: list[StrictStr] | None = None
    # None: as its type has it
    disk_mb: StrictInt | None = None
    memory_mb: StrictInt | None = None
    vcpus: float | None = None
    max_processes: StrictInt | None = None


def new_id(prefix: str) -> str:
    """An id nobody can guess, such as ``vm-3f9c…``."""
    return f"{prefix}-{secrets.token_hex(8)}"


@dataclass(frozen=True)
class StoredVm:
    """A VM as it was found on disk."""

    record: VmRecord
    state: VmState


class VmStore:
    """The directory of VMs.

    Args:
        directory: made if it is missing.
        owner: uid and gid VMs' programs have on the host.
        durable: whether a state also outlives a power cut.
    """

    def __init__(self, directory: Path, owner: tuple[int, int], *, durable: bool = False) -> None:
        self._directory = directory
        self._owner = owner
        self._durable = durable
        self._states: dict[str, VmState] = {}
        self._spare: dict[str, int] = {}  # generations that are made already, and empty
        self._writing = threading.Lock()
        self._making = threading.Lock()
        make_directory(directory)

    @property
    def quick(self) -> bool:
        """Whether its changes are a few system calls that wait for no disk."""
        return not self._durable

    def load(self, layers: LayerStore) -> tuple[list[StoredVm], list[str]]:
        """All VMs, oldest first, and a line for each directory that could not be read.

        Also finishes what was interrupted: half-made VMs, half-deleted ones and abandoned
        generations are removed, and a VM whose upper has been frozen goes on above it.
        """
        found, complaints = [], []
        for path in sorted(self._directory.iterdir()):
            if path.name.startswith((NEW, GONE)):
                try:
                    remove_tree(path)
                except OSError as error:
                    complaints.append(f"{path} is left over and cannot be removed: {error}")
                continue
            try:
                record = VmRecord.model_validate_json((path / "vm.json").read_bytes())
                state = VmState.model_validate_json((path / "state.json").read_bytes())
                found.append(StoredVm(record, self._recover(record, state, layers)))
            except (OSError, ValidationError, ExecutionFailed) as error:
                reason = str(error).splitlines()[0]
                complaints.append(f"{path} is no readable VM and was left alone: {reason}")
        return sorted(found, key=lambda vm: vm.record.created_at), complaints

    def _recover(self, record: VmRecord, state: VmState, layers: LayerStore) -> VmState:
        disk = self.disk(record.id)
        aside = disk / f"{state.generation}{ASIDE}"
        if aside.is_dir() and not is_generation(disk, state.generation):
            aside.rename(disk / str(state.generation))  # nothing had taken its place yet
        known = state
        while not is_generation(disk, state.generation):
            layer = state.layer(record.id)
            if layers.has(record.agent_id, layer):
                state = state.next(layer)
            elif state != known:
                self.make_generation(record.id, state.generation)
            else:
                raise ExecutionFailed(f"{disk / str(state.generation)} is missing")
        if state != known:
            self.set_state(record.id, state)
        for path in disk.iterdir():
            if path.name != str(state.generation):
                remove_tree(path)
        return state

    def ids(self) -> set[str]:
        """The VMs there are, those that cannot be read included."""
        names = {path.name for path in self._directory.iterdir()}
        return {name for name in names if not name.startswith((NEW, GONE))}

    def create(self, record: VmRecord, base: str | None = None) -> VmState:
        """Makes a VM's directory, its disk stacked on a layer or on the image."""
        staging = self._directory / f"{NEW}{record.id}"
        state = VmState(base=base)
        try:
            make_directory(staging)
            self._make_disk(staging, state.generation)
            (staging / "vm.json").write_text(record.model_dump_json(indent=2))
            (staging / "state.json").write_text(state.model_dump_json())
            if self._durable:
                os.sync()
            staging.rename(self._directory / record.id)
            if self._durable:
                sync_directory(self._directory)
        except BaseException:
            if staging.exists():
                remove_tree(staging)
            raise
        return state

    def prepare(self, name: str) -> None:
        """Makes the directory of a VM that is nobody's, its disk stacked on the image.

        Args:
            name: its own, which begins with ``NEW``: the next start removes what is left.
        """
        path = self._directory / name
        make_directory(path)
        self._make_disk(path, 0)

    def adopt(self, name: str, record: VmRecord) -> None:
        """Makes a directory that ``prepare`` made that of a VM.

        Raises:
            OSError: it could not be done; the directory is as it was.
        """
        path = self._directory / name
        (path / "vm.json").write_text(record.model_dump_json(indent=2))
        (path / "state.json").write_text(VmState().model_dump_json())
        if self._durable:
            os.sync()
        path.rename(self._directory / record.id)
        if self._durable:
            sync_directory(self._directory)

    def discard(self, name: str) -> None:
        """Removes what ``prepare`` made, if it is there."""
        path = self._directory / name
        if path.exists():
            remove_tree(path)

    def set_state(self, vm_id: str, state: VmState) -> None:
        """Has a VM be in another state from now on; where that fails, in the one it was in."""
        with self._writing:
            self._write_state(vm_id, state)
            self._states[vm_id] = state

    def follow(self, vm_id: str, state: VmState) -> None:
        """Has a VM be in the state that ``load`` would roll it forward to; ``settle`` writes it."""
        if self._durable:
            self.set_state(vm_id, state)
        else:
            with self._writing:
                self._states[vm_id] = state

    def settle(self, vm_id: str, generation: int) -> None:
        """Tidies up behind ``follow``, and makes the next generation before it is wanted.

        The VM's state is written, and a generation it left removed.

        Raises:
            OSError: it could not be done; the next start does it.
        """
        with self._writing:
            state = self._states[vm_id]
            self._write_state(vm_id, state)
        self.discard_generation(vm_id, generation)
        with self._making:
            spare = state.generation + 1
            with inside(self.disk(vm_id)) as disk:
                if not there(str(spare), disk):  # else the VM is about to go there, or has been
                    self._make_generation(disk, spare)
                    self._spare[vm_id] = spare

    def _write_state(self, vm_id: str, state: VmState) -> None:
        path = self._directory / vm_id / "state.json"
        replace_file(path, state.model_dump_json(), durable=self._durable)

    def disk(self, vm_id: str) -> Path:
        """The directory a VM's agent sees as its disk."""
        return self._directory / vm_id / "disk"

    def trust(self, vm_id: str) -> Path:
        """The file of certificates a VM's programs are shown, where they are shown one."""
        return self._directory / vm_id / "trust.pem"

    def upper(self, vm_id: str, generation: int) -> Path:
        """What a VM's programs wrote since its disk was last frozen."""
        return self.disk(vm_id) / str(generation) / "upper"

    def changed(self, vm_id: str, generation: int) -> bool:
        """Whether anything was written in a generation."""
        names = str(generation), "upper"
        with inside(self.disk(vm_id), *names) as upper, os.scandir(itself(upper)) as entries:
            return next(entries, None) is not None

    def make_generation(self, vm_id: str, generation: int, like: int | None = None) -> None:
        """Makes the directories of a generation, anew if they are left from an attempt.

        Args:
            vm_id: the VM.
            generation: its number.
            like: another generation, whose mode the root directory of the VM's programs keeps.
        """
        mode = 0o755
        if like is not None:
            with inside(self.disk(vm_id), str(like), "upper") as upper:
                mode = stat.S_IMODE(os.fstat(upper).st_mode)
        with self._making, inside(self.disk(vm_id)) as disk:
            if self._spare.pop(vm_id, None) == generation:
                with inside(self.disk(vm_id), str(generation), "upper") as upper:
                    os.chmod(itself(upper), mode)  # noqa: PTH101  (there is no path)
                return
            if there(str(generation), disk):
                remove_tree(str(generation), disk)
            self._make_generation(disk, generation, mode)

    def _make_disk(self, path: Path, generation: int) -> None:
        with inside(path) as directory:
            self._make(directory, "disk")
        with inside(path, "disk") as disk:
            self._make_generation(disk, generation)

    def _make_generation(self, disk: int, generation: int | str, mode: int = 0o755) -> None:
        name = str(generation)
        self._make(disk, name)
        with inside(disk, name) as place:
            # The root directory of the VM's programs takes its mode from here.
            self._make(place, "upper", mode)
            self._make(place, "work")

    def rewind(
        self,
        vm_id: str,
        left: int,
        state: VmState,
        content: Path | None,
        scratch: Sequence[Scratch],
    ) -> None:
        """Has a VM that is down be in a state its memory knows, in directories of that number.

        Args:
            vm_id: the VM.
            left: the generation it is in.
            state: the state; its ``line`` is new.
            content: a directory of this file system that becomes its upper; None: it is empty.
            scratch: what was in its scratch directory.

        Raises:
            OSError: it could not be done; the VM is in the state it was in.
        """
        name = str(state.generation)
        staging, aside = f"{name}{STAGING}", f"{name}{ASIDE}"
        with self._making, inside(self.disk(vm_id)) as disk:
            self._spare.pop(vm_id, None)
            for each in (staging, aside):
                if there(each, disk):
                    remove_tree(each, disk)
            self._make_generation(disk, staging)
            with inside(disk, staging) as place:
                if content is not None:
                    os.rmdir("upper", dir_fd=place)
                    os.rename(content, "upper", dst_dir_fd=place)
                fill(place, scratch, self._owner)
            if there(name, disk):
                os.rename(name, aside, src_dir_fd=disk, dst_dir_fd=disk)
            os.rename(staging, name, src_dir_fd=disk, dst_dir_fd=disk)
            self.set_state(vm_id, state)
            for each in {aside, str(left)} - {name}:
                if there(each, disk):
                    remove_tree(each, disk)

    def renew_work(self, vm_id: str, generation: int) -> None:
        """Gives a generation an empty scratch directory: overlayfs takes none it had before."""
        with inside(self.disk(vm_id), str(generation)) as place:
            if there("work", place):
                remove_tree("work", place)
            self._make(place, "work")

    def discard_generation(self, vm_id: str, generation: int) -> None:
        """Removes a generation that is no longer the VM's."""
        with inside(self.disk(vm_id)) as disk:
            if there(str(generation), disk):
                remove_tree(str(generation), disk)

    def make_place(self, vm_id: str, name: str) -> None:
        """Makes an empty directory in the disk for the VM's agent to copy into."""
        with inside(self.disk(vm_id)) as disk:
            self._make(disk, name)

    def discard_place(self, vm_id: str, name: str) -> None:
        """Removes a directory ``make_place`` made, with what is in it."""
        with inside(self.disk(vm_id)) as disk:
            remove_tree(name, disk)

    def delete(self, vm_id: str) -> None:
        """Removes a VM and everything it wrote; it is gone for good once this has begun."""
        with self._writing:
            self._states.pop(vm_id, None)
            self._spare.pop(vm_id, None)
        gone = self._directory / f"{GONE}{vm_id}"
        (self._directory / vm_id).rename(gone)
        remove_tree(gone)

    def _make(self, directory: int, name: str, mode: int = 0o700) -> None:
        """Makes a directory of the VM's in an open one."""
        os.mkdir(name, 0o700, dir_fd=directory)
        with inside(directory, name) as made:
            if os.geteuid() == 0:
                os.chown(itself(made), *self._owner)
            os.chmod(itself(made), mode)  # noqa: PTH101  (there is no path)


@dataclass(frozen=True)
class Stores:
    """Where VMs and their layers are kept."""

    vms: VmStore
    layers: LayerStore

    def prepared(self, record: VmRecord, state: VmState, *, renew: bool = True) -> list[str]:
        """The trees a VM is about to boot on, newest first.

        Its scratch directory is made anew, unless it goes on with the overlay it had.
        """
        self.layers.check_image(record.agent_id, state.base, record.image)
        if renew:
            self.vms.renew_work(record.id, state.generation)
        with self.layers.held(record.agent_id) as stack_of:
            return stack_of(state.base)
