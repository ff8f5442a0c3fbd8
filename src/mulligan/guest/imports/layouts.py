"""What is in an archive: layers of an image, by their manifest, or the files themselves.

Formats: the OCI image layout (image-spec: image-layout.md, manifest.md, config.md), as a directory
or a tar; what ``docker save`` writes (``manifest.json``; moby, image/spec/v1.2.md); and a plain tar
of a root file system.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import stat
from dataclasses import dataclass, field

from mulligan.guest.imports.bounds import Budget, RefusedError
from mulligan.guest.imports.members import members
from mulligan.guest.imports.streams import CHUNK, Part, Plain, check_digest, compression
from mulligan.guest.imports.streams import split_digest as split

TYPE_CHECKING = False  # the guest does without typing
if TYPE_CHECKING:
    from typing import Any

MOST_DOCUMENT = 4 * 1024 * 1024
MOST_LAYERS = 1000
MOST_NESTED = 4
MOST_FILES = 10_000  # of a layout
REF_NAME = "org.opencontainers.image.ref.name"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass
class Layer:
    """A tar, possibly compressed.

    Attributes:
        part: where it is.
        diff_id: the digest of it uncompressed, where its image says so.
    """

    part: Part
    diff_id: str | None = None


@dataclass
class Found:
    """What an archive holds.

    Attributes:
        kind: "tar", "docker" or "oci".
        layers: from the lowest up.
        config: the image's, as far as it has one.
    """

    kind: str
    layers: list[Layer]
    config: dict[str, Any] = field(default_factory=dict)


class Files:
    """The files of a layout, by their paths in it."""

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}
        self._links: dict[str, str] = {}

    def add(self, path: str, part: Part) -> None:
        """Takes a file."""
        if len(self._parts) + len(self._links) < MOST_FILES:
            self._parts[path] = part

    def add_link(self, path: str, target: str) -> None:
        """Takes a link, as archives of Docker before version 25 have for layers they share."""
        if len(self._parts) + len(self._links) < MOST_FILES:
            self._links[path] = posixpath.normpath(target)

    def get(self, path: object) -> Part | None:
        """A file; None where there is none."""
        text = path if isinstance(path, str) else ""
        return self._parts.get(self._links.get(text, text))

    def named(self, path: object) -> Part:
        """A file.

        Raises:
            RefusedError: there is none.
        """
        found = self.get(path)
        if found is None:
            raise RefusedError(f"{str(path)[:200]!r} is not in the archive")
        return found

    def blob(self, descriptor: object) -> Part:
        """What a descriptor names, made sure of by its digest and size.

        Raises:
            RefusedError: it is not there, or is something else.
        """
        if not isinstance(descriptor, dict):
            raise RefusedError("a manifest has a descriptor that is none")
        name, value = split(descriptor.get("digest"))
        part = self.named(f"blobs/{name}/{value}")
        if descriptor.get("size") != part.size:
            raise RefusedError(f"a blob has {part.size} bytes, not the size its manifest says")
        check_digest(part, f"{name}:{value}")
        return part


def look(
    path: str, spare: str, budget: Budget, reference: str | None, stack: contextlib.ExitStack
) -> Found:
    """Finds out what an archive or a layout's directory is.

    Args:
        path: of it.
        spare: a file to uncompress the archive to, where it is compressed as a whole.
        budget: what that may take.
        reference: which of several images is meant: a name as its archive has it.
        stack: closes what was opened; not before the layers were read.

    Raises:
        RefusedError: it is none of the formats, or does not hold what it says.
        OSError: it cannot be read.
    """
    if os.path.isdir(path):
        return _layout(_directory(path, stack), reference)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    part = Part(descriptor, 0, os.fstat(descriptor).st_size)
    if compression(part):
        part = _uncompressed(part, spare, budget, stack)
    files = _listed(part, budget)
    if files.get("oci-layout") and files.get("index.json"):
        return _layout(files, reference)
    manifest = files.get("manifest.json")
    if manifest is not None and _is_docker(manifest):
        return _docker(files, reference)
    return Found("tar", [Layer(part)])


def _uncompressed(part: Part, spare: str, budget: Budget, stack: contextlib.ExitStack) -> Part:
    plain = Plain(part, budget)
    descriptor = os.open(spare, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)
    while data := plain.read(CHUNK):
        budget.writes(len(data))
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    return Part(descriptor, 0, os.fstat(descriptor).st_size)


def _listed(part: Part, budget: Budget) -> Files:
    """The files of an archive that may be those of a layout."""
    files = Files()
    for number, (member, start) in enumerate(members(part.again(), part.size)):
        if number >= budget.most_entries:
            raise RefusedError(f"it has more than {budget.most_entries} entries")
        path = posixpath.normpath(member.name)
        if path.count("/") > 2 or not _may_be_of_a_layout(path):  # noqa: PLR2004
            continue
        if member.isreg() and not member.issparse() and start + member.size <= part.size:
            files.add(path, part.part(start, member.size))
        elif member.islnk():
            files.add_link(path, member.linkname)
        elif member.issym():
            files.add_link(path, posixpath.join(posixpath.dirname(path), member.linkname))
    return files


def _may_be_of_a_layout(path: str) -> bool:
    return path.startswith("blobs/") or path.endswith((".json", ".tar")) or path == "oci-layout"


def _directory(path: str, stack: contextlib.ExitStack) -> Files:
    """The files of a layout that is a directory; the host has laid there only what is one."""
    files = Files()
    for above, _, names in os.walk(path):
        for name in names:
            whole = os.path.join(above, name)
            descriptor = os.open(whole, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                relative = os.path.relpath(whole, path)
                files.add(relative, Part(descriptor, 0, status.st_size))
    return files


def _document(part: Part) -> Any:
    if part.size > MOST_DOCUMENT:
        raise RefusedError(f"a document of it has more than {MOST_DOCUMENT} bytes")
    try:
        return json.loads(part.again().read(MOST_DOCUMENT + 1))
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"a document of it is no JSON: {str(error)[:200]}") from None


def _list(document: object, name: str) -> list[Any]:
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, list):
        raise RefusedError(f"a document of it has no list {name}")
    return value


# OCI


def _layout(files: Files, reference: str | None) -> Found:
    wanted = _document(files.named("index.json"))
    manifest = _manifest(files, _list(wanted, "manifests"), reference, 0)
    config = _document(files.blob(manifest.get("config")))
    described = _list(manifest, "layers")
    if len(described) > MOST_LAYERS:
        raise RefusedError(f"it has more than {MOST_LAYERS} layers")
    layers = [Layer(files.blob(each)) for each in described]
    _identify(layers, config)
    return Found("oci", layers, config)


def _manifest(
    files: Files, described: list[Any], reference: str | None, depth: int
) -> dict[str, Any]:
    """The manifest of an index that is for this machine."""
    machine = ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    fitting = [each for each in described if isinstance(each, dict) and _fits(each, machine)]
    if depth == 0 and reference is not None:
        fitting = [each for each in fitting if _annotation(each) == reference]
    if len(fitting) != 1:
        names = sorted({name for each in described if (name := _annotation(each))})
        raise RefusedError(_choice(len(fitting), machine, names, reference))
    document = _document(files.blob(fitting[0]))
    if isinstance(document, dict) and "manifests" in document:
        if depth >= MOST_NESTED:
            raise RefusedError("its indexes name each other without end")
        return _manifest(files, _list(document, "manifests"), reference, depth + 1)
    if not isinstance(document, dict) or "config" not in document:
        raise RefusedError("its manifest is none of the OCI or Docker image formats")
    return document


def _fits(descriptor: dict[str, Any], machine: str) -> bool:
    platform = descriptor.get("platform")
    if not isinstance(platform, dict):
        return True
    return (platform.get("os"), platform.get("architecture")) == ("linux", machine)


def _annotation(descriptor: object) -> str | None:
    annotations = descriptor.get("annotations") if isinstance(descriptor, dict) else None
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None


def _choice(number: int, machine: str, names: list[str], reference: str | None) -> str:
    listed = ", ".join(name[:100] for name in names[:20]) or "none has a name"
    if reference is not None:
        return f"it has no single image {reference[:100]!r} for linux/{machine}; it has: {listed}"
    if number == 0:
        return f"it has no image for linux/{machine}"
    return f"it has {number} images; say which is meant (--ref): {listed}"


# Docker


def _is_docker(manifest: Part) -> bool:
    if manifest.size > MOST_DOCUMENT:
        return False
    try:
        document = _document(manifest)
    except RefusedError:
        return False
    return isinstance(document, list) and all(
        isinstance(each, dict) and "Layers" in each and "Config" in each for each in document
    )


def _docker(files: Files, reference: str | None) -> Found:
    images = _document(files.named("manifest.json"))
    tags = {id(each): _tags(each) for each in images}
    fitting = [each for each in images if reference is None or reference in tags[id(each)]]
    if len(fitting) != 1:
        names = sorted({tag for each in tags.values() for tag in each})
        machine = ARCHITECTURES.get(os.uname().machine, os.uname().machine)
        raise RefusedError(_choice(len(fitting), machine, names, reference))
    config = _document(files.named(fitting[0]["Config"]))
    paths = _list(fitting[0], "Layers")
    if len(paths) > MOST_LAYERS:
        raise RefusedError(f"it has more than {MOST_LAYERS} layers")
    layers = [Layer(files.named(path)) for path in paths]
    _identify(layers, config)
    return Found("docker", layers, config)


def _tags(image: dict[str, Any]) -> list[str]:
    tags = image.get("RepoTags")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _identify(layers: list[Layer], config: object) -> None:
    """Tells each layer what it is to be when it is uncompressed."""
    if not isinstance(config, dict):
        raise RefusedError("its configuration is none")
    identifiers = _list(config.get("rootfs"), "diff_ids")
    if len(identifiers) != len(layers):
        raise RefusedError(
            f"its configuration is of {len(identifiers)} layers, and it has {len(layers)}"
        )
    for layer, identifier in zip(layers, identifiers, strict=True):
        layer.diff_id = ":".join(split(identifier))
