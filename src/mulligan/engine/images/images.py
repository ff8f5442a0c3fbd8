"""The images VMs are made of: the host's own, and those of the store that types and VMs name."""

from __future__ import annotations

import os
from collections.abc import Iterable

from mulligan.errors import ConfigError
from mulligan.images.host import HostImage
from mulligan.images.store import HOST, ImageStore, store_of
from mulligan.images.stored import stored_image
from mulligan.settings import Settings


class Images:
    """The images of an engine. None of them can be removed while it has hold of them.

    Args:
        host: the host's own.
        store: the others.
    """

    def __init__(self, host: HostImage, store: ImageStore) -> None:
        self.host = host
        self._store = store
        self._by_type: dict[str, HostImage] = {}
        self._stored: dict[str, HostImage] = {}
        self._held: dict[str, int] = {}

    def load(self, types: dict[str, str], recorded: Iterable[str | None]) -> None:
        """Finds the images that VM types name, and those VMs were made of.

        Args:
            types: the name of each type's image.
            recorded: digests.

        Raises:
            ConfigError: a type names one there is none of.
        """
        names = self._store.names()
        for vm_type, name in types.items():
            digest = names.get(name)
            found = self.host if name == HOST else self._take(digest) if digest else None
            if found is None:
                raise ConfigError(
                    f"there is no image {name!r}",
                    field=f"vm_types.{vm_type}.image",
                    remedy=f"make it with mulligan image build or import; there are: "
                    f"{self._store.known()}",
                )
            self._by_type[vm_type] = found
        for digest in {each for each in recorded if each is not None}:
            self._take(digest)

    def _take(self, digest: str) -> HostImage | None:
        if digest not in self._stored:
            held = self._store.hold(digest)
            if held is None:
                return None
            self._held[digest] = held
            record = self._store.get(digest)
            if record is None:
                return None
            self._stored[digest] = stored_image(record, self._store.rootfs(digest), self.host)
        return self._stored[digest]

    def of_type(self, vm_type: str) -> HostImage:
        """What VMs of a type are made of; of none there is, the host's."""
        return self._by_type.get(vm_type, self.host)

    def of(self, digest: str | None) -> HostImage:
        """What a VM was made of.

        Raises:
            ConfigError: its image is gone.
        """
        if digest is None:
            return self.host
        found = self._stored.get(digest)
        if found is None:
            raise ConfigError(
                f"its image {digest} is not there",
                remedy="import the same again, and start Mulligan anew: it is known by what is in "
                "it",
            )
        return found

    def let_go(self, digest: str) -> None:
        """Lets go of an image no VM is of, so that it can be removed; not of one of a VM type."""
        if all(each.digest != digest for each in self._by_type.values()):
            self._stored.pop(digest, None)
            held = self._held.pop(digest, None)
            if held is not None:
                os.close(held)

    def close(self) -> None:
        """Lets go of them. May be repeated."""
        while self._held:
            os.close(self._held.popitem()[1])


def open_images(settings: Settings, host: HostImage, recorded: Iterable[str | None]) -> Images:
    """The images of an engine; see ``Images``.

    Args:
        settings: say which image each type has.
        host: the host's own.
        recorded: digests of images that VMs were made of.

    Raises:
        ConfigError: a type names an image there is none of; the text names the key.
    """
    images = Images(host, store_of(settings))
    try:
        images.load({name: each.image for name, each in settings.vm_types.items()}, recorded)
    except BaseException:
        images.close()
        raise
    return images
