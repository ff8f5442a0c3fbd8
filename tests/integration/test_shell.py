"""``mulligan shell``, driven through a pseudo-terminal as a person would."""

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.host import data_directory, wait_until
from support.server import Server, clean_environment, command

PATIENCE_S = 30


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Server, Path]]:
    with data_directory() as path, Server(path) as server:
        yield server, path


class Seat:
    """Somebody in front of a terminal, in which a command runs."""

    def __init__(self, *arguments: str) -> None:
        self.master, self.slave = pty.openpty()
        self.size(24, 80)
        self.before = termios.tcgetattr(self.slave)
        self.shown = b""
        os.set_blocking(self.master, False)
        self.process = subprocess.Popen(
            command(*arguments),
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=clean_environment(TERM="xterm"),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  (no threads)
        )

    def size(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def look(self) -> bytes:
        with contextlib.suppress(BlockingIOError, OSError):
            while piece := os.read(self.master, 65536):
                self.shown += piece
        return self.shown

    def sees(self, wanted: bytes) -> None:
        """Waits until something is shown, and forgets what came before it."""
        assert wait_until(lambda: wanted in self.look(), PATIENCE_S), self.shown[-2000:]
        self.shown = self.shown[self.shown.index(wanted) + len(wanted) :]

    def ends(self) -> int:
        """The exit status; the terminal is as it was."""
        assert wait_until(
            lambda: self.look() is None or self.process.poll() is not None, PATIENCE_S
        )
        assert termios.tcgetattr(self.slave) == self.before
        return self.process.returncode

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def leave(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@contextlib.contextmanager
def seat(*arguments: str) -> Iterator[Seat]:
    found = Seat(*arguments)
    try:
        yield found
    finally:
        found.leave()


def shell(path: Path, *arguments: str) -> contextlib.AbstractContextManager[Seat]:
    return seat("shell", "--data-dir", str(path), *arguments)


@pytest.mark.parametrize("served", [True, False])
def test_a_session(place: tuple[Server, Path], data_dir: Path, served: bool) -> None:
    with shell(place[1] if served else data_dir) as person:
        person.sees(b"agent@mulligan:/workspace$ ")
        assert person.raw
        person.type(b"stty size; echo $TERM\r")
        person.sees(b"24 80\r\nxterm\r\n")
        person.size(40, 100)
        person.type(b"while [ \"$(stty size)\" != '40 100' ]; do :; done; echo f''ollowed\r")
        person.sees(b"followed")
        person.type(b'python3 -c \'print("read" + "y", flush=True); input()\'\r')
        person.sees(b"ready")
        person.type(b"\x03")
        person.sees(b"KeyboardInterrupt")
        person.type(b"exit 7\r")
        assert person.ends() == 7


def test_a_command_of_a_vm(place: tuple[Server, Path]) -> None:
    with shell(place[1], "-c", "read -p 'name? ' name; echo hello $name; exit 3") as person:
        person.sees(b"name? ")
        person.type(b"world\r")
        person.sees(b"hello world\r\n")
        assert person.ends() == 3


def test_it_can_be_left_from_this_side(place: tuple[Server, Path]) -> None:
    with shell(place[1]) as person:
        person.sees(b"$ ")
        person.type(b"trap '' INT TERM HUP; cat\r")
        person.sees(b"cat\r\n")
        person.type(b"~~.\r")
        person.sees(b"~.\r\n")
        person.type(b"~.")
        person.sees(b"ended from this side")
        assert person.ends() == 0


@pytest.mark.parametrize("name", ["TERM", "HUP", "QUIT", "INT"])
def test_a_signal_to_it_restores_the_terminal(place: tuple[Server, Path], name: str) -> None:
    number = signal.Signals[f"SIG{name}"]
    with shell(place[1]) as person:
        person.sees(b"$ ")
        person.process.send_signal(number)
        assert person.ends() == 128 + number
        assert b"\x1b[?1049l" in person.shown


def test_it_can_be_stopped_and_goes_on(place: tuple[Server, Path]) -> None:
    with shell(place[1]) as person:
        person.sees(b"$ ")
        person.process.send_signal(signal.SIGTSTP)
        assert wait_until(lambda: not person.raw, PATIENCE_S)
        state = Path(f"/proc/{person.process.pid}/stat")
        assert wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
        person.process.send_signal(signal.SIGCONT)
        assert wait_until(lambda: person.raw, PATIENCE_S)
        person.type(b"exit\r")
        assert person.ends() == 0


def test_a_server_that_goes_away(data_dir: Path) -> None:
    with Server(data_dir) as server, shell(data_dir) as person:
        person.sees(b"$ ")
        server.kill()
        person.sees(b"was lost")
        assert person.ends() == 125


def test_a_reader_that_has_gone(place: tuple[Server, Path]) -> None:
    """The window was closed."""
    with shell(place[1], "-c", "echo ready; sleep 300") as person:
        person.sees(b"ready")
        os.close(person.master)
        assert person.process.wait(PATIENCE_S) != 0
        person.master = os.open(os.devnull, os.O_RDONLY)


def test_a_vm_that_is_not_there(place: tuple[Server, Path]) -> None:
    with shell(place[1], "vm-0000000000000000") as person:
        person.sees(b"VM not available")
        assert person.ends() == 125


def test_without_a_terminal(place: tuple[Server, Path]) -> None:
    done = subprocess.run(
        command("shell", "--data-dir", str(place[1])),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 125
    assert "needs a terminal" in done.stderr
