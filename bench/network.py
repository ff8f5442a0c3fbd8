"""What the proxy of a VM moves and costs. ``python -m bench.network``; nothing passes or fails.

A program in a VM talks to a server on this machine's loopback, in a process of its own; beside it
the same program on this machine, without VM and proxy.
"""

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.layers.directories import PASS_THROUGH, remove_tree
from mulligan.models import VmExecuteRequest

BYTES = 1 << 30
CONNECTIONS = 200
MIB = 1 << 20

# Prints MB/s of one download and the milliseconds of each of many connections.
CLIENT = r"""
import json, socket, time
proxy, port, kind = {proxy!r}, {port}, {kind!r}
buffer = bytearray(1 << 20)

def ask(path):
    s = socket.create_connection(proxy or ("127.0.0.1", port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if proxy and kind == "connect":
        s.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\n" % port)
        head = b""
        while b"\r\n\r\n" not in head:
            head += s.recv(4096)
        assert b" 200 " in head, head
    url = b"http://127.0.0.1:%d" % port if proxy and kind == "http" else b""
    s.sendall(b"GET %s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n"
              % (url, path, port))
    total = 0
    while size := s.recv_into(buffer):
        total += size
    s.close()
    return total

ask(b"/0")
start = time.perf_counter()
total = ask(b"/{size}")
rate = total / (time.perf_counter() - start) / 1e6
taken = []
for _ in range({connections}):
    start = time.perf_counter()
    ask(b"/0")
    taken.append((time.perf_counter() - start) * 1000)
    time.sleep(0.006)
print(json.dumps([rate, taken]))
"""


def serve() -> None:
    """Answers ``/<number>`` with so many bytes; its port is printed first."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(listener.getsockname()[1], flush=True)
    block = bytes(MIB)

    def answer(connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096)
            size = int(head.split()[1].rpartition(b"/")[2])
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for start in range(0, size, MIB):
                connection.sendall(block[: min(MIB, size - start)])

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


async def measure(engine: Engine, port: int) -> None:
    """Prints the table."""
    options = {"port": port, "size": BYTES, "connections": CONNECTIONS}
    bare = CLIENT.format(proxy=None, kind="", **options)
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", bare], capture_output=True, check=True
    )
    rate, times = json.loads(done.stdout)
    without = statistics.median(times)
    print(f"{'without VM and proxy':28} {rate:8.0f} MB/s {without:8.2f} ms a connection")
    for kind in ("connect", "http"):
        code = CLIENT.format(proxy=("127.0.0.1", 3128), kind=kind, **options)
        request = VmExecuteRequest(agent_id="bench", language="python", code=code)
        answer = await engine.execute(request)
        if answer.exit_code:
            raise SystemExit(answer.stderr)
        rate, times = json.loads(answer.stdout)
        middle, worst = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        told = f"{middle - without:.2f} ms more, 95 % under {worst - without:.2f} ms more"
        print(f"{'in a VM, ' + kind:28} {rate:8.0f} MB/s {middle:8.2f} ms a connection: {told}")


async def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="mulligan-bench-"))
    directory.chmod(PASS_THROUGH)
    server = subprocess.Popen(
        [sys.executable, "-c", "from bench.network import serve; serve()"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        chosen = settings_module.load(
            data_dir=directory / "data",
            hooks={"enabled": False},
            vm_types={
                "focal-optimized": {"network": "allowlist", "allow": [f"127.0.0.1:{port}"]},
            },
        )
        async with Engine(chosen) as engine:
            await measure(engine, port)
    finally:
        server.kill()
        server.wait()
        remove_tree(directory)


if __name__ == "__main__":
    asyncio.run(main())
