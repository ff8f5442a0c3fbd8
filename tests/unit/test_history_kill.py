"""kill -9 at any moment: what was acknowledged is there."""

import os
import random
import signal
import threading
from pathlib import Path

import pytest

from mulligan.history import HistoryStore
from support.history import ended, entry

ROUNDS = 10
BIG = "0123456789" * 20


def writer(directory: Path, durability: str, round_: int, output: int) -> None:
    """Adds rows from two threads until it is killed; writes "+id" and "=id" when they are kept."""
    store = HistoryStore(directory, durability=durability, output_inline_bytes=100)
    store.open()

    def work(thread: int) -> None:
        for number in range(10**6):
            begun = entry(f"vm-{thread}", id=f"exec-{round_}-{thread}-{number}")
            store.begin(begun, max_entries=None)
            os.write(output, f"+{begun.id}\n".encode())
            stdout = BIG if number % 5 == 0 else "small"
            store.finish(ended(begun, stdout=stdout))
            os.write(output, f"={begun.id}\n".encode())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, durability: str) -> None:
    acknowledged: set[str] = set()
    for round_ in range(ROUNDS // 2):
        source, sink = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(source)
                writer(tmp_path, durability, round_, sink)
            finally:
                os._exit(1)
        os.close(sink)
        with os.fdopen(source) as lines:
            wanted = random.randrange(1, 250)
            for _ in range(wanted):
                acknowledged.add(lines.readline().rstrip())
            os.kill(child, signal.SIGKILL)
            acknowledged.update(line.rstrip() for line in lines if line.endswith("\n"))
        os.waitpid(child, 0)
        with HistoryStore(tmp_path, output_inline_bytes=100) as store:
            for line in acknowledged:
                row = store.get(line[1:])
                assert row is not None, line
                assert row.outcome in {"success", "lost"}
                if line.startswith("="):
                    assert (row.outcome, row.stdout[:5]) in {
                        ("success", "small"),
                        ("success", "01234"),
                    }
                    assert row.stdout in {"small", BIG}
    assert len(acknowledged) > ROUNDS
