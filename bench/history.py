"""Measures the history among a million rows and prints a table.

``python -m bench.history [--rows N] [--url URL]``: rows of 1,000 VMs, then all of one VM. Medians
and 95th percentiles in milliseconds. The rows are loaded in bulk, past the interface; inserts and
queries go through it. With ``--url``, a PostgreSQL database is used, which must be empty.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles

from sqlalchemy import Connection, insert

from mulligan.history import HistoryStore, records, schema, words
from mulligan.history.blocks import BLOCK_ROWS
from mulligan.history.columns import microseconds
from mulligan.history.database import Database, open_sqlite, open_url
from mulligan.history.sequence import SPAN, vm_of
from mulligan.models import CommandHistoryEntry, HistoryQueryRequest

ROUNDS = 40
BATCH = 10_000
START = datetime(2024, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=30)
LANGUAGES = ("python", "python", "python", "bash", "javascript")


def entry(number: int, vm_id: str, **values: object) -> CommandHistoryEntry:
    """An execution like many: one in twenty fails, one in 2,500 is about an anaconda."""
    failed = number % 20 == 7
    rare = " anaconda" if number % 2500 == 11 else ""
    common = {
        "id": f"exec-{number:016x}",
        "vm_id": vm_id,
        "agent_id": "agent",
        "command": f"import os\nvalue_{number % 5000} = {number}\nprint(os.getcwd(), {rare!r})",
        "language": LANGUAGES[number % len(LANGUAGES)],
        "success": not failed,
        "exit_code": int(failed),
        "stdout": f"/home/agent {number} step {number % 300} of the pipeline is done",
        "stderr": "Traceback: ZeroDivisionError: division by zero" if failed else "",
        "executed_at": START + number * STEP,
        "completed_at": START + number * STEP,
        "duration_ms": 12,
        "outcome": "failure" if failed else "success",
        "snapshot_before": f"snap-{number:016x}",
    }
    return CommandHistoryEntry.model_construct(**{**CONSTANT, **common, **values})


CONSTANT = {
    name: field.get_default(call_default_factory=True)
    for name, field in CommandHistoryEntry.model_fields.items()
    if not field.is_required()
}


class Loader:
    """Rows in bulk, with the blocks `mulligan.history.blocks` would have made."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open: dict[tuple[str, str, str], dict[str, object]] = {}
        self._blocks: list[dict[str, object]] = []

    def load(self, vms: list[str], placed: list[tuple[int, int]]) -> None:
        """Loads executions, given as (place of the VM in ``vms``, number), VM after VM."""
        rows: list[dict[str, object]] = []
        found: list[dict[str, object]] = []
        sqlite = self._connection.dialect.name == "sqlite"
        taken: dict[int, int] = {}
        for vm, number in placed:
            each = entry(number, vms[vm])
            taken[vm] = taken.get(vm, 0) + 1
            seq = (vm + 1) * SPAN + taken[vm]
            block = self._block(seq, each)
            rows.append(records.entry_row(each) | {"seq": seq, "block_id": block["id"]})
            named = words.words_of(each.command, each.stdout, each.stderr)
            every = words.every_word(named, failed=not each.success)
            found.append({"seq": seq, "words": " ".join(every) if sqlite else every})
            if len(rows) == BATCH:
                self._write(rows, found)
        numbers = [
            {"number": vm + 1, "vm_id": vms[vm], "taken": count} for vm, count in taken.items()
        ]
        self._connection.execute(insert(schema.vms), numbers)
        self._write(rows, found)
        self._connection.execute(insert(schema.blocks), self._blocks)
        if self._connection.dialect.name == "postgresql":
            for table, key in (("vms", "number"), ("blocks", "id")):
                self._connection.exec_driver_sql(
                    f"SELECT setval('mulligan_{table}_{key}_seq', max({key})) FROM mulligan_{table}"
                )

    def _block(self, seq: int, each: CommandHistoryEntry) -> dict[str, object]:
        status = records.status(each)
        key = (vm_of(seq), each.language, status)
        block = self._open.get(key)
        moment = microseconds(each.executed_at)
        if block is None or block["taken"] == BLOCK_ROWS:
            block = {
                "id": len(self._blocks) + 1,
                "vm": vm_of(seq),
                "agent_id": each.agent_id,
                "language": each.language,
                "kernel": each.kernel,
                "status": status,
                "rows": 0,
                "taken": 0,
                "min_seq": seq,
                "min_time": moment,
            }
            self._open[key] = block
            self._blocks.append(block)
        block["rows"] = block["taken"] = int(str(block["taken"])) + 1
        block["max_seq"], block["max_time"] = seq, moment
        return block

    def _write(self, rows: list[dict[str, object]], found: list[dict[str, object]]) -> None:
        if rows:
            self._connection.execute(insert(schema.executions), rows)
            add = words._INSERT[self._connection.dialect.name]
            for each in found:
                add.run(self._connection, each)
        rows.clear()
        found.clear()


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    name: str
    milliseconds: list[float]
    total: int | None = None


def timed(name: str, action: Callable[[int], int | None]) -> Line:
    """Runs an action some times, after one time that does not count."""
    total = action(0)
    taken = []
    for number in range(1, ROUNDS + 1):
        start = time.perf_counter()
        action(number)
        taken.append((time.perf_counter() - start) * 1000)
    return Line(name, taken, total)


def queries(store: HistoryStore, vms: list[str], newest: datetime) -> Iterator[Line]:
    """All kinds of queries, each round in another VM."""
    middle = START + (newest - START) / 2
    kinds: dict[str, dict[str, object]] = {
        "newest 100": {},
        "newest 20": {"limit": 20},
        "failures only": {"failures_only": True},
        "language": {"language": "bash"},
        "dates, a middle tenth": {
            "start_date": middle,
            "end_date": middle + (newest - START) / 10,
        },
        "dates, first half, failures": {"end_date": middle, "failures_only": True},
        "search, rare word": {"search": "anaconda"},
        "search, identifier": {"search": "value_4711"},
        "search, 1 row in 300": {"search": "step 299"},
        "search, 1 in 20": {"search": "ZeroDivisionError"},
        "search, 1 in 20, failures": {"search": "division", "failures_only": True},
        "search, in all rows": {"search": "pipeline"},
        "search, nowhere": {"search": "nowhere_to_be_found"},
    }
    for name, filters in kinds.items():

        def ask(number: int, filters: dict[str, object] = filters) -> int:
            request = HistoryQueryRequest(vm_id=vms[number % len(vms)], **filters)
            return store.query(request).total

        yield timed(name, ask)
    yield timed("the newest", lambda number: store.last(vms[number % len(vms)]) and 1)


def inserts(store: HistoryStore, vms: list[str], rows: int, most: int | None) -> Iterator[Line]:
    """Begin and finish, in turn."""
    begun, finished = [], []
    for number in range(rows, rows + 5 * ROUNDS):
        vm_id = vms[number % len(vms)]
        now = datetime.now(UTC)
        new = entry(number, vm_id, outcome="running", success=False, executed_at=now, stdout="")
        start = time.perf_counter()
        store.begin(new, max_entries=most)
        middle = time.perf_counter()
        store.finish(entry(number, vm_id, executed_at=now))
        end = time.perf_counter()
        begun.append((middle - start) * 1000)
        finished.append((end - middle) * 1000)
    yield Line("begin", begun)
    yield Line("finish", finished)


def database(directory: Path, url: str | None) -> Database:
    if url is not None:
        return open_url(url, power=False)
    return open_sqlite(directory / "history.db", power=False)


def measure(rows: int, vms: list[str], url: str | None, durability: str) -> list[Line]:
    """Fills a new history and measures it."""
    chooser = random.Random(1)
    placed = sorted((chooser.randrange(len(vms)), number) for number in range(rows))
    with tempfile.TemporaryDirectory(prefix="mulligan-bench-") as name:
        directory = Path(name)
        loaded = database(directory, url)
        with loaded.write() as connection:
            Loader(connection).load(vms, placed)
        with loaded.read() as connection:
            connection.exec_driver_sql("PRAGMA optimize" if url is None else "ANALYZE")
            connection.commit()
        loaded.close()
        with HistoryStore(directory, url=url, durability=durability) as store:
            lines = list(queries(store, vms, START + rows * STEP))
            most = rows // len(vms)
            lines += inserts(store, vms, rows, None)
            dropping = inserts(store, vms, rows + 5 * ROUNDS, most)
            lines += [Line(f"{line.name}, oldest dropped", line.milliseconds) for line in dropping]
        return lines


def show(title: str, lines: list[Line]) -> None:
    print(f"\n{title}\n{'':34}{'median':>9}{'p95':>9}{'total':>10}")
    for line in lines:
        p95 = quantiles(line.milliseconds, n=20)[-1]
        total = "" if line.total is None else f"{line.total:,}"
        print(f"{line.name:34}{median(line.milliseconds):9.2f}{p95:9.2f}{total:>10}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--url")
    parser.add_argument("--durability", choices=["process", "power"], default="process")
    options = parser.parse_args()
    for count in (1000, 1):
        vms = [f"vm-{number:016x}" for number in range(count)]
        lines = measure(options.rows, vms, options.url, options.durability)
        show(f"{options.rows:,} rows of {count:,} VMs; milliseconds", lines)


if __name__ == "__main__":
    sys.exit(main())
