"""Whether code is valid in its language, without running any of it.

Python is compiled by the interpreter Mulligan runs on, the others are parsed by tree-sitter; both
in a child process (``checker.py``) that may use a second and 512 MiB, because input can be made
that crashes a compiler or keeps it busy. A child that exceeds this is killed, and the code counts
as invalid.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import tree_sitter

from mulligan.errors import UnsupportedLanguage
from mulligan.languages import LANGUAGES, canonical

MOST_SECONDS = 1.0
_START_SECONDS = 10.0
MOST_BYTES = 4 * 1024 * 1024
_REMEMBERED = 256  # valid programs, of so many characters at most
_REMEMBERED_CHARS = 4096
_CHECKER = Path(__file__).with_name("checker.py")
_HEADER = struct.Struct("!I")


@dataclass(frozen=True)
class SyntaxProblem:
    """One thing wrong with some code.

    Attributes:
        line: from 1.
        column: of the line, in characters from 1.
        message: what is wrong, one line.
    """

    line: int
    column: int
    message: str


class SyntaxChecker:
    """Checks syntax in a child process that is kept for the next check.

    The child starts with the first check, is replaced when it had to be killed, and ends with
    ``close``. Threads may share a checker; they take turns.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._valid: dict[tuple[str, str, bool], None] = {}

    def knows(self, code: str, language: str, cell: bool = False) -> bool:
        """Whether this code was found valid not long ago, so that ``check`` answers at once."""
        return (code, canonical(language), cell) in self._valid

    def check(self, code: str, language: str, cell: bool = False) -> list[SyntaxProblem]:
        """The problems of ``code``, at most ten, none if it is valid.

        Args:
            code: a program.
            language: a name or alias of a language we run.
            cell: whether it is a cell of a kernel, which may await at its top level.

        Raises:
            UnsupportedLanguage: there is no checker for the language.
        """
        name = canonical(language)
        if name not in LANGUAGES:
            raise UnsupportedLanguage(
                language, field="language", remedy=f"use one of: {', '.join(LANGUAGES)}"
            )
        if self.knows(code, name, cell):
            return []
        source = code.encode("utf-8", "surrogatepass")
        if len(source) > MOST_BYTES:
            return [SyntaxProblem(1, 1, f"too long to be checked: over {MOST_BYTES} bytes")]
        with self._turn:
            try:
                problems = self._ask(name, source, cell=cell)
                if not problems:
                    self._remember((code, name, cell))
                return problems
            except TimeoutError:
                reason = f"too complex to be checked within {MOST_SECONDS:g} s"
            except (OSError, EOFError):
                reason = "too complex to be checked: it exhausts the parser"
            except BaseException:
                self._end()
                raise
            self._end()
            return [SyntaxProblem(1, 1, reason)]

    def _remember(self, valid: tuple[str, str, bool]) -> None:
        if len(valid[0]) <= _REMEMBERED_CHARS:
            self._valid[valid] = None
            if len(self._valid) > _REMEMBERED:
                del self._valid[next(iter(self._valid))]

    def close(self) -> None:
        """Ends the child."""
        with self._turn:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, language: str, source: bytes, *, cell: bool) -> list[SyntaxProblem]:
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._socket is None:
            self._start()
        assert self._socket is not None
        request = json.dumps({"language": language, "size": len(source), "cell": cell}).encode()
        self._socket.settimeout(MOST_SECONDS)
        self._socket.sendall(_HEADER.pack(len(request)) + request + source)
        (size,) = _HEADER.unpack(self._receive(_HEADER.size))
        found = json.loads(self._receive(min(size, MOST_BYTES)))
        return [SyntaxProblem(*problem) for problem in found]

    def _receive(self, size: int) -> bytes:
        assert self._socket is not None
        got = b""
        while len(got) < size:
            piece = self._socket.recv(size - len(got))
            if not piece:
                raise EOFError
            got += piece
        return got

    def _start(self) -> None:
        mine, theirs = socket.socketpair()
        self._socket = mine
        packages = str(Path(tree_sitter.__file__).parents[1])
        with theirs:
            # Isolated, and without site: nothing of the environment or its packages is imported.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(_CHECKER), str(theirs.fileno()), packages],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={"LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
        mine.settimeout(_START_SECONDS)
        self._receive(1)  # it is up: its start is not the code's time

    def _end(self) -> None:
        process, self._process = self._process, None
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check_syntax(code: str, language: str) -> list[SyntaxProblem]:
    """The problems of ``code``, at most ten, none if it is valid; nothing of it is run.

    Starts a child process of its own and ends it; who checks often keeps a ``SyntaxChecker``.

    Args:
        code: a program.
        language: a name or alias of a language we run.

    Raises:
        UnsupportedLanguage: there is no checker for the language.
    """
    with SyntaxChecker() as checker:
        return checker.check(code, language)
