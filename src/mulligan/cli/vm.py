"""``mulligan vm``."""

from __future__ import annotations

import json as json_module
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from mulligan.cli.console import out, print_json, size, within
from mulligan.cli.options import AgentOption, DataDirOption, JsonOption, ServerOption
from mulligan.cli.session import Session, with_backend, with_session
from mulligan.models import DEFAULT_VM_TYPE, VmCreateRequest, VmInstance

app = typer.Typer(help="Make, list and remove VMs.", no_args_is_help=True)

VmArgument = Annotated[str, typer.Argument(metavar="VM", help="A VM's id.")]


@app.command("create")
def create(
    agent: AgentOption = None,
    vm_type: Annotated[str, typer.Option("--type", help="A VM type.")] = DEFAULT_VM_TYPE,
    name: Annotated[str | None, typer.Option("--name", help="A name for it.")] = None,
    disk: Annotated[
        int | None,
        typer.Option("--disk-mb", help="What its disk may hold, in MB. Default: its type's."),
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option("--memory-mb", help="What its programs may have in memory, in MB."),
    ] = None,
    vcpus: Annotated[
        float | None, typer.Option("--vcpus", help="CPU time they may have, in CPUs.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", help="How many there may be at a time.")
    ] = None,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a VM and print its id."""
    request = VmCreateRequest(
        vm_type=vm_type,
        vm_name=name,
        disk_mb=disk,
        memory_mb=memory,
        vcpus=vcpus,
        max_processes=processes,
    )

    async def work(session: Session) -> VmInstance:
        whose = await session.agent(agent)
        return await session.backend.create_vm(request.model_copy(update={"agent_id": whose}))

    instance = with_session(server, data_dir, work)
    print_json(instance) if json else out.print(within(instance.id))


@app.command("ls")
@app.command("list", hidden=True)
def list_vms(
    agent: Annotated[str | None, typer.Option("--agent", help="Only this agent's.")] = None,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List VMs, oldest first."""
    instances = with_backend(server, data_dir, lambda backend: backend.list_vms(agent))
    if json:
        dumped = [instance.model_dump(mode="json") for instance in instances]
        out.print(json_module.dumps(dumped, indent=2), markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("ID", "AGENT", "STATUS", "TYPE", "DRIVER", "DISK", "CREATED"):
        table.add_column(heading, no_wrap=True)
    for instance in instances:
        table.add_row(*map(within, _row(instance)))
    out.print(table if instances else "no VMs")


@app.command("show")
@app.command("get", hidden=True)
def show(
    vm: VmArgument,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print what is known of a VM, as JSON."""
    print_json(with_backend(server, data_dir, lambda backend: backend.get_vm(vm)))


@app.command("stop")
def stop(
    vm: VmArgument,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """End a VM's processes; its disk stays, and the next request wakes it.

    Live interpreters and programs in the background end with it. One in which something runs is
    not stopped.
    """
    with_backend(server, data_dir, lambda backend: backend.stop_vm(vm))
    out.print(f"stopped {within(vm)}")


@app.command("rm")
@app.command("delete", hidden=True)
def remove(
    vm: VmArgument,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Stop a VM and remove everything it wrote."""
    with_backend(server, data_dir, lambda backend: backend.delete_vm(vm))
    out.print(f"removed {within(vm)}")


def _row(instance: VmInstance) -> tuple[str, ...]:
    return (
        instance.id,
        instance.agent_id or "",
        instance.status,
        instance.vm_type,
        instance.driver or "",
        _disk(instance),
        _local(instance.created_at),
    )


def _disk(instance: VmInstance) -> str:
    """What the disk holds, of what it may hold."""
    held = size(instance.disk_bytes)
    return f"{held} of {size(instance.disk_mb * 2**20)}" if instance.disk_mb else held


def _local(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
