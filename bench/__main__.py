"""Measures what the README promises and prints the table; ``--write`` puts it there too.

Medians; ratios are medians of pairs taken in turn. Nothing here passes or fails.
"""

import asyncio
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from bench.measure import Action, CleanUp, Times, in_turn, pss_kib
from bench.serving import Served, descendants
from mulligan import settings as settings_module
from mulligan.drivers.bubblewrap import preflight
from mulligan.engine.engine import Engine
from mulligan.guest.starts import SPARE_S
from mulligan.layers.directories import PASS_THROUGH, remove_tree
from mulligan.models import VmCreateRequest, VmExecuteRequest

ROUNDS = 40
FEW = 12
ROOT = Path(__file__).parent.parent
MARKS = ("<!-- bench:begin -->", "<!-- bench:end -->")


def spawn(*arguments: str) -> Action:
    """An action that runs a bare command."""

    async def action() -> None:
        # subprocess in this thread: a thread or a watcher would be measured along with it
        subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)

    return action


def execute(engine: Engine, language: str, code: str) -> Action:
    """An action that runs code isolated, in process."""
    request = VmExecuteRequest(agent_id="bench", language=language, code=code)

    async def action() -> None:
        assert (await engine.execute(request)).exit_code == 0

    return action


def execute_http(client: httpx.AsyncClient, language: str, code: str) -> Action:
    """The same over HTTP."""
    body = {"agent_id": "bench-http", "language": language, "code": code}

    async def action() -> None:
        assert (await client.post("/api/llm/execute", json=body)).json()["exit_code"] == 0

    return action


def cold(engine: Engine) -> Action:
    """An action that makes a VM and runs Python in it; it is removed in between."""

    async def action() -> CleanUp:
        vm = await engine.create_vm(VmCreateRequest(agent_id="cold"))
        request = VmExecuteRequest(agent_id="cold", language="python", code="print(1)", vm_id=vm.id)
        assert (await engine.execute(request)).exit_code == 0
        return lambda: engine.delete_vm(vm.id)

    return action


def others(python: str) -> dict[str, Action]:
    """Other ways to isolate one run of Python, those that are installed."""
    bwrap = str(preflight.find_bwrap())
    walls = ["--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    found: dict[str, Action] = {
        "bubblewrap per run": spawn(bwrap, *walls, "--", python, "-c", "print(1)")
    }
    if sandlock := shutil.which("sandlock"):
        found["sandlock per run"] = spawn(sandlock, "run", "--", python, "-c", "print(1)")
    if srt := shutil.which("srt"):
        found["sandbox-runtime per run"] = spawn(srt, f"{python} -c 'print(1)'")
    if runsc := shutil.which("runsc"):
        found["runsc do per run"] = spawn(runsc, "--network=none", "do", python, "-c", "print(1)")
    return found


async def usable(actions: dict[str, Action]) -> tuple[dict[str, Action], list[str]]:
    """Those actions that work here, and a line for each that does not."""
    good, lines = {}, []
    for name, action in actions.items():
        try:
            await action()
            good[name] = action
        except (OSError, subprocess.CalledProcessError) as error:
            lines.append(f"{name}: installed, but does not run here ({error})")
    absent = [name for name in ("sandlock", "srt", "runsc") if shutil.which(name) is None]
    lines += [f"{name}: not installed" for name in absent]
    return good, lines


async def measure(directory: Path) -> list[str]:
    """The lines of the table."""
    settings = settings_module.load(data_dir=directory / "data")
    async with Engine(settings) as engine:
        image = engine.fleet.images.host
        python, bash = str(image.python), str(image.toolchains["bash"].program)
        rows = [("what", "median", "beside it", "ratio")]

        def compare(label: str, mine: Times, theirs: Times, what: str) -> None:
            ratio = f"{mine.ratio(theirs):.2f}"
            rows.append((label, f"{mine.median:.1f} ms", f"{theirs.median:.1f} ms {what}", ratio))

        other, missing = await usable(others(python))
        times = await in_turn(
            ROUNDS,
            {
                "bare": spawn(python, "-c", "print(1)"),
                "isolated": execute(engine, "python", "print(1)"),
                "bash": spawn(bash, "-c", "true"),
                "bash isolated": execute(engine, "bash", "true"),
            },
        )
        compare("Python, in process", times["isolated"], times["bare"], "bare `python3 -c`")
        compare("`bash -c true`, in process", times["bash isolated"], times["bash"], "bare")
        async with Served(directory / "served") as served, served.client() as client:
            over = await in_turn(
                ROUNDS,
                {
                    "bare": spawn(python, "-c", "print(1)"),
                    "http": execute_http(client, "python", "print(1)"),
                },
            )
        compare("Python, over HTTP, one client", over["http"], over["bare"], "bare `python3 -c`")
        rest = await in_turn(
            FEW,
            {"cold": cold(engine), "bare": spawn(python, "-c", "print(1)"), **other},
        )
        compare("new VM to first result", rest["cold"], rest["bare"], "bare `python3 -c`")
        for name in other:
            compare(name, rest[name], rest["bare"], "bare `python3 -c`")
        rows.append(("idle VM, memory (PSS)", f"{idle_pss_mib(engine):.1f} MiB", "", ""))
        return [*table(rows), "", *environment(python), *(f"- {line}" for line in missing)]


def idle_pss_mib(engine: Engine) -> float:
    """Memory of one VM that has run a program and waits: bubblewrap, agent and zygote.

    What it keeps ready for a next program it lets go of after a while, which is waited for.
    """
    vm = next(vm for vm in engine.fleet.vms.values() if vm._machine is not None)
    assert vm._machine is not None
    before, until = len(descendants(vm._machine.pid)), time.monotonic() + 2 * SPARE_S
    while len(descendants(vm._machine.pid)) >= before and time.monotonic() < until:
        time.sleep(0.1)
    return pss_kib(descendants(vm._machine.pid)) / 1024


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as a Markdown table."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return [head, "|" + " --- |" * len(rows[0]), *body]


def environment(python: str) -> list[str]:
    """What was measured on."""
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout
    return [
        f"- {os.cpu_count()} cores, Linux {platform.release()}, {version.strip()}; "
        f"medians of {ROUNDS} (new VMs and other tools: {FEW}) runs taken in turn"
    ]


def write(lines: list[str]) -> None:
    """Puts the table into the README, between its marks."""
    path = ROOT / "README.md"
    text = path.read_text()
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    body = "\n".join(lines)
    path.write_text(f"{before}{MARKS[0]}\n{body}\n{MARKS[1]}{after}")


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="mulligan-bench-"))
    directory.chmod(PASS_THROUGH)
    try:
        lines = asyncio.run(measure(directory))
    finally:
        remove_tree(directory)
    print("\n".join(lines))
    if "--write" in sys.argv:
        write(lines)


if __name__ == "__main__":
    main()
