"""``mulligan demo``: what Mulligan does, shown in a few seconds on this machine."""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import typer
from rich.markup import escape

from mulligan import settings as settings_module
from mulligan.cli.console import out, printable, run_async
from mulligan.drivers.qemu.image import lend
from mulligan.engine.engine import Engine
from mulligan.errors import ValidationFailed
from mulligan.extraction import extract
from mulligan.images.toolchains import find
from mulligan.layers.directories import PASS_THROUGH, make_directory, remove_tree
from mulligan.models import ForkRequest, RollbackTo, VmExecuteRequest, VmExecuteResponse
from mulligan.settings import Settings

ANSWER = """\
Sure! This counts the primes below 10,000:

```python
sieve = [True] * 10_000
for n in range(2, 100):
    if sieve[n]:
        sieve[n * n :: n] = [False] * len(sieve[n * n :: n])
primes = [n for n in range(2, 10_000) if sieve[n]]
print(len(primes), "primes; the last is", primes[-1])
open("primes.txt", "w").write("".join(f"{prime}\\n" for prime in primes))
```

and this looks at the file it wrote:

```bash
wc -l primes.txt; tail -n 2 primes.txt
```
"""

SPY = """\
import os, pathlib
wanted = {needle!r}
for place in ({path!r}, "/etc/shadow", "/root/.ssh", "/proc/1/environ", "/var/lib"):
    try:
        found = os.listdir(place) if os.path.isdir(place) else pathlib.Path(place).read_text()
        print(f"{{place}}: {{'THE SECRET' if wanted in str(found) else found}}")
    except OSError as error:
        print(f"{{place}}: {{error.strerror}}")
print("in the environment:", "yes" if wanted in str(os.environ) else "no")
routes = pathlib.Path("/proc/net/route").read_text().splitlines()[1:]
print("routes out of here:", len(routes))
"""

RUNAWAY = """\
trap '' TERM HUP
(setsid bash -c "trap '' TERM; while :; do :; done" &)
echo 'I will never stop, and neither will my hidden child'
while :; do :; done
"""

WORK = "wc -l primes.txt; sha256sum primes.txt"
BREAK = "rm primes.txt; mkdir junk; echo oops > junk/oops; ls"
PREPARE = """\
import json
scores = {"ada": 3, "grace": 5}
journal = open("journal.txt", "w+")
journal.write("prepared\\n")
"""
SPOIL = """\
scores.clear()
del json
journal.close()
print("scores:", scores)
"""
LOOK = """\
journal.seek(0)
print("scores:", json.dumps(scores), "| journal:", journal.read().strip())
"""
LOOKS = 'scores: {"ada": 3, "grace": 5} | journal: prepared\n'
SURVIVORS = "set -- /proc/[0-9]*; echo $#"
ROUNDS = 30


def show() -> None:
    """Show isolation, a runaway program stopped, undo of files and variables, and what it costs."""
    directory = Path(tempfile.mkdtemp(prefix="mulligan-demo-"))
    directory.chmod(PASS_THROUGH)
    try:
        run_async(_demo(directory))
    finally:
        remove_tree(directory)


async def _demo(directory: Path) -> None:
    secret = f"secret-{secrets.token_hex(8)}"
    secret_file = directory / "host-secret.txt"
    secret_file.write_text(secret)
    os.environ["MULLIGAN_DEMO_SECRET"] = secret
    settings = _settings(directory / "data")
    async with Engine(settings) as engine:
        _place(engine)
        await _answer(engine)
        await _refused(engine, secret, secret_file)
    ungated = _settings(directory / "ungated", hooks={"enabled": False})
    async with Engine(ungated) as engine:
        await _spy(engine, secret, secret_file)
        await _runaway(engine)
    async with Engine(settings) as engine:
        await _undo(engine)
        await _variables(engine)
        await _timings(engine)
    del os.environ["MULLIGAN_DEMO_SECRET"]


def _settings(data_dir: Path, **changes: object) -> Settings:
    """As they are set, with a directory of the demonstration's own, which lends what VMs boot."""
    make_directory(data_dir)
    lend(settings_module.load().data_dir / "images", data_dir / "images")
    return settings_module.load(data_dir=data_dir, **changes)


def _place(engine: Engine) -> None:
    driver = engine.drivers.of_type(engine.settings.default_vm_type)
    _title(f"VMs by the driver {driver.name}")
    kernel = "a kernel of their own" if driver.capabilities.own_kernel else "the host's kernel"
    out.print(f"  {escape(printable(driver.about()))}; they have {kernel}")


async def _answer(engine: Engine) -> None:
    _title("A model's answer, its code found and run in a VM of its agent")
    for block in extract(ANSWER):
        response = await _run(engine, block.language, block.code)
        place = f"characters {block.start_pos}-{block.end_pos} of the answer"
        _show(f"{block.language}, {place}", response)


async def _refused(engine: Engine, secret: str, path: Path) -> None:
    _title("A program that looks for a secret lying on this machine, at the gate")
    try:
        await _run(engine, "python", SPY.format(needle=secret, path=str(path)))
    except ValidationFailed as error:
        out.print(f"  [green]refused[/green]: {escape(printable(str(error)))}")
    else:
        out.print("  [red]it was let through[/red]")
        raise typer.Exit(1)


async def _spy(engine: Engine, secret: str, path: Path) -> None:
    _title("The same program with all gates off: the walls")
    code = SPY.format(needle=secret, path=str(path))
    response = await _run(engine, "python", code)
    _show(f"the secret is in {path} and in this process's environment", response)
    leaked = secret in response.stdout or "THE SECRET" in response.stdout
    verdict = "[red]it got out[/red]" if leaked else "[green]nothing of it was found[/green]"
    out.print(f"  {verdict}")
    if leaked:
        raise typer.Exit(1)


async def _runaway(engine: Engine) -> None:
    _title("A program that ignores signals and hides a child in another session")
    before = int((await _run(engine, "bash", SURVIVORS)).stdout)
    response = await _run(engine, "bash", RUNAWAY, timeout=1)
    _show("time limit 1 s (times 1.5, as every Bash program gets)", response)
    after = int((await _run(engine, "bash", SURVIVORS)).stdout)
    out.print(f"  processes in the VM before: {before}, after: {after}")


async def _undo(engine: Engine) -> None:
    _title("A program that destroys its work, taken back")
    before = await _run(engine, "bash", WORK)
    _show("it looks around", before)
    vm_id = before.vm_id
    broke = await _run(engine, "bash", BREAK)
    _show("it breaks everything", broke)
    changes = await engine.past.diff(vm_id)
    for entry in changes.entries:
        out.print(f"  [yellow]{entry.change}[/yellow] {escape(printable(entry.path))}")
    start = time.perf_counter()
    await engine.past.rollback(vm_id, RollbackTo(execution_id=broke.execution_id))
    took = (time.perf_counter() - start) * 1000
    after = await _run(engine, "bash", WORK)
    _show(f"rolled back in {took:.1f} ms, it looks around again", after)
    same = after.stdout == before.stdout
    verdict = "[green]all is as it was[/green]" if same else "[red]something is missing[/red]"
    out.print(f"  {verdict}")
    start = time.perf_counter()
    forked = await engine.past.fork(vm_id, ForkRequest(count=10))
    took = (time.perf_counter() - start) * 1000
    out.print(f"  and {len(forked.vms)} forks of it, made in {took:.1f} ms")
    if not same:
        raise typer.Exit(1)


async def _variables(engine: Engine) -> None:
    _title("Variables of a live interpreter, taken back")
    await _run(engine, "python", PREPARE, kernel="main")
    broke = await _run(engine, "python", SPOIL, kernel="main")
    _show("a cell ruins the data another one prepared", broke)
    start = time.perf_counter()
    to = RollbackTo(execution_id=broke.execution_id)
    await engine.past.rollback(broke.vm_id, to)
    took = (time.perf_counter() - start) * 1000
    after = await _run(engine, "python", LOOK, kernel="main")
    _show(f"rolled back in {took:.1f} ms; the same interpreter has it again", after)
    if after.stdout != LOOKS:
        out.print("  [red]a variable is missing[/red]")
        raise typer.Exit(1)
    out.print("  [green]no variable, import or open file is missing[/green]")


async def _timings(engine: Engine) -> None:
    _title("What isolation costs here")
    chain = find("python")
    assert chain is not None  # the engine is open
    python = str(chain.program)  # not a version manager's shim, which is slower still
    bare, isolated = [], []
    for _ in range(ROUNDS):  # in turn, so that both meet the same noise
        start = time.perf_counter()
        await asyncio.to_thread(
            subprocess.run, [python, "-c", "print(1)"], stdout=subprocess.DEVNULL, check=True
        )
        bare.append(time.perf_counter() - start)
        start = time.perf_counter()
        await _run(engine, "python", "print(1)")
        isolated.append(time.perf_counter() - start)
    bare_ms, isolated_ms = (statistics.median(times) * 1000 for times in (bare, isolated))
    out.print(f"  python3 -c 'print(1)' on this machine, bare:  {bare_ms:6.1f} ms")
    out.print(f"  the same through Mulligan, isolated:          {isolated_ms:6.1f} ms")
    out.print(f"  medians of {ROUNDS} runs taken in turn; ratio {isolated_ms / bare_ms:.2f}")


async def _run(
    engine: Engine,
    language: str,
    code: str,
    timeout: int | None = None,
    kernel: str | None = None,
) -> VmExecuteResponse:
    request = VmExecuteRequest(
        agent_id="demo", language=language, code=code, timeout_seconds=timeout, kernel=kernel
    )
    return await engine.execute(request)


def _title(text: str) -> None:
    out.print(f"\n[bold]{text}[/bold]")


def _show(what: str, response: VmExecuteResponse) -> None:
    out.print(f"  [dim]{escape(what)}[/dim]")
    for line in printable(response.stdout + response.stderr).splitlines():
        out.print(f"  [cyan]|[/cyan] {escape(line)}")
    ended = response.error or f"exit code {response.exit_code}"
    out.print(f"  [dim]{ended}, {response.duration_ms} ms, {response.vm_id}[/dim]")
