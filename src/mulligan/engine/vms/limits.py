"""What VMs are held to, by whom, and what an execution that met a limit is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from mulligan.drivers.interface import Machine
from mulligan.drivers.limits import WATCHED_BY, Limits, Strain
from mulligan.engine.vms.quota import Bounds
from mulligan.engine.vms.replies import ProgramResult
from mulligan.engine.vms.store import VmRecord
from mulligan.errors import ValidationFailed
from mulligan.models import VmCreateRequest, VmLimit
from mulligan.settings import Settings, VmType

if TYPE_CHECKING:
    from mulligan.engine.vms.connection import AgentConnection

KILLED_EXIT_CODE = 128 + signal.SIGKILL  # as shells pass on how a child of theirs ended
LEAST = {"memory_mb": 32, "vcpus": 0.05, "max_processes": 8}
MOST = {"memory_mb": 2**30, "vcpus": 8192, "max_processes": 2**22}
WATCHED = "the VM's agent looks again and again; between two looks a little more can be taken"


def limits_of_type(known: VmType) -> Limits:
    """What VMs of a type are held to, if their makers ask for nothing else."""
    return Limits(
        memory_mb=known.memory_mb,
        vcpus=known.vcpus,
        cpu_weight=known.cpu_weight,
        max_processes=known.max_processes,
        max_open_files=known.max_open_files,
        cpu_seconds=known.cpu_seconds,
        # What is left there outlives its execution: it must not keep others from starting.
        shm_mb=min(known.shm_mb, known.memory_mb // 2) if known.memory_mb else known.shm_mb,
    )


def limits_of(settings: Settings, record: VmRecord) -> Limits:
    """What a VM is held to: what its maker asked for, else what its type has."""
    known = settings.vm_types.get(record.vm_type) or VmType()
    own = {name: getattr(record, name) for name in LEAST if getattr(record, name) is not None}
    return limits_of_type(known.model_copy(update=own))


def with_others(held: dict[str, VmLimit], bounds: Bounds, settings: Settings) -> dict[str, VmLimit]:
    """The whole table: what the driver sees to, and what is seen to on every host."""
    disk = VmLimit(value=0, held_by="none")
    if bounds.limit_mb:
        disk = VmLimit(value=bounds.limit_mb, held_by="agent", reason=WATCHED)
    return held | {
        "disk_mb": disk,
        "output_limit_bytes": VmLimit(value=settings.output_limit_bytes, held_by="agent"),
        "max_timeout_seconds": VmLimit(value=settings.max_timeout_seconds, held_by="agent"),
    }


def check_asked(request: VmCreateRequest, settings: Settings) -> None:
    """Refuses a VM that is to have more than those of its type, which there is.

    Raises:
        ValidationFailed: naming the field and what would be right.
    """
    known = settings.vm_type(request.vm_type)
    for name, least in LEAST.items():
        value, most = getattr(request, name), getattr(known, name) or MOST[name]
        if value is not None and not least <= value <= most:
            raise ValidationFailed(
                f"{name} of a VM of type {request.vm_type} must be from {least:.15g} to "
                f"{most:.15g}, not {value:.15g}",
                field=name,
                remedy=f"ask for less, or raise vm_types.{request.vm_type}.{name} in the settings",
            )


def at_most(
    known: VmType | None, wanted: dict[str, int | None]
) -> tuple[dict[str, int], list[str]]:
    """What is wanted as far as a type has it, and a note where that is less.

    For requests that may ask for anything, as those for sessions: they are not refused.
    """
    fields: dict[str, int] = {}
    notes = []
    for name, value in wanted.items():
        if value is None:
            continue
        most = getattr(known, name, 0)
        if most and value > most:
            notes.append(f"{name} was asked to be {value}: its type has no more than {most:.15g}")
        else:
            fields[name] = value
    return fields, notes


def meter(machine: Machine, connection: AgentConnection) -> Callable[[], Strain]:
    """What a VM's programs meet of its limits from now on, as the kernel or its agent counts."""

    def now() -> Strain:
        counted = machine.strain()
        return replace(counted, memory=counted.memory + connection.memory_ended)

    before = now()
    return lambda: now().since(before)


def strained(result: ProgramResult, strain: Strain, limits: dict[str, VmLimit]) -> ProgramResult:
    """A result with what its VM's limits had to do with it.

    Limits are those of the VM: where several executions ran in it, each of them is told.
    """
    notes = list(result.notes)
    memory = processes = 0.0
    by = "the kernel"
    if strain.memory > 0:
        memory = limits["memory_mb"].value
        if limits["memory_mb"].held_by == WATCHED_BY:
            by = "the VM's agent"
        notes.append(
            f"the VM's memory ({memory:.15g} MB) was used up, and {by} ended "
            f"{strain.memory} of its processes"
        )
    if strain.processes > 0:
        processes = limits["max_processes"].value
        notes.append(
            f"the VM's limit of {processes:.15g} processes was reached, and {strain.processes} "
            "forks were refused (EAGAIN)"
        )
    message = result.message
    if result.reason == "setup" and message.startswith("fork:") and strain.processes > 0:
        message = (
            f"no program can be started: those that run have the {processes:.15g} processes the VM "
            "may have; cancel them, or stop the VM"
        )
    ended = strain.memory > 0 and result.reason == "exit" and _was_killed(result)
    why = f"Out of memory: the VM's {memory:.15g} MB were used up, and {by} ended the program"
    return replace(
        result, notes=tuple(notes), message=message, out_of_memory=why if ended else None
    )


def _was_killed(result: ProgramResult) -> bool:
    """Whether a program, or the one a shell ended with, was killed."""
    code = os.waitstatus_to_exitcode(result.status)
    return code in (-signal.SIGKILL, KILLED_EXIT_CODE)
