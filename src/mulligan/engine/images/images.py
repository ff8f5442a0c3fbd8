"""The images VMs are made of: the host's own, and those of the store that types and VMs name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

from mulligan.errors import ConfigError
from mulligan.images.host import HostImage
from mulligan.images.store import HOST, ImageStore, store_of
from mulligan.images.stored import stored_image
from mulligan.log import get_logger
from mulligan.settings import Settings

log = get_logger()


class Images:
    """The images of an engine. None of them can be removed while it has hold of them.

    A type's image is looked for each time a VM is made: what was built or imported meanwhile, by
    this process or another, is what the next VM is made of.

    Args:
        host: the host's own.
        store: the others.
        types: the name of each VM type's image.
    """

    def __init__(self, host: HostImage, store: ImageStore, types: dict[str, str]) -> None:
        self.host = host
        self._store = store
        self._types = types
        self._stored: dict[str, HostImage] = {}
        self._held: dict[str, int] = {}
        self._pinned: Counter[str | None] = Counter()

    def load(self, default: str, recorded: Iterable[str | None]) -> None:
        """Finds the images that VM types name, and those VMs were made of.

        Args:
            default: the type of VMs that are made unasked.
            recorded: digests.

        Raises:
            ConfigError: the default type names one there is none of.
        """
        for vm_type in self._types:
            try:
                self.of_type(vm_type)
            except ConfigError as error:
                if vm_type == default:
                    raise
                # It may be made any time, by this very server.
                log.warning("image_missing", vm_type=vm_type, error=str(error))
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
        """What VMs of a type are made of; of none there is, the host's.

        Raises:
            ConfigError: there is no image of the name its type has, or it is damaged.
        """
        digest = self.digest_of_type(vm_type)
        if digest is None:
            return self.host
        found = self._take(digest) if digest else None
        if found is None:
            raise ConfigError(
                f"there is no image {self._types[vm_type]!r}",
                field=f"vm_types.{vm_type}.image",
                remedy="make it with mulligan image build or import, and it is used at once; "
                f"there are: {self._store.known()}",
            )
        return found

    def digest_of_type(self, vm_type: str) -> str | None:
        """The digest of a type's image: None of the host's, "" where there is none."""
        name = self._types.get(vm_type, HOST)
        return None if name == HOST else self._store.digest(name) or ""

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

    def pin(self, digest: str | None) -> None:
        """A VM of an image is about to be made: it is not let go of until ``unpin``."""
        self._pinned[digest] += 1

    def unpin(self, digest: str | None) -> None:
        """That VM is on disk now, or is not made."""
        self._pinned[digest] -= 1
        self._pinned += Counter()  # forgets those with none

    def let_go(self, digest: str) -> None:
        """Lets go of an image no VM is of, so that it can be removed; not of one of a VM type."""
        if digest not in self._pinned and all(
            self.digest_of_type(each) != digest for each in self._types
        ):
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
        ConfigError: the default type names an image there is none of; the text names the key.
    """
    types = {name: each.image for name, each in settings.vm_types.items()}
    images = Images(host, store_of(settings), types)
    try:
        images.load(settings.default_vm_type, recorded)
    except BaseException:
        images.close()
        raise
    return images
