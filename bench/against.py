"""Times executions of this checkout and of another revision in turn, so that both meet one noise.

Usage: python -m bench.against REVISION [--rounds N]

Each side is a process of its own with its own code and data; medians, and the median of the ratios
pair by pair. Nothing here passes or fails.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import Action, in_turn

ROOT = Path(__file__).parent.parent
ROUNDS = 60
PROGRAMS = {
    "python": "print(1)",
    "bash": "true",
    "bash, 100 processes": "for i in {1..100}; do /bin/true; done",
    "python, 200,000 calls": "import os\nfor _ in range(200000): os.getppid()",
}

# In a process of its own: an engine that runs what it is told by name, and says how long it took.
SIDE = """
import asyncio, sys, time
from pathlib import Path
from mulligan import settings
from mulligan.engine.engine import Engine
from mulligan.models import VmExecuteRequest

async def main(directory, programs):
    async with Engine(settings.load(data_dir=Path(directory))) as engine:
        print("ready", flush=True)
        for line in sys.stdin:
            name = line.strip()
            request = VmExecuteRequest(
                agent_id="bench", language=name.partition(",")[0], code=programs[name]
            )
            start = time.perf_counter()
            response = await engine.execute(request)
            took = time.perf_counter() - start
            assert response.exit_code == 0, response
            print(took, flush=True)

asyncio.run(main(sys.argv[1], eval(sys.argv[2])))
"""


class Side:
    """A checkout's engine in a process."""

    def __init__(self, source: Path, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SIDE, str(directory), repr(PROGRAMS)],
            env=os.environ | {"PYTHONPATH": str(source)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def action(self, name: str) -> Action:
        """An action that runs a program."""

        async def action() -> None:
            assert self._process.stdin is not None
            self._process.stdin.write(name + "\n")
            self._process.stdin.flush()
            assert float(self._read()) > 0

        return action

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("revision")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mulligan-bench-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        archive = ["git", "-C", str(ROOT), "archive", options.revision, "src"]
        packed = subprocess.run(archive, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-x", "-C", name], input=packed, check=True)
        sides = {
            "before": Side(directory / "src", directory / "before"),
            "now": Side(ROOT / "src", directory / "now"),
        }
        try:
            start = time.monotonic()
            for program in PROGRAMS:
                actions = {which: side.action(program) for which, side in sides.items()}
                times = asyncio.run(in_turn(options.rounds, actions))
                before, now = times["before"], times["now"]
                print(
                    f"{program:24} {before.median:8.2f} ms {now.median:8.2f} ms"
                    f"   ratio {now.ratio(before):.3f}"
                )
            print(f"{options.rounds} rounds, {time.monotonic() - start:.0f} s")
        finally:
            for side in sides.values():
                side.close()


if __name__ == "__main__":
    main()
