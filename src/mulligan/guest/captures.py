"""The three streams of an execution, on the agent's side of their pipes."""

import os

CHUNK = 64 * 1024


def open_pipes(*, with_stdin: bool) -> tuple[list[int], list[int], int | None]:
    """Makes the pipes of an execution.

    Returns:
        The program's ends of stdin, stdout, stderr and report; ours of the last three; ours of
        stdin, if it has one.

    Raises:
        OSError: there are no descriptors left; none is kept.
    """
    made: list[int] = []
    try:
        for _ in range(4 if with_stdin else 3):
            made += os.pipe2(os.O_CLOEXEC)
        if not with_stdin:
            made.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        for descriptor in made:
            os.close(descriptor)
        raise
    outer, inner, stdin = made[0:6:2], made[1:6:2], made[6]
    ours = made[7] if with_stdin else None
    for descriptor in (*outer, *([ours] if ours is not None else [])):
        os.set_blocking(descriptor, False)
    return [stdin, *inner], outer, ours


class Capture:
    """Output of a program: passed on up to a limit, counted and dropped from there."""

    __slots__ = ("descriptor", "limit", "passed", "total")

    def __init__(self, descriptor: int, limit: int) -> None:
        self.descriptor = descriptor
        self.limit = limit
        self.passed = 0
        self.total = 0

    def read(self) -> bytes | None:
        """What to pass on now, which may be nothing; None at the end of the stream.

        Raises:
            BlockingIOError: nothing is there yet.
        """
        chunk = os.read(self.descriptor, CHUNK)
        if not chunk:
            return None
        self.total += len(chunk)
        keep = chunk[: self.limit - self.passed]
        self.passed += len(keep)
        return keep

    @property
    def truncated(self) -> bool:
        """Whether anything was dropped."""
        return self.total > self.passed


class Feed:
    """Input of a program: held until the program takes it."""

    __slots__ = ("descriptor", "ended", "pending")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.pending = bytearray()
        self.ended = False

    def write(self) -> bool:
        """Writes what the pipe takes; true when all is written and nothing more will come."""
        try:
            while self.pending:
                del self.pending[: os.write(self.descriptor, self.pending[:CHUNK])]
        except BlockingIOError:
            return False
        except BrokenPipeError:  # the program does not want it
            self.pending.clear()
            return True
        return self.ended
