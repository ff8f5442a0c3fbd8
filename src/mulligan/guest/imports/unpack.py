"""From an archive to the tree of an image: a job of the agent, see ``guest/jobs``.

Every layer is read twice. The first time nothing is written: digests, names, counts and sizes are
looked at, and what the layer takes away is noted, for that goes before what it brings (OCI
image-spec, layer.md, "Whiteouts": they are about the layers below alone). Owners, set-user-id bits,
extended attributes and devices of the archive are left out: all that is in an image belongs to the
one user VMs have.
"""

from __future__ import annotations

import contextlib
import os
import resource
import stat

from mulligan.guest import kernel
from mulligan.guest.imports.bounds import Budget, RefusedError, shown
from mulligan.guest.imports.layouts import Found, Layer, look
from mulligan.guest.imports.members import ERRORS, entries, opened, refused
from mulligan.guest.imports.streams import CHUNK, Plain
from mulligan.guest.imports.tree import Names, Tree, names_of

TYPE_CHECKING = False  # the guest does without typing
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from typing import Any

MOST_MEMORY = 1 << 30
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
AUFS = ".wh..wh."  # other files of that file system's own
BOUNDS = ("most_bytes", "most_entries", "most_ratio", "min_free")
KEPT_MODE = 0o1777
MOST_VARIABLES, MOST_VARIABLE = 256, 4096
LATEST_S = 2**33


def unpack(arguments: dict[str, Any]) -> Iterator[dict[str, object]]:
    """Makes the tree. Lines are ``{"progress": text}``, and at last the image or a refusal.

    Args:
        arguments: ``source``, an archive or the directory of a layout; ``target``, an existing,
            empty directory, in which ``tree`` is made; ``reference``, which image of several; and
            the fields of ``Budget``.

    Yields:
        At last ``{"refused": why}``, or ``{"image": fields}``: what ``finish.finish`` says and
        ``kind``, ``left_out`` (entries that were not taken, by kind) and ``config`` (``env``).
    """
    kernel.drop_privileges()
    os.umask(0o022)
    for limit, most in ((resource.RLIMIT_AS, MOST_MEMORY), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (most, most))
    try:
        yield from steps(arguments)
    except RefusedError as error:
        yield {"refused": str(error)}
    except MemoryError:
        yield {"refused": f"it takes more than {MOST_MEMORY >> 20} MiB of memory to read"}
    except OSError as error:
        where = f": {shown(str(error.filename))}" if error.filename is not None else ""
        yield {"refused": f"it could not be unpacked: {error.strerror}{where}"}


def steps(arguments: dict[str, Any]) -> Iterator[dict[str, object]]:
    """``unpack`` itself, in whatever process this is.

    Raises:
        RefusedError: the archive is not taken in.
        OSError: something could not be read or made.
    """
    with contextlib.ExitStack() as stack:
        yield from _steps(arguments, stack)


def _steps(arguments: dict[str, Any], stack: contextlib.ExitStack) -> Iterator[dict[str, object]]:
    from mulligan.guest.imports.finish import finish

    target = arguments["target"]
    place = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, place)
    bounds = {name: arguments[name] for name in BOUNDS}
    budget = Budget(place=place, **bounds)
    spare = f"{target}/archive"
    yield {"progress": "looking at the archive"}
    found = look(arguments["source"], spare, budget, arguments["reference"], stack)
    os.mkdir(f"{target}/tree", 0o755)
    left_out: dict[str, int] = {}
    with Tree(f"{target}/tree") as tree:
        for number, layer in enumerate(found.layers, 1):
            yield {"progress": f"layer {number} of {len(found.layers)}"}
            _apply(layer, tree, budget, left_out, layered=found.kind != "tar")
        yield {"progress": "finishing"}
        image = finish(tree, _environment(found), _architecture(found))
    image |= {"kind": found.kind, "left_out": left_out, "unpacked": budget.bytes}
    yield {"image": image}


def _environment(found: Found) -> list[str]:
    """The variables an image's configuration sets, as far as they are any."""
    config = found.config.get("config")
    listed = config.get("Env") if isinstance(config, dict) else None
    if not isinstance(listed, list):
        return []
    return [each for each in listed[:MOST_VARIABLES] if isinstance(each, str) and _plain(each)]


def _plain(text: str) -> bool:
    """Whether a text can be part of an environment, and of an answer."""
    return len(text) <= MOST_VARIABLE and "\0" not in text and text.isprintable()


def _architecture(found: Found) -> str | None:
    name = found.config.get("architecture")
    return name if isinstance(name, str) else None


def _apply(
    layer: Layer, tree: Tree, budget: Budget, left_out: dict[str, int], *, layered: bool
) -> None:
    hidden, opaque = _checked(layer, budget, layered=layered)
    for names in opaque:
        tree.empty(names)
    for names in hidden:
        tree.remove(names)
    # What the second reading counts was counted already.
    again = Plain(layer.part, budget)
    try:
        with opened(again, "r|") as tar:
            for member in entries(tar):
                names = names_of(member.name)
                if layered and names and names[-1].startswith(WHITEOUT):
                    continue
                if not _put(tar, member, names, tree, budget):
                    kind = "device" if member.isdev() else "root"
                    left_out[kind] = left_out.get(kind, 0) + 1
    except ERRORS as error:
        raise refused(error) from None


def _checked(layer: Layer, budget: Budget, *, layered: bool) -> tuple[list[Names], list[Names]]:
    """Reads a layer without making anything of it.

    Returns:
        What it takes away of the layers below: entries, and directories that lose all they have.
    """
    algorithm = layer.diff_id.partition(":")[0] if layer.diff_id is not None else None
    plain = Plain(layer.part, budget, algorithm)
    hidden: list[Names] = []
    opaque: list[Names] = []
    try:
        with opened(plain, "r|") as tar:
            for member in entries(tar):
                budget.entry(member.size)
                names = names_of(member.name)
                if member.islnk():
                    names_of(member.linkname)
                if layered and names and names[-1].startswith(WHITEOUT):
                    _note(names, hidden, opaque)
    except ERRORS as error:
        raise refused(error) from None
    plain.drain()
    if layer.diff_id is not None and plain.digest() != layer.diff_id:
        raise RefusedError(f"a layer is not what its image says: {layer.diff_id[:80]}")
    return hidden, opaque


def _note(names: Names, hidden: list[Names], opaque: list[Names]) -> None:
    if names[-1] == OPAQUE:
        opaque.append(names[:-1])
    elif not names[-1].startswith(AUFS):
        name = names[-1].removeprefix(WHITEOUT)
        if name in ("", ".", ".."):
            raise RefusedError(f"a whiteout of nothing: {shown('/'.join(names))}")
        hidden.append((*names[:-1], name))


def _put(
    tar: tarfile.TarFile, member: tarfile.TarInfo, names: Names, tree: Tree, budget: Budget
) -> bool:
    """Makes an entry; false where it is of a kind that images do not have."""
    mode = member.mode & KEPT_MODE
    if member.isdir():
        tree.make_directory(names, mode)
        return True
    if not names or (member.isdev() and not member.isfifo()):
        return False
    if member.issym():
        tree.link(names, member.linkname)
    elif member.islnk():
        tree.hard_link(names, names_of(member.linkname))
    elif member.isfifo():
        tree.make_fifo(names, mode | stat.S_IRUSR | stat.S_IWUSR)
    elif member.isreg():
        _put_file(tar, member, names, tree, budget)
    else:
        raise RefusedError(f"an entry is of no known kind: {shown(member.name)}")
    return True


def _put_file(
    tar: tarfile.TarFile, member: tarfile.TarInfo, names: Names, tree: Tree, budget: Budget
) -> None:
    file: Any = tar.extractfile(member)
    content = file.raw  # with a buffer in between it could not pass over holes of a stream
    descriptor = tree.open_new(names)
    try:
        pieces = getattr(member, "sparse", None) or [(0, member.size)]
        for start, length in pieces:
            if start < 0 or length < 0 or start + length > member.size:
                raise RefusedError(f"a file with holes is damaged: {shown(member.name)}")
            content.seek(start)
            os.lseek(descriptor, start, os.SEEK_SET)
            _copy(content, descriptor, length, budget)
        os.ftruncate(descriptor, member.size)
        os.fchmod(descriptor, member.mode & KEPT_MODE | stat.S_IRUSR | stat.S_IWUSR)
        if 0 <= member.mtime < LATEST_S:
            os.utime(descriptor, (member.mtime, member.mtime))
    finally:
        os.close(descriptor)


def _copy(content: Any, descriptor: int, length: int, budget: Budget) -> None:
    while length:
        data = content.read(min(length, CHUNK))
        if not data:
            raise RefusedError("it is cut off")
        budget.writes(len(data))
        length -= len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
