"""This process's own terminal, while the programs of a VM have it.

In raw mode every key goes to the VM. However that ends (the program's exit, a lost connection, an
error, a signal to this process), the terminal is as it was before anything else is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Any

from mulligan.cli.console import UsageError
from mulligan.client.terminals import Terminal
from mulligan.models import TerminalExit

CHUNK = 64 * 1024
MOST_SIDE = 1000
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# What a program that was cut off may have left switched on in an emulator: another screen, keypad
# and cursor keys of applications, a hidden cursor, mouse reports, marked pastes, colours (xterm's
# "Control Sequences").
CALM = (
    b"\x1b[?1049l\x1b[?1l\x1b>\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l"
    b"\x1b[?2004l\x1b[0m"
)


class Signalled(Exception):  # noqa: N818  (what happened, no fault)
    """This process was told to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Escape:
    """Finds ``~.`` at the beginning of a line among what is typed, as ssh does."""

    def __init__(self) -> None:
        self._begins = True  # a line
        self._held = False

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What of it goes to the VM, and whether to end."""
        out = bytearray()
        for byte in data:
            if self._held:
                self._held = False
                if byte == ord("."):
                    return bytes(out), True
                if byte != ord("~"):
                    out.append(ord("~"))
            elif self._begins and byte == ord("~"):
                self._held = True
                continue
            out.append(byte)
            self._begins = byte in b"\r\n"
        return bytes(out), False


class Tty:
    """The terminal on stdin and stdout.

    Raises:
        UsageError: there is none.
    """

    def __init__(self) -> None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError(
                "mulligan shell needs a terminal as its input and output",
                remedy="mulligan run -l bash runs a script",
            )
        self._in = sys.stdin.fileno()
        self._out = sys.stdout.fileno()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, as far as a VM's terminal can have them."""
        cols, rows = os.get_terminal_size(self._out)
        return min(max(cols, 1), MOST_SIDE), min(max(rows, 1), MOST_SIDE)

    async def pass_on(self, terminal: Terminal) -> TerminalExit | None:
        """Passes keys to a VM's terminal and its output here, until one side ends it.

        Returns:
            How it ended; None where it was ended from here.

        Raises:
            Signalled: this process was told to end.
            VmExecutionError: its VM ended under it, or the connection to it was lost.
        """
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with self._raw(), _handled(told), _writable(self._out) as descriptor:
            shown = asyncio.create_task(_show(terminal, descriptor))
            others = [self._type(terminal), self._follow_size(terminal)]
            typed, sized = (asyncio.create_task(work) for work in others)
            ended = None
            try:
                waiting: set[asyncio.Future[Any]] = {shown, typed, told}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                ended = _outcome(shown, typed, told)
                return ended
            finally:
                for task in (shown, typed, sized):
                    task.cancel()
                await asyncio.gather(shown, typed, sized, return_exceptions=True)
                if ended is None or ended.error is not None:
                    with contextlib.suppress(OSError):  # the terminal is gone
                        os.write(descriptor, CALM)

    async def _type(self, terminal: Terminal) -> None:
        """Until the keyboard is gone, or somebody typed that this is the end."""
        escape = Escape()
        ended = False
        while not ended:
            data = await _read(self._in)
            if not data:
                return
            data, ended = escape.feed(data)
            if data:
                await terminal.send(data)

    async def _follow_size(self, terminal: Terminal) -> None:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        loop.add_signal_handler(signal.SIGWINCH, changed.set)
        loop.add_signal_handler(signal.SIGTSTP, self._stop, changed)
        try:
            known = (0, 0)
            while True:
                if self.size != known:
                    known = self.size
                    await terminal.resize(*known)
                await changed.wait()
                changed.clear()
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
            loop.remove_signal_handler(signal.SIGTSTP)

    def _stop(self, changed: asyncio.Event) -> None:
        """This process is to be stopped: whoever goes on with the terminal gets it as it was."""
        raw = termios.tcgetattr(self._in)
        termios.tcsetattr(self._in, termios.TCSANOW, self._before)
        os.kill(os.getpid(), signal.SIGSTOP)
        termios.tcsetattr(self._in, termios.TCSANOW, raw)
        changed.set()

    @contextlib.contextmanager
    def _raw(self) -> Iterator[None]:
        self._before = termios.tcgetattr(self._in)
        try:
            tty.setraw(self._in, termios.TCSANOW)
            yield
        finally:
            with contextlib.suppress(termios.error):  # it is gone
                termios.tcsetattr(self._in, termios.TCSANOW, self._before)


@contextlib.contextmanager
def _handled(told: asyncio.Future[int]) -> Iterator[None]:
    """Has signals that would end this process end the session first."""
    loop = asyncio.get_running_loop()

    def tell(number: int) -> None:
        if not told.done():
            told.set_result(number)

    for number in ENDING:
        loop.add_signal_handler(number, tell, number)
    try:
        yield
    finally:
        for number in ENDING:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _writable(descriptor: int) -> Iterator[int]:
    """A descriptor of its own for a terminal, which does not wait where the emulator does.

    Another one than stdout: that is shared with the shell this was started from, and would go on
    not to wait.
    """
    own = os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield own
    finally:
        os.close(own)


def _outcome(
    shown: asyncio.Task[TerminalExit], typed: asyncio.Task[None], told: asyncio.Future[int]
) -> TerminalExit | None:
    """What came first."""
    if shown.done():
        return shown.result()
    if told.done():
        raise Signalled(told.result())
    typed.result()
    return None


async def _show(terminal: Terminal, descriptor: int) -> TerminalExit:
    while data := await terminal.receive():
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view[:CHUNK]) :]
            except BlockingIOError:
                await _ready(descriptor, write=True)
    assert terminal.exit is not None
    return terminal.exit


async def _read(descriptor: int) -> bytes:
    """What is typed; empty when the terminal is gone."""
    await _ready(descriptor)
    try:
        return os.read(descriptor, CHUNK)
    except OSError:
        return b""


async def _ready(descriptor: int, *, write: bool = False) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add, remove = (
        (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    )
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)
