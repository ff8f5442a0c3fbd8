"""Sets of packages on disk.

::

    <data_dir>/packages/records/<id>.json   what a set is made of; its mtime: when it was last used
    <data_dir>/packages/pool/<id>/          the set itself, shown read-only in VMs as /packages/<id>
    <data_dir>/packages/builders/           the disks of VMs that build; emptied at every start
    <data_dir>/packages/gone/               what is being removed

A set is written by a builder on a disk of its own, and comes into the pool by one rename. Its
record is written before that, and one without a set is removed at the next start: a crash leaves a
whole set or none.

Every VM is shown the pool, and none can list it: ids are random, so that a program knows of the
sets its own executions asked for and no others. Where VMs run as the server's own user not even
that user may list it, until the store is closed.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from mulligan.errors import ExecutionFailed
from mulligan.layers.directories import make_directory, remove_tree, replace_file
from mulligan.log import get_logger
from mulligan.models.packages import PackageSet
from mulligan.settings import Settings

log = get_logger()

TOUCH_S = 60.0  # how exactly the last use is known
UNLISTED = 0o311
CLOSED = 0o700
MIB = 1024 * 1024
DAY_S = 86400.0


def directory_of(settings: Settings) -> Path:
    """Where sets of packages are."""
    return settings.data_dir / "packages"


def pool_of_sets(settings: Settings) -> Path:
    """What of it VMs are shown."""
    return directory_of(settings) / "pool"


class PackageStore:
    """The directory of sets. Its methods may be called from any thread.

    Args:
        directory: made if it is missing.
        durable: whether a set that is known also outlives a power cut.
    """

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self.pool = directory / "pool"
        self.builders = directory / "builders"
        self._records = directory / "records"
        self._gone = directory / "gone"
        self._durable = durable
        self._lock = threading.RLock()
        self._sets: dict[str, PackageSet] = {}
        self._by_request: dict[str, str] = {}
        self._used: dict[str, float] = {}
        for path in (directory, self._records, self._gone, self.builders):
            make_directory(path)
        self.pool.mkdir(exist_ok=True)

    def load(self) -> list[str]:
        """Reads what is there; a line for each record that cannot be used.

        What was half built or half removed goes.
        """
        self.pool.chmod(CLOSED)
        complaints = []
        for place in (self.builders, self._gone):
            for path in place.iterdir():
                remove_tree(path)
        for path in sorted(self._records.iterdir()):
            if path.suffix != ".json" or path.name.startswith("."):
                path.unlink()
                continue
            try:
                found = PackageSet.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                reason = str(error).splitlines()[0]
                complaints.append(f"{path} is damaged, and its set is removed: {reason}")
                path.unlink()
                continue
            if (self.pool / found.id).is_dir():
                self._take_in(found, path.stat().st_mtime)
            else:
                path.unlink()
        for path in list(self.pool.iterdir()):
            if path.name not in self._sets:
                self._discard(path)
        self.pool.chmod(0o711 if os.geteuid() == 0 else UNLISTED)
        return complaints

    def close(self) -> None:
        """Nothing runs any more: the pool can be listed again by who owns it."""
        self.pool.chmod(CLOSED)

    def _take_in(self, found: PackageSet, used: float) -> None:
        self._sets[found.id] = found
        self._used[found.id] = used
        for request in found.requests:
            self._by_request[request] = found.id

    def find(self, request: str) -> PackageSet | None:
        """The set that was made for a request, by the request's key; it counts as used now."""
        with self._lock:
            found = self._sets.get(self._by_request.get(request, ""))
            if found is not None:
                self._touch(found.id)
            return found

    def _touch(self, set_id: str) -> None:
        now = time.time()
        if now - self._used[set_id] > TOUCH_S:
            self._used[set_id] = now
            os.utime(self._records / f"{set_id}.json", (now, now))

    def all(self) -> list[PackageSet]:
        """Every set, the one used last first."""
        with self._lock:
            order = sorted(self._sets.values(), key=lambda each: -self._used[each.id])
            return [self._shown(each) for each in order]

    def _shown(self, found: PackageSet) -> PackageSet:
        used = datetime.fromtimestamp(self._used[found.id], UTC)
        return found.model_copy(update={"last_used_at": used})

    def add(self, made: PackageSet, tree: Path) -> PackageSet:
        """Takes in a set that was built.

        Where the same was asked for before, and came to the same, that is used from now on. A set
        answers for nothing else: what it is made of is told by a builder, in which code of packages
        may have run, and another agent's executions would be given what that one says is theirs.

        Args:
            made: its record.
            tree: what the builder wrote, which nothing writes to any more.

        Raises:
            ExecutionFailed: there is no such tree.
            OSError: it could not be done.
        """
        with self._lock:
            known = self._sets.values()
            same = (x for x in known if (x.key, x.requests) == (made.key, made.requests))
            if (found := next(same, None)) is not None:
                self._take_in(found, time.time())
                return found
            check_place(tree)
            self._write(made)
            if self._durable:
                os.sync()  # what VMs wrote is in no order of ours
            tree.chmod(0o755)
            tree.rename(self.pool / made.id)
            self._take_in(made, time.time())
            return made

    def _write(self, record: PackageSet) -> None:
        path = self._records / f"{record.id}.json"
        replace_file(path, record.model_dump_json(), durable=self._durable)

    def remove(self, set_id: str) -> bool:
        """Removes a set; false where there is none of that id."""
        with self._lock:
            found = self._sets.pop(set_id, None)
            if found is None:
                return False
            self._used.pop(set_id, None)
            for request in found.requests:
                if self._by_request.get(request) == set_id:
                    del self._by_request[request]
            gone = self._move_away(self.pool / set_id)
            (self._records / f"{set_id}.json").unlink(missing_ok=True)
        remove_tree(gone)
        return True

    def forget(self, request: str) -> None:
        """Has a request resolved anew the next time."""
        with self._lock:
            self._by_request.pop(request, None)

    def _move_away(self, path: Path) -> Path:
        gone = self._gone / secrets.token_hex(8)
        path.rename(gone)
        return gone

    def _discard(self, path: Path) -> None:
        remove_tree(self._move_away(path))

    def spare(self, in_use: set[str], unused_days: float, most_mb: int) -> list[str]:
        """Removes sets that nobody used for long, and the longest unused where they are too many.

        Args:
            in_use: ids of sets that stay.
            unused_days: how long one may lie unused; 0: any time.
            most_mb: MiB all of them may take; 0: any amount.

        Returns:
            The ids of what was removed.
        """
        removed = []
        with self._lock:
            order = sorted(self._sets.values(), key=lambda each: self._used[each.id])
            total = sum(each.size_bytes for each in order)
            now = time.time()
            for each in order:
                old = unused_days and now - self._used[each.id] > unused_days * DAY_S
                large = most_mb and total > most_mb * MIB
                if each.id not in in_use and (old or large):
                    removed.append(each.id)
                    total -= each.size_bytes
        return [set_id for set_id in removed if self.remove(set_id)]


def check_place(path: Path) -> None:
    """Makes sure that a builder left a directory, and no link, where its set belongs.

    Args:
        path: ``<disk>/<generation>/upper/packages/<id>``; the builder, all of whose disk is its
            own, has ended.

    Raises:
        ExecutionFailed: it did not.
    """
    try:
        kept = all(stat.S_ISDIR(each.lstat().st_mode) for each in (path, *path.parents[:3]))
    except OSError:
        kept = False
    if not kept:
        raise ExecutionFailed("the builder left no set of packages behind")


def key_of(*parts: object) -> str:
    """A name that changes with any of some values, which JSON can have."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
