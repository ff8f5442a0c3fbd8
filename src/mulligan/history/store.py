"""The durable history: what was executed, and which states can be gone back to.

::

    <directory>/history.db       the rows (SQLite; with a url they are in PostgreSQL)
    <directory>/outputs/         outputs too large for a row

``docs/history-format.md`` has the tables, and what survives which kind of death.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Literal

from sqlalchemy import Connection

from mulligan.errors import HistoryError
from mulligan.history import pruning, queries, records, rows, sequence, snapshots
from mulligan.history.approvals import ApprovalStore
from mulligan.history.costs import Costs
from mulligan.history.database import Database, in_memory, open_sqlite, open_url
from mulligan.history.dropped import Dropped
from mulligan.history.failures import file_error
from mulligan.history.keys import KeyStore
from mulligan.history.outputs import STREAMS, Outputs, make_private
from mulligan.history.starts import Starts
from mulligan.log import get_logger
from mulligan.models import (
    CommandHistoryEntry,
    HistoryQueryRequest,
    HistoryQueryResponse,
    Snapshot,
)
from mulligan.settings import IdempotencySettings

log = get_logger()

INLINE_BYTES = 65536


class HistoryStore(Costs, Starts):
    """Rows of executions and snapshots.

    Its methods block, and may be called from any thread: writers take turns, readers go on
    meanwhile. What a method has returned from is kept, as ``durability`` promises. Every method
    raises HistoryError, with a remedy where there is one, when the database or the disk refuses;
    nothing of that call is kept then, and the store can be used on.

    One store at a time per database: opening one ends what another has running.

    Args:
        directory: of the history alone; made, for the server's user only, if it is missing.
        url: of a PostgreSQL database; None: SQLite in ``directory``.
        durability: "process": what is acknowledged survives the death of this process;
            "power": that of the machine, too.
        persist: False: executions and their outputs are kept in memory until `close` and leave
            nothing on the disk; snapshots are on the disk all the same. Rows of earlier times
            with ``persist`` stay there unseen.
        output_inline_bytes: stdout and stderr up to so many bytes of UTF-8 are kept in the row,
            larger ones in files.
    """

    def __init__(
        self,
        directory: Path,
        *,
        url: str | None = None,
        durability: Literal["process", "power"] = "process",
        persist: bool = True,
        output_inline_bytes: int = INLINE_BYTES,
    ) -> None:
        self._directory = directory
        self._url = url
        self._power = durability == "power"
        self._persist = persist
        self._inline = output_inline_bytes
        self._outputs = Outputs(directory / "outputs", durable=self._power)
        self._disk: Database | None = None  # snapshots, and executions if they persist
        self._memory: Database | None = None  # executions that do not persist
        self._gone: set[str] = set()  # VMs whose rows could not be removed yet

    def __enter__(self) -> HistoryStore:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> list[str]:
        """Opens the database, makes or updates its tables, and ends what a dead server left.

        Snapshots nobody asked for by hand go where no execution refers to them, as it is where
        executions did not persist.

        Returns:
            Ids of the executions that ran when that server died, oldest first; their outcome is
            "lost" now.

        Raises:
            ConfigError: the directory or the url cannot be used.
            HistoryError: the database is corrupted (it is left as it is), of a newer version,
                locked, unreachable or not writable; also where the store is open already.
        """
        if self._disk is not None:
            raise HistoryError("the history is open already")
        make_private(self._directory)
        if self._url is None:
            self._disk = open_sqlite(self._directory / "history.db", power=self._power)
        else:
            self._disk = open_url(self._url, power=self._power)
        try:
            lost = self._end_leftovers(self._disk)
            self._memory = None if self._persist else in_memory()
        except BaseException:
            self.close()
            raise
        return lost

    def close(self) -> None:
        """Closes the database; a store that is closed may be closed again, or opened."""
        for database in (self._memory, self._disk):
            if database is not None:
                database.close()
        self._memory = self._disk = None

    def approvals(self, *, expires_after: timedelta, use_within: timedelta) -> ApprovalStore:
        """The approvals in this database, kept on the disk whatever ``persist`` says."""
        return ApprovalStore(self._snapshots, expires_after=expires_after, use_within=use_within)

    def keys(self, settings: IdempotencySettings) -> KeyStore:
        """The idempotency keys in this database; their answers persist as executions do."""
        return KeyStore(
            self._snapshots,
            persist=self._persist,
            keep_for=timedelta(seconds=settings.keep_seconds),
            max_keys=settings.max_keys,
            max_bytes=settings.max_bytes,
        )

    def begin(
        self,
        entry: CommandHistoryEntry,
        *,
        max_entries: int | None,
        snapshot: tuple[Snapshot, str | None] | None = None,
    ) -> Dropped:
        """Adds a row for an execution that starts.

        Args:
            entry: its ``outcome`` is "running".
            max_entries: how many rows its VM may then have; None: any number. The oldest go,
                but none that is running and not this one.
            snapshot: one to be added with it, as by ``add_snapshot``: both are there, or neither.

        Returns:
            What was dropped for it: executions, and the snapshots of kinds "execution" and
            "restore_point" that thereby no row refers to any more. Their rows are gone.
        """
        prepared = self._prepare(entry)
        if snapshot is not None and self._snapshots() is not self._executions():
            self.add_snapshot(*snapshot)  # a snapshot nothing refers to goes at the next start
            snapshot = None
        with self._executions().write() as connection:
            if snapshot is not None:
                snapshots.add(connection, *snapshot)
            seq = rows.add(connection, prepared)
            if max_entries is None:
                return Dropped()
            gone = pruning.excess(connection, max_entries, seq)
            dropped = self._release(connection, gone) if gone.executions else Dropped()
        self._remove_outputs(gone.with_files)
        return dropped

    def finish(self, entry: CommandHistoryEntry) -> None:
        """Writes all fields of an execution over the row with its id; adds it if there is none.

        Doing it again with the same entry changes nothing. Its place in the order stays that of
        `begin`, and so does its VM.
        """
        prepared = self._prepare(entry)
        with self._executions().write() as connection:
            left = rows.write(connection, prepared)
        for stream in left:
            self._outputs.remove(entry.id, stream)

    def get(self, execution_id: str) -> CommandHistoryEntry | None:
        """The execution with that id, outputs whole; None if there is none.

        Of an output whose file is missing or unreadable, the text says so.
        """
        with self._executions().read() as connection:
            found = rows.get(connection, execution_id)
        return None if found is None else self._whole(found)

    def last(self, vm_id: str) -> CommandHistoryEntry | None:
        """A VM's newest execution that was let run, outputs whole; None if there is none."""
        with self._executions().read() as connection:
            found = queries.newest(connection, vm_id)
        return self._whole(found) if found else None

    def query(self, request: HistoryQueryRequest) -> HistoryQueryResponse:
        """A VM's executions, newest first: in the order they began, whatever the clock said.

        ``limit`` is 100 if it is not given and 1000 at most. ``failures_only`` leaves out what
        still runs. Dates are those of ``executed_at``, both included. ``search`` finds rows
        that have all its words in their code or output, see `words`; of each text the first
        65536 characters count. A blank one finds all, and one of punctuation alone nothing.

        Outputs are whole where they are in the row (`output_inline_bytes`). Of larger ones
        there are the first 4096 characters and a line that says so; `get` has them whole.
        """
        with self._executions().read() as connection:
            found, total = queries.find(
                connection, queries.Wanted.of(request), request.limit, request.offset
            )
        entries = [records.row_entry(records.shortened(row)) for row in found]
        return HistoryQueryResponse.model_construct(
            vm_id=request.vm_id, entries=entries, total=total
        )

    def add_snapshot(self, snapshot: Snapshot, layer: str | None) -> None:
        """Adds a snapshot.

        Args:
            snapshot: its id is new.
            layer: id of the topmost layer it is made of; None: the bare image.
        """
        with self._snapshots().write() as connection:
            snapshots.add(connection, snapshot, layer)

    def get_snapshot(self, snapshot_id: str) -> tuple[Snapshot, str | None] | None:
        """The snapshot with that id and its layer; None if there is none."""
        with self._snapshots().read() as connection:
            return snapshots.get(connection, snapshot_id)

    def list_snapshots(self, vm_id: str) -> list[Snapshot]:
        """A VM's snapshots, newest first."""
        with self._snapshots().read() as connection:
            return snapshots.of_vm(connection, vm_id)

    def delete_snapshot(self, snapshot_id: str) -> bool:
        """Removes a snapshot's row, and says whether there was one.

        Executions go on naming its id: it is part of what happened.
        """
        with self._snapshots().write() as connection:
            return snapshots.remove(connection, snapshot_id)

    def referenced_layers(self) -> set[tuple[str, str]]:
        """(agent id, layer id) of every layer a snapshot begins with."""
        with self._snapshots().read() as connection:
            return snapshots.layers(connection, self._gone)

    def forget_vm(self, vm_id: str) -> None:
        """``delete_vm`` for a VM that is gone; where it fails its rows stay until the next start.

        Its layers are not referenced any more all the same, or a full disk could not be freed.
        """
        try:
            self.delete_vm(vm_id)
        except HistoryError as error:
            self._gone.add(vm_id)
            log.warning("history_not_removed", vm_id=vm_id, error=str(error))

    def forget_all_but(self, vm_ids: set[str]) -> None:
        """Forgets the VMs that are gone."""
        for database in self._databases():
            with database.read() as connection:
                found = snapshots.vm_ids(connection) | sequence.vm_ids(connection)
            for vm_id in found - vm_ids:
                self.forget_vm(vm_id)

    def delete_vm(self, vm_id: str) -> Dropped:
        """Removes all of a VM: executions, running or not, outputs, snapshots of every kind."""
        ids: list[str] = []
        released: list[str] = []
        for database in self._databases():
            with database.write() as connection:
                gone = pruning.all_of(connection, vm_id)
                released += snapshots.remove_all(connection, vm_id)
            ids += gone.executions
            self._remove_outputs(gone.with_files)
        return Dropped(tuple(ids), tuple(released))

    def _databases(self) -> list[Database]:
        """All of them, the one with the snapshots last."""
        disk = self._snapshots()
        return [disk] if self._memory is None else [self._memory, disk]

    def _snapshots(self) -> Database:
        if self._disk is None:
            raise HistoryError("the history is closed", remedy="open it first")
        return self._disk

    def _executions(self) -> Database:
        return self._databases()[0]

    def _end_leftovers(self, database: Database) -> list[str]:
        with database.write() as connection:
            lost, doomed = rows.end_leftovers(connection)
            pruning.remove_unreferenced(connection)
        self._remove_outputs(doomed, half_written=True)
        return lost

    def _prepare(self, entry: CommandHistoryEntry) -> rows.Prepared:
        """The entry ready for its row; large outputs are in their files afterwards."""
        prepared = rows.prepare(entry)
        if not self._persist:
            return prepared
        for stream in STREAMS:
            text: str = prepared.columns[stream]
            if len(text.encode(errors="surrogatepass")) <= self._inline:
                continue
            try:
                self._outputs.write(entry.id, stream, text)
            except OSError as error:
                path = self._outputs.path(entry.id, stream)
                raise file_error(error, str(path)) from error
            prepared.columns[stream] = text[: min(records.HEAD_CHARS, self._inline)]
            prepared.columns[f"{stream}_in_file"] = True
        return prepared

    def _release(self, connection: Connection, gone: pruning.Gone) -> Dropped:
        """Removes the snapshots that nothing refers to now that some rows are gone."""
        with self._with_snapshots(connection) as other:
            ids = gone.snapshots | pruning.snapshots_of(other, gone.executions)
            candidates = pruning.automatic(other, sorted(ids))
            kept = pruning.referenced(other, candidates)
            if other is not connection:
                kept |= pruning.referenced(connection, candidates)
            released = [row.id for row in candidates if row.id not in kept]
            pruning.remove_snapshots(other, released)
        return Dropped(tuple(gone.executions), tuple(released))

    @contextmanager
    def _with_snapshots(self, connection: Connection) -> Iterator[Connection]:
        """A connection to the snapshots: the same, if executions persist."""
        if self._memory is None:
            yield connection
        else:
            with self._snapshots().write() as other:
                yield other

    def _remove_outputs(self, execution_ids: Sequence[str], *, half_written: bool = False) -> None:
        """Removes files of rows that are gone; what cannot be removed is tried at the next start.

        Nothing is raised: what the caller asked for is done and committed.
        """
        if not execution_ids:
            return
        remove = self._outputs.remove_half_written if half_written else self._outputs.remove
        done = []
        for execution_id in execution_ids:
            try:
                for stream in STREAMS:
                    remove(execution_id, stream)
                done.append(execution_id)
            except OSError as error:
                log.warning("outputs_left", execution=execution_id, reason=str(error))
        try:
            with self._snapshots().write() as connection:
                pruning.tick_off(connection, done)
        except HistoryError as error:
            log.warning("outputs_not_ticked_off", reason=str(error))

    def _whole(self, row: records.Row) -> CommandHistoryEntry:
        values = dict(row)
        for stream in STREAMS:
            if row[f"{stream}_in_file"]:
                values[stream] = self._outputs.read(row["id"], stream)
        return records.row_entry(values)
