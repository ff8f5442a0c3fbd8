"""``mulligan image``."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mulligan import settings as settings_module
from mulligan.cli.console import err, out, run_async, size, within
from mulligan.cli.options import DataDirOption, JsonOption
from mulligan.cli.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from mulligan.engine.images.importing import Importer
    from mulligan.engine.images.shelf import Shelf
    from mulligan.images.store import ImageRecord
    from mulligan.settings import Settings

app = typer.Typer(help="What VMs' disks start from, beside this host's own.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Such as debian.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...")]


def _shelf(data_dir: Path | None) -> Shelf:
    from mulligan.engine.images.shelf import Shelf

    return Shelf(settings_module.load(data_dir=data_dir))


@app.command("build")
def build(
    name: Name,
    debian: Annotated[
        str, typer.Option("--debian", metavar="RELEASE", help="Such as bookworm.")
    ] = "bookworm",
    packages: Annotated[
        str, typer.Option("--packages", metavar="A,B", help="Beside those that are essential.")
    ] = "",
    mode: Annotated[
        str, typer.Option("--mode", help="Of mmdebstrap: unshare, or root, or fakechroot.")
    ] = "unshare",
    json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Make an image of Debian packages, from where this host gets its own."""
    from mulligan.images import debian as builder

    wanted = [each.strip() for each in packages.split(",") if each.strip()]
    builder.check(debian, wanted, mode)
    builder.find_mmdebstrap()
    settings = settings_module.load(data_dir=data_dir)
    source = f"Debian {debian}" + (f" with {', '.join(wanted)}" if wanted else "")

    def make(importer: Importer, progress: Callable[[str], None]) -> Path:
        directory = importer.directory()
        logs = importer.store.directory / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        kept = logs / f"{name}.log"
        try:
            return builder.build(
                debian,
                wanted,
                mode,
                directory,
                progress,
                timeout_s=settings.images.timeout_seconds,
            )
        finally:
            (directory / "build.log").replace(kept)
            err.print(f"log: {within(str(kept))}", soft_wrap=True)

    _taken(name, settings, make, source, None, json)


@app.command("import")
def import_image(
    name: Name,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="An OCI layout (directory or tar), a file of docker save, or a tar of a root "
            "file system; compressed or not.",
        ),
    ],
    reference: Annotated[
        str | None, typer.Option("--ref", metavar="TAG", help="Which image, where it has several.")
    ] = None,
    json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Make an image of an archive."""
    settings = settings_module.load(data_dir=data_dir)
    _taken(name, settings, lambda *_: file.absolute(), file.name, reference, json)


def _taken(
    name: str,
    settings: Settings,
    make: Callable[[Importer, Callable[[str], None]], Path],
    source: str,
    reference: str | None,
    json: bool,
) -> None:
    """Has an archive made, or takes one, and makes an image of it."""
    from mulligan.engine.images.importing import Importer
    from mulligan.engine.images.shelf import Shelf
    from mulligan.images.store import check_name

    check_name(name)
    with Progress("starting") as progress:

        def say(text: str) -> None:
            progress.say(within(text))
            if not err.is_terminal:
                err.print(within(text), markup=False)

        with Importer(settings, say) as importer:
            archive = make(importer, say)
            work = importer.take(name, archive, source, reference)
            record = run_async(work, "no image was made")
        Shelf(settings).collect()
    if json:
        out.print(json_module.dumps(_dumped(name, record), indent=2), markup=False)
        return
    _print(name, record, [])


@app.command("ls")
@app.command("list", hidden=True)
def list_images(json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """List the images there are."""
    found = _shelf(data_dir).all()
    if json:
        dumped = [_dumped(name, record) for name, record in found]
        out.print(json_module.dumps(dumped, indent=2), markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("IMAGE", "DIGEST", "SIZE", "MADE", "LANGUAGES", "OF"):
        table.add_column(heading, no_wrap=True)
    for name, record in found:
        row = (
            name,
            record.short,
            size(record.bytes),
            record.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            ", ".join(record.programs),
            record.source,
        )
        table.add_row(*(within(text) for text in row))
    out.print(table if found else "no images but this host's own (host)")


@app.command("show")
def show(name: Name, json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Say what an image has, and which VMs are of it."""
    shelf = _shelf(data_dir)
    record = shelf.get(name)
    users = shelf.vms(record.digest)
    if json:
        dumped = _dumped(name, record) | {"vms": users, "vm_types": shelf.types(name)}
        out.print(json_module.dumps(dumped, indent=2), markup=False)
        return
    _print(name, record, users)


@app.command("rm")
def remove(names: Names, data_dir: DataDirOption = None) -> None:
    """Remove images that no VM and no VM type uses."""
    shelf = _shelf(data_dir)
    for name in names:
        shelf.remove(name)
        out.print(f"{within(name)} removed", markup=False)


def _dumped(name: str, record: ImageRecord) -> dict[str, object]:
    return {"name": name} | record.model_dump(mode="json")


def _print(name: str, record: ImageRecord, users: list[str]) -> None:
    rows = [
        ("image", name),
        ("digest", record.digest),
        ("of", f"{record.source} ({record.kind})"),
        ("size", f"{size(record.bytes)} in {record.entries} entries"),
    ]
    rows += [
        (language, f"{each.path}: {each.version}") for language, each in record.programs.items()
    ]
    rows += [("left out", f"{count} of {kind}") for kind, count in record.left_out.items()]
    rows += [("used by", each) for each in users]
    for heading, text in rows:
        out.print(f"{heading:11} {within(text)}", markup=False, highlight=False, soft_wrap=True)
