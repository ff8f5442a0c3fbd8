"""The images of a data directory for people: what is there, what uses it, and how it goes."""

from __future__ import annotations

import contextlib
import json

from mulligan.errors import ValidationFailed
from mulligan.images.store import ImageRecord, store_of
from mulligan.layers.directories import remove_tree
from mulligan.settings import Settings


class Shelf:
    """The images of a data directory, whether a server uses it or not.

    Args:
        settings: of the data directory.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.store = store_of(settings)

    def all(self) -> list[tuple[str, ImageRecord]]:
        """Images with their names, by name.

        Raises:
            ConfigError: one is damaged.
        """
        found = ((name, self.store.get(digest)) for name, digest in self.store.names().items())
        return [(name, record) for name, record in found if record is not None]

    def get(self, name: str) -> ImageRecord:
        """An image by its name.

        Raises:
            ValidationFailed: there is none.
            ConfigError: it is damaged.
        """
        record = self.store.find(name)
        if record is None:
            raise ValidationFailed(
                f"no image {name[:100]!r}", field="name", remedy=f"there are: {self.store.known()}"
            )
        return record

    def vms(self, digest: str) -> list[str]:
        """The ids of VMs that were made of an image."""
        found = []
        for path in sorted((self._settings.data_dir / "vms").glob("vm-*/vm.json")):
            with contextlib.suppress(OSError, ValueError):  # it is being removed, or damaged
                if json.loads(path.read_bytes()).get("image") == digest:
                    found.append(path.parent.name)
        return found

    def types(self, name: str) -> list[str]:
        """The VM types that have an image."""
        return [each for each, known in self._settings.vm_types.items() if known.image == name]

    def remove(self, name: str) -> None:
        """Removes an image that nothing uses.

        Raises:
            ValidationFailed: there is none of that name, or something uses it; the text says what.
            OSError: it could not be removed.
        """
        record = self.get(name)
        others = [each for each, digest in self.store.names().items() if digest == record.digest]
        users = self.vms(record.digest)
        if users and others == [name]:
            raise ValidationFailed(
                f"{len(users)} VMs are of image {name}, such as {users[0]}",
                field="name",
                remedy="remove them first (mulligan vm rm)",
            )
        types = self.types(name)
        if types:
            raise ValidationFailed(
                f"VM type {types[0]} has image {name}",
                field=f"vm_types.{types[0]}.image",
                remedy="give it another image in the settings first",
            )
        gone = self.store.remove(name)
        if gone is not None:
            remove_tree(gone)

    def collect(self) -> list[str]:
        """Removes images that lost their name to another and that no VM is of; their digests."""
        removed = []
        for digest in list(self.store.unnamed()):
            if not self.vms(digest):
                with contextlib.suppress(BlockingIOError):  # a server that runs may make VMs of it
                    gone = self.store.discard(digest)
                    if gone is not None:
                        remove_tree(gone)
                        removed.append(digest)
        return removed
