"""``mulligan image``."""

from __future__ import annotations

import functools
import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table

from mulligan import settings as settings_module
from mulligan.cli.console import UsageError, err, out, print_json, run_async, size, within
from mulligan.cli.options import DataDirOption, JsonOption
from mulligan.cli.progress import Progress
from mulligan.cli.session import open_session
from mulligan.client.images import Images
from mulligan.models import Image

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mulligan.client.backends import Backend
    from mulligan.engine.images.importing import Importer
    from mulligan.engine.images.shelf import Shelf
    from mulligan.settings import Settings

app = typer.Typer(help="What VMs' disks start from, beside this host's own.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Such as debian.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...")]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="MULLIGAN_SERVER",
        metavar="URL",
        help="Have this server do it, with an administrator's token. Default: it is done here, "
        "beside a server that uses the data directory.",
    ),
]
Result = TypeVar("Result")
SHORT = 12  # of a digest, as people are told it


class _Images(Images):
    """The methods of a client over a session's backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend


def _asked(
    server: str, data_dir: Path | None, work: Callable[[Images], Awaitable[Result]]
) -> Result:
    """Has a server do it."""

    async def session_work() -> Result:
        async with open_session(server, data_dir) as session:
            return await work(_Images(session.backend))

    return run_async(session_work(), "no image was made")


def _said(progress: Progress) -> Callable[[str], None]:
    """Shows what is under way, on one line of a terminal, or line by line."""

    def say(text: str) -> None:
        progress.say(within(text))
        if not err.is_terminal:
            err.print(within(text), markup=False)

    return say


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
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make an image of Debian packages, from where this host gets its own."""
    from mulligan.engine.images.building import built, described, log_of
    from mulligan.images import debian as builder

    wanted = [each.strip() for each in packages.split(",") if each.strip()]
    if server is not None:
        if mode != "unshare":
            raise UsageError(f"a server does not build in mode {mode[:50]!r}", field="mode")
        with Progress("building the image") as line:
            say = _said(line)
            made = _asked(
                server,
                data_dir,
                lambda images: images.build_image(name, debian, wanted, progress=say),
            )
        _show(made, json=json)
        return
    builder.check(debian, wanted, mode)
    builder.find_mmdebstrap()
    settings = settings_module.load(data_dir=data_dir)
    source = described(debian, wanted)

    def make(importer: Importer, progress: Callable[[str], None]) -> Path:
        timeout = settings.images.timeout_seconds
        try:
            return built(importer, name, debian, wanted, mode, progress, timeout_s=timeout)
        finally:
            err.print(f"log: {within(str(log_of(importer, name)))}", soft_wrap=True)

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
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make an image of an archive."""
    if server is not None:
        with Progress("sending the archive") as line:
            say = _said(line)
            made = _asked(
                server,
                data_dir,
                lambda images: images.import_image(name, file, reference=reference, progress=say),
            )
        _show(made, json=json)
        return
    settings = settings_module.load(data_dir=data_dir)
    _taken(name, settings, lambda *_: file.absolute(), file.absolute().name, reference, json)


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
        say = _said(progress)
        with Importer(settings, say) as importer:
            archive = make(importer, say)
            work = importer.take(name, archive, source, reference)
            run_async(work, "no image was made")
        shelf = Shelf(settings)
        shelf.collect()
    _show(shelf.get(name), json=json)


@app.command("ls")
@app.command("list", hidden=True)
def list_images(
    json: JsonOption = False, server: ServerOption = None, data_dir: DataDirOption = None
) -> None:
    """List the images there are."""
    if server is not None:
        found = _asked(server, data_dir, lambda images: images.list_images())
    else:
        found = _shelf(data_dir).all()
    if json:
        dumped = [each.model_dump(mode="json") for each in found]
        out.print(json_module.dumps(dumped, indent=2), markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("IMAGE", "DIGEST", "SIZE", "MADE", "LANGUAGES", "OF"):
        table.add_column(heading, no_wrap=True)
    for each in found:
        row = (
            each.name,
            each.digest.partition(":")[2][:SHORT],
            size(each.bytes),
            each.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            ", ".join(each.programs),
            each.source,
        )
        table.add_row(*(within(text) for text in row))
    out.print(table if found else "no images but this host's own (host)")


@app.command("show")
def show(
    name: Name,
    json: JsonOption = False,
    server: ServerOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Say what an image has, and which VMs are of it."""
    if server is not None:
        found = _asked(server, data_dir, lambda images: images.get_image(name))
    else:
        found = _shelf(data_dir).get(name)
    _show(found, json=json)


@app.command("rm")
def remove(names: Names, server: ServerOption = None, data_dir: DataDirOption = None) -> None:
    """Remove images that no VM and no VM type uses."""
    shelf = _shelf(data_dir)
    for name in names:
        if server is not None:
            _asked(server, data_dir, functools.partial(_remove, name=name))
        else:
            shelf.remove(name)
        out.print(f"{within(name)} removed", markup=False)


async def _remove(images: Images, name: str) -> None:
    await images.delete_image(name)


def _show(image: Image, *, json: bool) -> None:
    if json:
        print_json(image)
        return
    rows = [
        ("image", image.name),
        ("digest", image.digest),
        ("of", f"{image.source} ({image.kind})"),
        ("size", f"{size(image.bytes)} in {image.entries} entries"),
    ]
    rows += [
        (language, f"{each.path}: {each.version}") for language, each in image.programs.items()
    ]
    rows += [("left out", f"{count} of {kind}") for kind, count in image.left_out.items()]
    rows += [("of type", each) for each in image.vm_types]
    rows += [("used by", each) for each in image.vms]
    for heading, text in rows:
        out.print(f"{heading:11} {within(text)}", markup=False, highlight=False, soft_wrap=True)
