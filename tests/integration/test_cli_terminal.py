"""Commands at a terminal: what is shown while one waits, and Ctrl-C."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import host
from support.server import Server, clean_environment, command
from support.terminal import CTRL_C, Terminal

SLEEPS = "echo started; (setsid sleep 300 &); sleep 300"


@contextmanager
def place(kind: str) -> Iterator[tuple[Path, tuple[str, ...], Server | None]]:
    """A data directory, options that make a command work there, and its server, if it has one."""
    with host.data_directory() as path:
        if kind == "embedded":
            yield path, (), None
            return
        with Server(path) as server:
            other = path / "other"  # nothing of the server's is found by looking there
            yield path, ("--server", server.url, "--data-dir", str(other)), server


def last_outcome(data_dir: Path, server: Server | None) -> str:
    where = ["--server", server.url] if server is not None else []
    done = subprocess.run(
        command("history", "--json", *where),
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(MULLIGAN_DATA_DIR=str(data_dir)),
        check=True,
    )
    return json.loads(done.stdout)["entries"][0]["outcome"]


@pytest.mark.parametrize("kind", ["embedded", "server"])
def test_ctrl_c_cancels_the_execution(kind: str) -> None:
    with place(kind) as (path, where, server):
        idle = host.descendants(server.pid) if server is not None else set()
        with Terminal(path, "run", *where, "-l", "bash", "-c", SLEEPS) as terminal:
            terminal.wait_for("started")
            owner = server.pid if server is not None else terminal.pid
            everything = host.descendants(owner) - idle
            assert everything
            terminal.type(CTRL_C)
            assert terminal.end() == 130
        assert "interrupted: the execution was cancelled" in terminal.text
        assert "cancelling; Ctrl-C again does not wait for it" in terminal.text
        assert "Traceback" not in terminal.text
        if server is None:
            assert host.wait_until(lambda: not host.alive(everything), 5), host.alive(everything)
        assert last_outcome(path, server) == "cancelled"
        if server is not None:
            sleeping = [
                pid for pid in host.descendants(server.pid) - idle if b"sleep" in _name(pid)
            ]
            assert sleeping == []


def _name(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("kind", ["embedded", "server"])
def test_a_second_ctrl_c_does_not_wait(kind: str) -> None:
    # An answer that does not come: the gate that judges output takes its time.
    env = {
        "MULLIGAN_HOOKS__COMMANDS": json.dumps(
            {
                "slow": {
                    "command": ["/bin/sh", "-c", "sleep 60"],
                    "events": ["PostToolUse"],
                    "timeout_ms": 60_000,
                }
            }
        )
    }
    with host.data_directory() as path:
        server = Server(path, **env).__enter__() if kind == "server" else None
        try:
            where = ("--server", server.url) if server is not None else ()
            arguments = ("run", *where, "-l", "bash", "-c", SLEEPS)
            with Terminal(path, *arguments, **env) as terminal:
                # With a gate after it output is held back: the state of things tells it runs.
                owner = server.pid if server is not None else terminal.pid
                assert host.wait_until(lambda: _runs(owner, b"sleep"), 60)
                everything = host.descendants(terminal.pid)
                terminal.type(CTRL_C)
                terminal.wait_for("cancelling")
                terminal.type(CTRL_C)
                assert terminal.end(20) == 130
            assert "interrupted again: not waited for" in terminal.text
            assert "Traceback" not in terminal.text
            assert host.wait_until(lambda: not host.alive(everything), 10)
        finally:
            if server is not None:
                server.kill()
                server.__exit__()


def _runs(pid: int, name: bytes) -> bool:
    return any(_name(each).strip() == name for each in host.descendants(pid))


def test_ctrl_c_while_another_has_the_directory(data_dir: Path) -> None:
    with Terminal(data_dir, "run", "-l", "bash", "-c", "echo up; sleep 300") as first:
        first.wait_for("up")
        with Terminal(data_dir, "run", "-c", "print(1)") as second:
            second.wait_for("waiting for process")
            second.type(CTRL_C)
            assert second.end() == 130
        assert "Traceback" not in second.text
        first.type(CTRL_C)
        assert first.end() == 130


@pytest.mark.parametrize("kind", ["embedded", "server"])
def test_what_takes_over_a_second_is_shown(kind: str) -> None:
    with place(kind) as (path, where, _):
        with Terminal(path, "run", *where, "-l", "bash", "-c", "sleep 3; echo done") as terminal:
            terminal.wait_for("running")
            assert terminal.end() == 0
        assert terminal.text.rstrip().endswith("done")
        assert terminal.shown.rfind(b"\x1b[?25h") > terminal.shown.rfind(b"\x1b[?25l")
        with Terminal(path, "run", *where, "-l", "bash", "-c", "echo up; sleep 3") as terminal:
            assert terminal.end() == 0
        assert "running" not in terminal.text  # it would be written into the program's output
        with Terminal(path, "run", *where, "-l", "bash", "-c", "sleep 3; exit 4") as terminal:
            assert terminal.end() == 4


def test_nothing_is_shown_in_a_pipe(data_dir: Path) -> None:
    done = subprocess.run(
        command("run", "-l", "bash", "-c", "sleep 2"),
        capture_output=True,
        timeout=60,
        env=clean_environment(MULLIGAN_DATA_DIR=str(data_dir)),
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_judge_that_takes_its_time_is_shown(data_dir: Path) -> None:
    hook = {"command": ["/bin/sh", "-c", "sleep 3; echo '{}'"], "timeout_ms": 30_000}
    env = {"MULLIGAN_HOOKS__COMMANDS": json.dumps({"slow": hook})}
    with Terminal(data_dir, "run", "-l", "bash", "-c", "echo 1", **env) as terminal:
        terminal.wait_for("judging")
        terminal.end()
