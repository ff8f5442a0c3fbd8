"""Something that is left when the server is killed, to end what it could not.

A shell that waits for the end of a pipe, which costs next to nothing, and becomes the program that
tidies up when the pipe ends without a word: the kernel closes it however the server ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

WAIT = 'read -r word && exit 0; exec "$@"'
FAREWELL = b"done\n"


class Sentinel:
    """Runs a module of this interpreter if this process ends without a word.

    A process that is forked off and does not become another program holds the pipe open, too.

    Args:
        module: its name; it runs as a program, in ``/``.
        environment: what it is told.

    Raises:
        OSError: there is no shell, or no room for another process.
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        inner, self._pipe = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", WAIT, "mulligan-sentinel", sys.executable, "-m", module],
                stdin=inner,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env={"PYTHONPATH": os.pathsep.join(sys.path), **environment},
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(inner)

    def dismiss(self) -> None:
        """Ends it; all is tidy."""
        try:
            os.write(self._pipe, FAREWELL)
        except BrokenPipeError:
            pass  # somebody has ended it
        finally:
            os.close(self._pipe)
        self._process.wait()
