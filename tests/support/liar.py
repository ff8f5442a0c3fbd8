"""VMs whose process 1 is a liar: it speaks to the host in the agent's place, and as a test says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mulligan.engine.engine import Engine

# What is run inside: helpers, then a lie, which is Python and uses them.
_START = '''
import json, os, socket, struct, time

HEADER = struct.Struct(">IBBI")
READY, STARTED, STDOUT, STDERR, EXIT, PONG, FATAL = range(65, 72)
KERNELS_DONE, ROOT_DONE, PAUSED, DISK, TAKEN = range(72, 77)
BOOT, START, STDIN, KERNELS, ROOT, PAUSE = 1, 2, 3, 7, 8, 9
END = {"status": 0, "reason": "exit", "message": "", "stdout_bytes": 0, "stderr_bytes": 0,
       "truncated": False, "user_us": 0, "system_us": 0, "max_rss_kb": 0, "background": 0}


def main(descriptor, own, programs, *_):
    global host
    host = socket.socket(fileno=descriptor)
    host.setblocking(True)
    for descriptor in own:
        os.write(descriptor, b"0")  # else it would be given up for having no limits
    wait(BOOT)
    try:
        lie()
        while True:
            time.sleep(60)
    except (BrokenPipeError, ConnectionError):
        os._exit(0)


def exactly(count):
    data = b""
    while len(data) < count:
        piece = host.recv(count - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return data


def wait(wanted):
    """The channel and payload of the next frame of a kind."""
    while True:
        length, _, kind, channel = HEADER.unpack(exactly(10))
        payload = exactly(length)
        if kind == wanted:
            return channel, payload


def raw(data):
    host.sendall(data)


def say(kind, channel=0, body=b""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    raw(HEADER.pack(len(data), 1, kind, channel) + data)


def message(kind, payload):
    """One of what works on files, as output of a program."""
    return struct.pack(">BI", kind, len(payload)) + payload


def lie():
'''


@contextmanager
def lying(engine: Engine, vm_id: str, lie: str) -> Iterator[None]:
    """As long as this lasts, a VM that boots has a liar for an agent.

    Args:
        engine: whose VM.
        vm_id: the VM.
        lie: what it does after BOOT, as lines of Python; see ``_START`` for what they may use.
    """
    assert engine._fleet is not None
    vm = engine._fleet.find(vm_id, None)
    honest = vm.spec
    directory = honest.image.agent.with_name(f"liar-{vm_id}")
    guest = directory / "mulligan" / "guest"
    guest.mkdir(parents=True)
    (guest.parent / "__init__.py").touch()
    (guest / "__init__.py").touch()
    body = "".join(f"    {line}\n" for line in lie.strip().splitlines())
    (guest / "start.py").write_text(_START + body)
    for each in (directory, *directory.rglob("*")):
        each.chmod(0o755 if each.is_dir() else 0o644)
    vm.spec = replace(honest, image=replace(honest.image, agent=Path(directory)))
    try:
        yield
    finally:
        vm.spec = honest
        shutil.rmtree(directory)
