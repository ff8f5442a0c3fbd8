"""Images beside the host's own, on disk: named, found by what is in them, and never changed.

::

    <data_dir>/images/store/<digest>/image.json   what is known of it
    <data_dir>/images/store/<digest>/rootfs/      its tree
    <data_dir>/images/store/<digest>/lock         shared by those that use it
    <data_dir>/images/names/<name>                the digest it stands for
    <data_dir>/images/work/                       where images are made

An image comes into the store by one rename and goes by one. Nothing on the host ever follows a path
into a ``rootfs``: what is in there, links included, was made by strangers.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from mulligan.errors import ConfigError, ImageInUse, ImageNotFound, ValidationFailed
from mulligan.models import ImageProgram, UtcTime
from mulligan.settings import Settings

FORMAT = 1
HOST = "host"
GONE = ".gone-"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ImageRecord(BaseModel):
    """``image.json``.

    Attributes:
        digest: of all names, modes, contents and links in its tree.
        kind: "tar", "docker" or "oci".
        source: what it was made of, in words.
        programs: by language.
        search: directories of its PATH.
        env: the other variables its programs start with.
        shell: the one its user has.
        machine: as ``uname -m`` has it.
        entries, bytes: how much is in it, and what that takes on the disk.
        left_out: entries of the archive that no image has, by kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: StrictInt = FORMAT
    digest: StrictStr = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    kind: StrictStr
    source: StrictStr
    created_at: UtcTime
    programs: dict[StrictStr, ImageProgram]
    search: list[StrictStr]
    env: dict[StrictStr, StrictStr]
    shell: StrictStr
    machine: StrictStr
    entries: StrictInt = Field(ge=0)
    bytes: StrictInt = Field(ge=0)
    left_out: dict[StrictStr, StrictInt] = Field(default_factory=dict)


def check_name(name: str) -> str:
    """A name an image can have.

    Raises:
        ValidationFailed: it is none.
    """
    if name == HOST or not NAME.fullmatch(name):
        raise ValidationFailed(
            f"no name for an image: {name[:100]!r}",
            field="name",
            remedy="up to 63 of a-z, 0-9 and . _ -, beginning with a letter or digit; not "
            "'host', which is this machine's own",
        )
    return name


def store_of(settings: Settings) -> ImageStore:
    """The images that some settings mean."""
    return ImageStore(settings.images.directory or settings.data_dir / "images")


class ImageStore:
    """Images on disk. Reading makes nothing.

    Args:
        directory: ``images`` of the data directory, or another.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.work = directory / "work"
        self._store = directory / "store"
        self._names = directory / "names"

    def names(self) -> dict[str, str]:
        """The digest each name stands for."""
        found = {}
        for path in sorted(self._names.glob("*")) if self._names.is_dir() else ():
            if NAME.fullmatch(path.name):
                digest = self.digest(path.name)
                if digest is not None:
                    found[path.name] = digest
        return found

    def digest(self, name: str) -> str | None:
        """The digest a name stands for; None where it is nobody's."""
        if not NAME.fullmatch(name):
            return None
        try:
            found = (self._names / name).read_text().strip()
        except FileNotFoundError:
            return None
        return found if DIGEST.fullmatch(found) else None

    def get(self, digest: str) -> ImageRecord | None:
        """An image by its digest.

        Raises:
            ConfigError: it is there and damaged.
        """
        path = self._place(digest) / "image.json"
        try:
            return ImageRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"image {path.parent} is damaged: {reason}",
                remedy="remove its directory, and build or import it again",
            ) from None

    def find(self, name: str) -> ImageRecord | None:
        """An image by its name."""
        digest = self.digest(name)
        return self.get(digest) if digest is not None else None

    def known(self) -> str:
        """The names there are, in words."""
        return ", ".join([HOST, *self.names()])

    def missing(self, name: str) -> ImageNotFound:
        """The error for a name no image has."""
        return ImageNotFound(
            f"no image {name[:100]!r}", field="name", remedy=f"there are: {self.known()}"
        )

    def rootfs(self, digest: str) -> Path:
        """The tree of an image."""
        return self._place(digest) / "rootfs"

    def _place(self, digest: str) -> Path:
        if not DIGEST.fullmatch(digest):
            raise ConfigError(f"no digest of an image: {digest[:100]!r}")
        return self._store / digest.partition(":")[2]

    def add(self, name: str, record: ImageRecord, tree: Path) -> ImageRecord:
        """Takes an image in, or finds the same there already, and gives it a name.

        Args:
            name: its own from now on, whatever had it before.
            record: of it.
            tree: its tree, which is moved; below ``work``.

        Returns:
            The record of what is there.

        Raises:
            ConfigError: the directory takes nothing.
        """
        try:
            for path in (self._store, self._names):
                path.mkdir(mode=0o711, exist_ok=True)
            known = self.get(record.digest)
            if known is None:
                self._add(record, tree)
                known = record
            staging = self.work / f"{secrets.token_hex(8)}.name"
            staging.write_text(f"{record.digest}\n")
            staging.replace(self._names / name)
        except OSError as error:
            raise ConfigError(
                f"the image cannot be kept in {self.directory}: {error.strerror}", field="data_dir"
            ) from None
        return known

    def _add(self, record: ImageRecord, tree: Path) -> None:
        staging = tree.parent / "image"
        staging.mkdir(mode=0o711)
        (staging / "lock").touch(mode=0o644)
        (staging / "image.json").write_text(record.model_dump_json(indent=2))
        tree.rename(staging / "rootfs")
        os.sync()  # a record must not outlive what it is of
        staging.rename(self._place(record.digest))

    def remove(self, name: str) -> Path | None:
        """Takes a name away, and the image with its last name.

        Returns:
            Where the image is now, for the caller to remove; None where another name still stands
            for it, or nothing was there.

        Raises:
            ImageNotFound: there is none of that name.
            ImageInUse: somebody uses it.
        """
        names = self.names()
        digest = names.pop(name, None)
        if digest is None:
            raise self.missing(name)
        if digest in names.values():
            (self._names / name).unlink()
            return None
        try:
            return self._discard(digest, (self._names / name).unlink)
        except BlockingIOError:
            raise ImageInUse(
                f"image {name} is used by a server that runs",
                field="name",
                remedy="remove it through that server (--server URL), or stop that first",
            ) from None

    def unnamed(self) -> Iterator[str]:
        """Digests of images that lost their name to another."""
        named = set(self.names().values())
        for path in self._store.glob("[0-9a-f]*") if self._store.is_dir() else ():
            if (digest := f"sha256:{path.name}") not in named and DIGEST.fullmatch(digest):
                yield digest

    def discard(self, digest: str) -> Path | None:
        """Takes away an image that has no name; see ``remove``.

        Raises:
            BlockingIOError: somebody uses it.
        """
        return self._discard(digest, lambda: None)

    def _discard(self, digest: str, first: Callable[[], object]) -> Path | None:
        place = self._place(digest)
        try:
            lock = os.open(place / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            first()
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            first()
            self.work.mkdir(mode=0o711, exist_ok=True)
            gone = self.work / f"{GONE}{secrets.token_hex(8)}"
            place.rename(gone)
        finally:
            os.close(lock)
        return gone

    def hold(self, digest: str) -> int | None:
        """A descriptor that keeps an image from being removed while it is open.

        None where there is no such image.
        """
        try:
            lock = os.open(self._place(digest) / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not self.rootfs(digest).is_dir():  # it was removed meanwhile
            os.close(lock)
            return None
        return lock
