"""A kernel's running process: its control link, its streams, and the files its cells go into."""

from __future__ import annotations

import os

from mulligan.guest import frames
from mulligan.guest.captures import CHUNK
from mulligan.guest.kernels.links import PacketLink, StreamLink
from mulligan.guest.root import EXECUTION_DIR

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mulligan.guest.kernels.cells import Cell

HERE = os.path.dirname(__file__)
IDLE_OUTPUT = 64 * 1024
REPORT_LIMIT = 4096
CONTROL, CODE, STDIN, SETTINGS = 60, 61, 62, 63
REFUSED = "cat /run/mulligan/why >&2\nreturn 1\n"
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


class CellFiles:
    """The memory files a kernel reads its cells from; its frozen images share them."""

    def __init__(self) -> None:
        self.descriptors = [
            os.memfd_create(name, os.MFD_CLOEXEC) for name in ("code", "stdin", "settings")
        ]

    def fill(self, cell: Cell, *, settings: bool) -> None:
        """Puts a cell's code, input and settings where its kernel looks for them."""
        code, stdin, options = self.descriptors
        _put(code, cell.code)
        os.ftruncate(stdin, 0)
        os.lseek(stdin, 0, os.SEEK_SET)
        if cell.input is not None:
            size = os.lseek(cell.input, 0, os.SEEK_END)
            for start in range(0, size, CHUNK):
                os.pwrite(stdin, os.pread(cell.input, CHUNK, start), start)
        if settings:
            entries = [cell.cwd if cell.enter else ""]
            entries += [f"{name}={value}" for name, value in cell.env.items()]
            _put(options, "".join(f"{entry}\0" for entry in entries).encode())

    def __del__(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


class Live:
    """A runner that was started or revived."""

    def __init__(self, language: str, files: CellFiles | None = None) -> None:
        self.link = PacketLink() if language == "python" else StreamLink()
        self.language = language
        self.files = files or CellFiles()
        self.outputs: dict[int, int] = {}
        self.inner: list[int] = []
        for kind in (frames.STDOUT, frames.STDERR):
            outer, inner = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(outer, False)
            self.outputs[kind] = outer
            self.inner.append(inner)
        self.idle = {kind: bytearray() for kind in self.outputs}
        self.lost = 0
        self.report: int | None = None
        self.report_data = b""
        self.pid = 0
        self.namespace = 0
        self.channel = 0
        self.said_ready = False
        self.late = 0  # answers to "release" that nobody waits for any more
        self.notes: list[str] = []
        self.used = (0, 0)
        self.silent_since: float | None = None

    @property
    def usable(self) -> bool:
        """Whether it can be given cells."""
        return self.said_ready and bool(self.pid and self.namespace)

    def started(self) -> None:
        """The runner has its ends of everything; ours of them are closed."""
        for descriptor in self.inner:
            os.close(descriptor)
        self.inner = []
        self.link.theirs.close()

    def streams(self) -> tuple[int, int, int]:
        """What the runner starts with as its standard streams."""
        first = self.files.descriptors[1] if self.language == "javascript" else self._theirs
        return first, self.inner[0], self.inner[1]

    @property
    def _theirs(self) -> int:
        return self.link.theirs.fileno()

    def inherited(self) -> dict[int, int]:
        """What else a runner that is not forked from the zygote starts with: number to source."""
        code, stdin, settings = self.files.descriptors
        if self.language == "bash":
            return {CODE: code, STDIN: stdin, SETTINGS: settings}
        if self.language == "javascript":
            return {CONTROL: self._theirs, CODE: code, SETTINGS: settings}
        return {}

    def job(
        self, program: str, cwd: str, env: dict[str, str], state: bytes | None, *, foreign: bool
    ) -> dict[str, Any]:
        """How the runner is started. See ``launch.enter``.

        With ``foreign`` Python is not the agent's own: it gets text, and a start of its own.
        """
        files: dict[str, bytes]
        env = dict(env)
        if self.language == "python":
            files = {"main.py": _module("runner", compiled=not foreign)[0]}
            for name in ("files", "forks", "packages", "values"):
                code, extension = _module(name, compiled=not foreign)
                files[f"mulligan_{name}.{extension}"] = code
            steps = [program, f"{EXECUTION_DIR}/main.py"]
        elif self.language == "bash":
            files = {"kernel.sh": _read(f"{HERE}/kernel.sh"), "refused": REFUSED.encode()}
            if state is not None:
                files["state"] = state
            steps = [program, "--norc", "--noprofile", "-s"]
            env["BASH_ENV"] = f"{EXECUTION_DIR}/kernel.sh"
            env["MULLIGAN_KERNEL"] = " ".join(self._names())
        else:
            files = {"kernel.js": _read(f"{HERE}/kernel.js")}
            steps = [program, f"{EXECUTION_DIR}/kernel.js"]
        return {
            "files": files,
            "cwd": cwd,
            "env": env,
            "steps": [steps],
            "places": [0, 1, 2, *self.inherited()],
            "links": {"main.sh": CODE} if self.language == "bash" else {},
            "zygote": self.language == "python" and not foreign,
            "full": False,
            "moves": True,
            "terminal": False,
        }

    def _names(self) -> list[str]:
        """Names that /proc has for the control socket and the streams, as the runner has them."""
        numbers = [os.fstat(each).st_ino for each in self.streams()]
        return [f"socket:[{numbers[0]}]", f"pipe:[{numbers[1]}]", f"pipe:[{numbers[2]}]"]

    def read_report(self) -> str | None:
        """Reads what the child says of its start; an error's text, if that is what it says.

        Raises:
            BlockingIOError: nothing is there yet.
        """
        assert self.report is not None
        chunk = os.read(self.report, REPORT_LIMIT)
        self.report_data = (self.report_data + chunk)[:REPORT_LIMIT]
        for line in self.report_data.splitlines():
            kind, _, text = line.partition(b" ")
            if kind == b"ns" and b"\n" in self.report_data:
                self.namespace = int(text)
            elif kind == b"error":
                return text.decode(errors="replace")
        return None if chunk else ""

    def usage(self) -> tuple[tuple[int, int], int]:
        """Microseconds in user and system mode since this was last asked, and KiB in memory."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return (0, 0), 0
        now = tuple((int(fields[n]) + int(fields[n + 2])) * 1_000_000 // TICKS for n in (11, 12))
        spent = (max(0, now[0] - self.used[0]), max(0, now[1] - self.used[1]))
        self.used = (now[0], now[1])
        return spent, int(fields[21]) * PAGE_KB


def words(cell: Cell, language: str, number: int, *, settings: bool) -> str:
    """What tells a runner to run the cell that is in its files."""
    if language == "bash":
        return (
            f"{{ __mulligan_before {int(settings)}; }} 2>/dev/null\n"
            f'. "$__mulligan_cell" <&{STDIN}; {{ __mulligan_after $?; }} 2>/dev/null'
        )
    return f"cell {number} {int(cell.input is not None)} {int(settings)}"


def _put(memory: int, data: bytes) -> None:
    os.ftruncate(memory, 0)
    os.pwrite(memory, data, 0)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _module(name: str, *, compiled: bool) -> tuple[bytes, str]:
    """A module, where the interpreter is the agent's as that runs it fastest: compiled."""
    import sys

    if not compiled:
        return _read(f"{HERE}/{name}.py"), "py"
    try:
        return _read(f"{HERE}/__pycache__/{name}.{sys.implementation.cache_tag}.pyc"), "pyc"
    except FileNotFoundError:
        return _read(f"{HERE}/{name}.py"), "py"
