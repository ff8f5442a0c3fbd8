"""Small servers on the loopback address that do what a server should not."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Behaviour = Callable[[socket.socket, bytes], None]

LINGER_NONE = struct.pack("ii", 1, 0)  # a close is a reset


class OddServer:
    """Takes connections and does one thing with each.

    Args:
        behave: gets the connection and the head and body of a request, again for each that comes
            over it; ending it ends the connection.
        port: where; 0 for any.
    """

    def __init__(self, behave: Behaviour, port: int = 0) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", port))
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections = 0
        self.requests: list[bytes] = []

    def __enter__(self) -> OddServer:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while request := _read(connection):
                self.requests.append(request)
                self._behave(connection, request)
        self._open.discard(connection)


def _read(connection: socket.socket) -> bytes:
    """A request with its body; empty at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
        if data[:1] == b"\x16":  # TLS
            return data
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def answer(
    body: bytes, status: str = "200 OK", kind: str = "application/json", length: int | None = None
) -> bytes:
    """An HTTP/1.1 answer; ``length`` in place of the true one."""
    length = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + body


def says(body: bytes, status: str = "200 OK", kind: str = "application/json") -> Behaviour:
    """Answers everything so."""
    return lambda connection, _: connection.sendall(answer(body, status, kind))


def by_path(answers: dict[str, bytes], otherwise: bytes) -> Behaviour:
    """Answers by "METHOD /path"."""

    def behave(connection: socket.socket, request: bytes) -> None:
        asked = b" ".join(request.split(b" ")[:2]).decode()
        connection.sendall(answers.get(asked, otherwise))

    return behave


def end(connection: socket.socket) -> None:
    """Ends a connection as a server does that goes."""
    connection.shutdown(socket.SHUT_RDWR)


def reset(connection: socket.socket) -> None:
    """Ends a connection as one does that crashed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    connection.close()


@contextmanager
def free_port() -> Iterator[int]:
    """A port nobody listens on: it is taken, and refuses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
