"""A ``mulligan`` to be typed that has everything loaded already.

Examples type it by the dozen, and loading takes a second of a core each time. This one is a program
that hands its streams, arguments, environment and directory over and waits for the status.
"""

import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import weakref
from contextlib import closing
from json import loads
from pathlib import Path

from support import preloaded
from support.server import FORKER

PROGRAM = """#!{python} -IS
import json, os, socket, sys
asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
asking.connect({where!r})
asked = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()])
socket.send_fds(asking, [asked.encode()], [0, 1, 2])
os._exit(int(asking.recv(16)))
"""


class Typed:
    """The program, in a directory of its own.

    Attributes:
        directory: to be put first on PATH.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="mulligan-typed-"))
        weakref.finalize(self, shutil.rmtree, self.directory)
        where = str(self.directory / "asked")
        program = self.directory / "mulligan"
        program.write_text(PROGRAM.format(python=sys.executable, where=where))
        program.chmod(0o755)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(where)
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            asking, _ = self._socket.accept()
            threading.Thread(target=self._run, args=[asking], daemon=True).start()

    def _run(self, asking: socket.socket) -> None:
        with closing(asking):
            data, (stdin, stdout, stderr), _, _ = socket.recv_fds(asking, preloaded.MOST, 3)
            told, status = os.pipe()
            pid = FORKER.start(*loads(data)[:2], [stdout, stderr, status, stdin], loads(data)[2])
            for descriptor in (stdin, stdout, stderr, status):
                os.close(descriptor)
            if asking in select.select([told, asking], [], [])[0]:
                os.kill(pid, signal.SIGTERM)  # the program that was typed was ended
            code = os.waitstatus_to_exitcode(int(os.read(told, 32)))
            os.close(told)
            try:
                asking.send(str(code if code >= 0 else 128 - code).encode())
            except BrokenPipeError:
                return  # it was ended


TYPED = Typed()
