"""``mulligan microvm``."""

from __future__ import annotations

import json as json_module
import time
from typing import Annotated

import typer

from mulligan import settings as settings_module
from mulligan.cli.console import err, out
from mulligan.cli.options import DataDirOption, JsonOption

app = typer.Typer(help="What VMs of the driver qemu boot with.", no_args_is_help=True)


@app.command("build")
def build(json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Make kernel and first file system of microVMs, from this host's packages.

    It takes no rights, and some 70 MB from a mirror. The one there was stays in use until the new
    one is whole.
    """
    from mulligan.drivers.qemu.build import build as make
    from mulligan.layers.directories import make_directory

    settings = settings_module.load(data_dir=data_dir)
    make_directory(settings.data_dir)
    start = time.monotonic()

    def told(what: str) -> None:
        if not json:
            err.print(f"{time.monotonic() - start:5.1f} s  {what}", markup=False, highlight=False)

    made = make(settings.data_dir / "images", told)
    _print(made.stamp.model_dump(), json=json)


@app.command("template")
def template(
    vm_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Default: that of new VMs.")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Boot a microVM once, and have VMs of a type be copies of it from then on.

    It takes as long as booting one; copies are there several times sooner. Made again it replaces
    the one there is, as it has to after an update of Mulligan, QEMU or the kernel.
    """
    import asyncio

    from mulligan.engine.vms.templates import make_template

    settings = settings_module.load(data_dir=data_dir)
    start = time.monotonic()
    made = asyncio.run(make_template(settings, vm_type or settings.default_vm_type))
    took = time.monotonic() - start
    out.print(f"{made}, in {took:.1f} s", markup=False, highlight=False)


@app.command("show")
def show(json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Show what microVMs of this data directory boot with."""
    from mulligan.drivers.qemu.image import load

    settings = settings_module.load(data_dir=data_dir)
    _print(load(settings.data_dir / "images").stamp.model_dump(), json=json)


def _print(stamp: dict[str, object], *, json: bool) -> None:
    if json:
        out.print(json_module.dumps(stamp, indent=2), markup=False)
        return
    packages = stamp["packages"]
    assert isinstance(packages, dict)
    said = ", ".join(f"{name} {version}" for name, version in packages.items())
    out.print(f"Linux {stamp['release']}, from {said}", markup=False, highlight=False)
