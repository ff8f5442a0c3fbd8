"""The secret: planted all over the host while probes run, and the facts probes are told of it.

What is planted is made by the run itself and removed with it. Probes get names of places and the
digest of the secret, never the secret.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import secrets
import selectors
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mulligan.selfcheck.inside.files import SAME
from mulligan.selfcheck.inside.namespaces import NAMESPACES
from mulligan.selfcheck.inside.probing import MARK, syscall

VARIABLE = "PLANTED_SECRET"
WAITING = "read -r line"  # until the other end of its standard input is closed
TICK_S = 0.1
KEY_LIFE_S = 900
PASS_THROUGH = 0o711
IPC_CREAT_EXCL = 0o1000 | 0o2000
IPC_RMID = 0
KEYCTL_REVOKE, KEYCTL_SET_TIMEOUT = 3, 15
SESSION_KEYRING = -3


@dataclass
class Planted:
    """A planted secret, and what probes are told."""

    secret: str
    directory: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def leaked(self, text: str) -> bool:
        """Whether the secret is in what came back."""
        return self.secret in text


@contextlib.contextmanager
def plant(user: tuple[int, int] | None, data_dir: Path) -> Iterator[Planted]:
    """Plants a secret everywhere it may be looked for.

    Args:
        user: uid and gid that the control has, which the planted process gets, too; None: our own.
        data_dir: the data directory of the engine under test, which exists.
    """
    name = f"mulligan-selfcheck-{secrets.token_hex(6)}"
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        stack.callback(shutil.rmtree, directory)
        directory.chmod(PASS_THROUGH)
        planted = Planted(f"{MARK}{secrets.token_hex(16)}", directory)
        planted.facts = {
            "digest": hashlib.sha256(planted.secret.encode()).hexdigest(),
            "data_dir": str(data_dir),
            "hostname": os.uname().nodename,
            "kernel": " ".join(os.uname()[2:4]),
            "own_kernel": False,
            "environment": [VARIABLE],
            "namespaces": {
                each: str(Path(f"/proc/self/ns/{each}").readlink()) for each in NAMESPACES
            },
            "digests": _digests(),
            "neighbour": None,
        }
        os.environ[VARIABLE] = planted.secret
        stack.callback(os.environ.pop, VARIABLE, None)
        _files(stack, planted, name, data_dir)
        _process(stack, planted, user)
        _servers(stack, planted, name)
        _ipc(stack, planted, name)
        _key(stack, planted, name)
        yield planted


def _digests() -> dict[str, str]:
    """Of files that a VM has, but must not have from the host."""
    found = {}
    for path, _ in SAME.values():
        with contextlib.suppress(OSError):
            found[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return found


def _files(stack: contextlib.ExitStack, planted: Planted, name: str, data_dir: Path) -> None:
    private = planted.directory / "private"
    private.mkdir(mode=0o700)
    places = {
        "tmp": Path(tempfile.gettempdir()) / name,
        "shm": Path("/dev/shm") / name,  # noqa: S108  (made exclusively, below)
        "private": private / name,
        "data": data_dir / name,
    }
    for path in places.values():
        with contextlib.suppress(FileNotFoundError):  # a host without /dev/shm
            with path.open("x") as file:
                file.write(planted.secret)
            stack.callback(path.unlink, missing_ok=True)
            path.chmod(0o644)
    lock = stack.enter_context(places["tmp"].open())
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # What a careless start of a program would hand on.
    os.set_inheritable(lock.fileno(), True)
    planted.facts |= {
        "files": {kind: str(path) for kind, path in places.items()},
        "lock": os.fstat(lock.fileno()).st_ino,
    }


def started(pid: int) -> str:
    """When a process started, in ticks since the host did."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _process(stack: contextlib.ExitStack, planted: Planted, user: tuple[int, int] | None) -> None:
    """A process with the secret among its arguments and in its environment."""
    identity: dict[str, Any] = {}
    if user is not None:
        identity = {"user": user[0], "group": user[1], "extra_groups": []}
    process = subprocess.Popen(
        ["/bin/sh", "-c", WAITING, planted.secret],
        stdin=subprocess.PIPE,
        env={VARIABLE: planted.secret},
        cwd="/",
        **identity,
    )
    stack.callback(_end, process)
    planted.facts |= {
        "target": [process.pid, started(process.pid)],
        "server": [os.getpid(), started(os.getpid())],
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


class _Servers:
    """Hands the secret to whoever connects, on loopback and by Unix sockets."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._selector = selectors.DefaultSelector()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="planted", daemon=True)

    def add(self, family: int, address: Any, kind: int = socket.SOCK_STREAM) -> Any:
        """Listens there; the address, or None where this host cannot."""
        listening = socket.socket(family, kind)
        try:
            listening.bind(address)
        except OSError:
            listening.close()
            return None
        if kind == socket.SOCK_STREAM:
            listening.listen()
        listening.setblocking(False)
        self._selector.register(listening, selectors.EVENT_READ)
        return listening.getsockname()

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._over.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(TICK_S):
                with contextlib.suppress(OSError):  # whoever asked has gone
                    assert isinstance(key.fileobj, socket.socket)
                    self._answer(key.fileobj)

    def _answer(self, listening: socket.socket) -> None:
        if listening.type == socket.SOCK_DGRAM:
            _, asker = listening.recvfrom(64)
            listening.sendto(self._secret, asker)
            return
        connection, _ = listening.accept()
        with connection:
            connection.sendall(self._secret)


def _servers(stack: contextlib.ExitStack, planted: Planted, name: str) -> None:
    servers = _Servers(planted.secret.encode())
    path = planted.directory / "socket"
    tcp4 = servers.add(socket.AF_INET, ("127.0.0.1", 0))
    # Linux answers on all of 127.0.0.0/8 to who listens on 0.0.0.0; the world shall not reach this.
    servers.add(socket.AF_INET, ("127.0.0.2", tcp4[1]))
    tcp6 = servers.add(socket.AF_INET6, ("::1", 0))
    udp4 = servers.add(socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM)
    servers.add(socket.AF_UNIX, f"\0{name}")
    servers.add(socket.AF_UNIX, str(path))
    path.chmod(0o777)
    servers.start()
    stack.callback(servers.close)
    planted.facts |= {
        "tcp4": tcp4[1],
        "tcp6": tcp6[1] if tcp6 else None,
        "udp4": udp4[1],
        "abstract": name,
        "socket": str(path),
    }


def _ipc(stack: contextlib.ExitStack, planted: Planted, name: str) -> None:
    """System V objects under one key, and a POSIX queue; what this host lacks is not planted."""
    key = secrets.randbelow(2**31 - 2) + 1
    mode = IPC_CREAT_EXCL | 0o666
    made = {
        "shmctl": (syscall("shmget", key, 4096, mode)[0], (IPC_RMID, 0)),
        "semctl": (syscall("semget", key, 1, mode)[0], (0, IPC_RMID, 0)),
        "msgctl": (syscall("msgget", key, mode)[0], (IPC_RMID, 0)),
    }
    for control, (number, arguments) in made.items():
        if number != -1:
            stack.callback(syscall, control, number, *arguments)
    memory = made["shmctl"][0]
    if memory != -1:
        libc = ctypes.CDLL(None)
        libc.shmat.restype = ctypes.c_void_p
        address = libc.shmat(memory, None, 0)
        ctypes.memmove(address, planted.secret.encode(), len(planted.secret))
        libc.shmdt(ctypes.c_void_p(address))
    queue, _ = syscall("mq_open", name.encode(), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644, 0)
    if queue != -1:
        os.close(queue)
        stack.callback(syscall, "mq_unlink", name.encode())
    planted.facts["ipc"] = {"key": key, "queue": name}


def _key(stack: contextlib.ExitStack, planted: Planted, name: str) -> None:
    """A key in the session's keyring, where this host has keyrings."""
    payload = planted.secret.encode()
    number, _ = syscall("add_key", b"user", name.encode(), payload, len(payload), SESSION_KEYRING)
    if number != -1:
        syscall("keyctl", KEYCTL_SET_TIMEOUT, number, KEY_LIFE_S)
        stack.callback(syscall, "keyctl", KEYCTL_REVOKE, number)
    planted.facts["key"] = name
