"""Executions at 1, 8, 32 and 128 clients, beside bubblewrap per run: a table and a plot.

Usage: python -m bench.performance [--seconds S] [--clients 1,8,32,128] [--write]

Each client runs ``print(1)`` again and again; all ways take turns, in slices of the seconds, so
that they meet the same noise. ``--write`` puts table and plot into docs/performance.md and .svg.
Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import platform
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

from bench.load import Act, Connection, Load, closed_loop, warm_up
from bench.plot import panels
from bench.serving import Served
from mulligan import settings as settings_module
from mulligan.drivers.bubblewrap import preflight
from mulligan.engine.engine import Engine
from mulligan.layers.directories import PASS_THROUGH, remove_tree
from mulligan.models import VmExecuteRequest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"
MARKS = ("<!-- bench:begin -->", "<!-- bench:end -->")
CODE = "print(1)"
MOST_AGENTS = 32  # each has a VM
SLICES = 3
HTTP, DIRECT = "Mulligan over HTTP", "Mulligan in process"
BWRAP, BARE = "bubblewrap per run", "bare python3 -c"
WALLS = ("--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev")


async def execute(engine: Engine, agent_id: str) -> None:
    """One execution, isolated, in process."""
    request = VmExecuteRequest(agent_id=agent_id, language="python", code=CODE)
    done = await engine.execute(request)
    assert (done.outcome, done.stdout) == ("success", "1\n"), done


def spawned(pool: ThreadPoolExecutor, *command: str) -> Act:
    """One run of a command, by a thread that waits for it."""

    def run() -> None:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        assert done.stdout == b"1\n", done

    async def act() -> None:
        await asyncio.get_running_loop().run_in_executor(pool, run)

    return act


class Ways:
    """The ways to run a program that are measured. Use as an async context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = AsyncExitStack()
        self._opened: list[Connection] = []

    async def __aenter__(self) -> Ways:
        quiet = settings_module.load(data_dir=self._directory / "direct", log_level="error")
        self._engine = await self._stack.enter_async_context(Engine(quiet))
        self._served = await self._stack.enter_async_context(Served(self._directory / "served"))
        self._pool = self._stack.enter_context(ThreadPoolExecutor(max_workers=256))
        self.python = str(self._engine.fleet.images.host.python)
        self._bwrap = str(preflight.find_bwrap())
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self._opened:
            await each.close()
        await self._stack.aclose()

    def of(self, clients: int) -> dict[str, list[Act]]:
        """What each of so many clients does, by the ways' names."""
        agents = [f"agent-{number % MOST_AGENTS}" for number in range(clients)]
        connections = [Connection(self._served.port, each, "python", CODE) for each in agents]
        self._opened += connections
        bare = (self.python, "-c", CODE)
        return {
            HTTP: [each.execute for each in connections],
            DIRECT: [functools.partial(execute, self._engine, each) for each in agents],
            BWRAP: [spawned(self._pool, self._bwrap, *WALLS, "--", *bare)] * clients,
            BARE: [spawned(self._pool, *bare)] * clients,
        }


async def in_slices(ways: dict[str, list[Act]], seconds: float) -> dict[str, Load]:
    """What each way got done, in turns."""
    parts: dict[str, list[Load]] = {name: [] for name in ways}
    for name in (HTTP, DIRECT):
        await warm_up(ways[name])
    for _ in range(SLICES):
        for name, acts in ways.items():
            parts[name].append(await closed_loop(acts, seconds / SLICES))
    return {
        name: Load(
            loads[0].clients,
            sum(load.seconds for load in loads),
            [ms for load in loads for ms in load.milliseconds],
        )
        for name, loads in parts.items()
    }


async def measure(directory: Path, counts: list[int], seconds: float) -> tuple[list[str], str]:
    """The lines of the table, and the plot."""
    load = os.getloadavg()[0]
    found: dict[int, dict[str, Load]] = {}
    async with Ways(directory) as ways:
        python = ways.python
        for clients in counts:
            found[clients] = await in_slices(ways.of(clients), seconds)
    return table(found) + environment(python, seconds, load), plot(found)


def table(found: dict[int, dict[str, Load]]) -> list[str]:
    """What was measured, as Markdown."""
    lines = ["| clients | way | a second | p50 | p99 |", "| --- | --- | --- | --- | --- |"]
    for clients, ways in found.items():
        lines += [
            f"| {clients} | {name} | {load.per_second:.0f} | {load.percentile(50):.1f} ms | "
            f"{load.percentile(99):.1f} ms |"
            for name, load in ways.items()
        ]
    return lines


def plot(found: dict[int, dict[str, Load]]) -> str:
    """What was measured, as SVG."""

    def heights(of: Callable[[Load], float]) -> dict[str, list[float]]:
        names = next(iter(found.values()))
        return {name: [of(ways[name]) for ways in found.values()] for name in names}

    return panels(
        "Executions of print(1) at some numbers of clients, beside other ways",
        [f"{clients} client{'s' if clients > 1 else ''}" for clients in found],
        [
            ("Executions a second (more is better)", heights(lambda load: load.per_second)),
            ("99th percentile, ms (less is better)", heights(lambda load: load.percentile(99))),
        ],
    )


def environment(python: str, seconds: float, load: float) -> list[str]:
    """What was measured on."""
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout
    return [
        "",
        f"{os.cpu_count()} cores, Linux {platform.release()}, {version.strip()}; {seconds:g} s "
        f"each, in {SLICES} turns; load average {load:.1f} when it began.",
    ]


def write(lines: list[str], svg: str) -> None:
    """Puts the table into the page, between its marks, and the plot beside it."""
    before, rest = PAGE.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    body = "\n".join(lines)
    PAGE.write_text(f"{before}{MARKS[0]}\n{body}\n{MARKS[1]}{after}")
    PLOT.write_text(svg)


def run(task: Callable[[Path], Awaitable[tuple[list[str], str]]]) -> tuple[list[str], str]:
    """Does it with a directory for data, which is removed."""
    directory = Path(tempfile.mkdtemp(prefix="mulligan-bench-"))
    directory.chmod(PASS_THROUGH)

    async def whole() -> tuple[list[str], str]:
        return await task(directory)

    try:
        return asyncio.run(whole())
    finally:
        remove_tree(directory)


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=12.0, help="of each way, at each number")
    parser.add_argument("--clients", default="1,8,32,128")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    counts = [int(each) for each in asked.clients.split(",")]
    lines, svg = run(lambda directory: measure(directory, counts, asked.seconds))
    print("\n".join(lines))
    if asked.write:
        write(lines, svg)


if __name__ == "__main__":
    main()
