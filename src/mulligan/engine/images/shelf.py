"""The images of a data directory for people: what is there, what uses it, and how it goes."""

from __future__ import annotations

import contextlib
import json

from mulligan.errors import ImageInUse
from mulligan.images.store import ImageRecord, store_of
from mulligan.layers.directories import remove_tree
from mulligan.models import Image
from mulligan.settings import Settings


class Shelf:
    """The images of a data directory, whether a server uses it or not.

    Args:
        settings: of the data directory.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.store = store_of(settings)

    def all(self) -> list[Image]:
        """The images, by name.

        Raises:
            ConfigError: one is damaged.
        """
        found = ((name, self.store.get(digest)) for name, digest in self.store.names().items())
        users = self._users()
        return [self._shown(name, record, users) for name, record in found if record is not None]

    def get(self, name: str) -> Image:
        """An image by its name.

        Raises:
            ImageNotFound: there is none.
            ConfigError: it is damaged.
        """
        record = self.store.find(name)
        if record is None:
            raise self.store.missing(name)
        return self._shown(name, record, self._users())

    def _shown(self, name: str, record: ImageRecord, users: dict[str, list[str]]) -> Image:
        fields = record.model_dump(exclude={"format"})
        vms = users.get(record.digest, [])
        return Image(name=name, **fields, vms=vms, vm_types=self.types(name))

    def _users(self) -> dict[str, list[str]]:
        """The ids of VMs, by the digests of images they were made of."""
        found: dict[str, list[str]] = {}
        for path in sorted((self._settings.data_dir / "vms").glob("vm-*/vm.json")):
            with contextlib.suppress(OSError, ValueError):  # it is being removed, or damaged
                digest = json.loads(path.read_bytes()).get("image")
                if isinstance(digest, str):
                    found.setdefault(digest, []).append(path.parent.name)
        return found

    def types(self, name: str) -> list[str]:
        """The VM types that have an image."""
        return [each for each, known in self._settings.vm_types.items() if known.image == name]

    def remove(self, name: str) -> None:
        """Removes an image that nothing uses.

        Raises:
            ImageNotFound: there is none of that name.
            ImageInUse: something uses it; the text says what.
            OSError: it could not be removed.
        """
        image = self.get(name)
        others = [each for each, digest in self.store.names().items() if digest == image.digest]
        if image.vms and others == [name]:
            raise ImageInUse(
                f"{len(image.vms)} VMs are of image {name}, such as {image.vms[0]}",
                field="name",
                remedy="remove them first (mulligan vm rm)",
            )
        if image.vm_types:
            raise ImageInUse(
                f"VM type {image.vm_types[0]} has image {name}",
                field=f"vm_types.{image.vm_types[0]}.image",
                remedy="give it another image in the settings first",
            )
        gone = self.store.remove(name)
        if gone is not None:
            remove_tree(gone)

    def unused(self) -> list[str]:
        """Digests of images that lost their name to another and that no VM is of."""
        users = self._users()
        return [each for each in self.store.unnamed() if each not in users]

    def collect(self) -> list[str]:
        """Removes images that lost their name to another and that no VM is of; their digests."""
        removed = []
        for digest in self.unused():
            with contextlib.suppress(BlockingIOError):  # a server that runs may make VMs of it
                gone = self.store.discard(digest)
                if gone is not None:
                    remove_tree(gone)
                    removed.append(digest)
        return removed
