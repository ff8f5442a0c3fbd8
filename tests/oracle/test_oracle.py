"""Programs behave in a VM as they do on the bare host: stdout, stderr, exit code."""

import subprocess
import tempfile
from pathlib import Path

import pytest

from mulligan.engine.executions.programs import steps_for
from mulligan.guest.root import EXECUTION_DIR
from mulligan.images.host import WORKSPACE
from oracle.other_programs import BASH, JAVASCRIPT, RUST
from oracle.python_programs import PROGRAMS

pytestmark = pytest.mark.anyio
TIMEOUT_S = 60


def on_host(image, language: str, code: str) -> tuple[int, str, str]:
    """Runs a program bare, with the environment programs have in VMs; paths read as in a VM."""
    with tempfile.TemporaryDirectory() as scripts, tempfile.TemporaryDirectory() as workspace:
        _, steps, name = steps_for(language, image)
        Path(scripts, name).write_bytes(code.encode())
        code, texts = 0, ["", ""]
        for step in steps:
            done = subprocess.run(
                [part.replace(EXECUTION_DIR, scripts) for part in step],
                cwd=workspace,
                env=image.environment() | {"HOME": workspace},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                umask=0o022,
                preexec_fn=as_in_a_vm,
                check=False,
            )
            texts[0] += done.stdout.decode(errors="replace")
            texts[1] += done.stderr.decode(errors="replace")
            code = done.returncode if done.returncode >= 0 else 128 - done.returncode
            if code:
                break
        here = [(scripts, EXECUTION_DIR), (workspace, WORKSPACE)]
        for real, shown in here:
            texts = [text.replace(real, shown) for text in texts]
        return code, texts[0], texts[1]


def as_in_a_vm() -> None:
    """No core files, and no signal that whoever runs the tests happens to ignore."""
    import resource
    import signal

    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def normal(text: str) -> str:
    """Without what is never the same twice: addresses, process numbers, thread numbers."""
    import re

    text = re.sub(r"0x[0-9a-f]{6,}", "0xADDRESS", text)
    text = re.sub(r"(MainThread, started) \d+", r"\1 N", text)
    text = re.sub(r"thread 'main' \(\d+\)", "thread 'main' (N)", text)
    text = re.sub(r"(line \d+:)\s+\d+ (Terminated|Killed)", r"\1 N \2", text)
    return re.sub(r"\(node:\d+\)", "(node:N)", text)


async def compare(shared_run, language: str, code: str) -> None:
    image = shared_run.engine.fleet.images.host
    if language not in image.toolchains:
        pytest.skip(f"this host has no {language}")
    expected = on_host(image, language, code)
    response = await shared_run(code, language, timeout_seconds=TIMEOUT_S)
    got = (response.exit_code, response.stdout, response.stderr)
    assert [normal(str(part)) for part in got] == [normal(str(part)) for part in expected]


@pytest.mark.parametrize("name", PROGRAMS)
async def test_python(shared_run, name: str) -> None:
    await compare(shared_run, "python", PROGRAMS[name])


@pytest.mark.parametrize("name", BASH)
async def test_bash(shared_run, name: str) -> None:
    await compare(shared_run, "bash", BASH[name])


@pytest.mark.parametrize("name", JAVASCRIPT)
async def test_javascript(shared_run, name: str) -> None:
    await compare(shared_run, "javascript", JAVASCRIPT[name])


@pytest.mark.parametrize("name", RUST)
async def test_rust(shared_run, name: str) -> None:
    await compare(shared_run, "rust", RUST[name])


async def test_the_tables_are_as_large_as_they_should_be() -> None:
    assert len(PROGRAMS) >= 60
    assert len(BASH) >= 20
    assert len(JAVASCRIPT) >= 20
    assert len(RUST) >= 10


async def test_fork_speed_is_the_way_python_runs(shared_run) -> None:
    """The table would pass without the zygote; this says it is there: process 1's child's child."""
    response = await shared_run("import os; print(open(f'/proc/{os.getppid()}/cmdline').read())")
    assert "main.py" in response.stdout
