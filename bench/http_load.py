"""Many clients of one server at a time: requests a second, how long they take, what it costs.

Usage: python -m bench.http_load [--clients N] [--seconds S] [--agents A] [--language L]

Each client runs one program after the other, over a connection of its own; clients and server share
this machine. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from bench.load import Connection, closed_loop, warm_up
from bench.measure import pss_kib
from bench.serving import Served, descendants
from mulligan.layers.directories import PASS_THROUGH, remove_tree

PROGRAMS = {"python": "print(1)", "bash": "echo 1"}


def state(pid: int) -> tuple[int, int, int, int]:
    """Of a server: its memory and that of all it started, in KiB, descriptors, processes."""
    status = Path(f"/proc/{pid}/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    below = descendants(pid)
    return rss, pss_kib(below), sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()), len(below)


async def measure(directory: Path, asked: argparse.Namespace) -> None:
    """Prints what was measured."""
    async with Served(directory) as served:
        clients = [
            Connection(
                served.port, f"agent-{number % asked.agents}", asked.language, asked.code or ""
            )
            for number in range(asked.clients)
        ]
        acts = [each.execute for each in clients]
        await warm_up(acts)
        await closed_loop(acts, min(5.0, asked.seconds))  # caches fill
        before = state(served.pid)
        done = await closed_loop(acts, asked.seconds)
        after = state(served.pid)
        for each in clients:
            await each.close()
    print(f"{asked.clients} clients of {asked.agents} agents, {asked.seconds:g} s, {asked.code!r}")
    print(
        f"{done.per_second:.0f} a second; "
        f"p50 {done.percentile(50):.1f} ms, p99 {done.percentile(99):.1f} ms"
    )
    names = ("the server's memory", "all its processes' (PSS)", "descriptors", "processes")
    for name, one, other in zip(names, before, after, strict=True):
        unit = " KiB" if "memory" in name or "PSS" in name else ""
        print(f"{name}: {one}{unit} before, {other}{unit} after")


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--agents", type=int, default=8, help="Whose programs they are.")
    parser.add_argument("--language", choices=PROGRAMS, default="python")
    asked = parser.parse_args()
    asked.code = PROGRAMS[asked.language]
    directory = Path(tempfile.mkdtemp(prefix="mulligan-bench-"))
    directory.chmod(PASS_THROUGH)
    try:
        asyncio.run(measure(directory, asked))
    finally:
        remove_tree(directory)


if __name__ == "__main__":
    main()
