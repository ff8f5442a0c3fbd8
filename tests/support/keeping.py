"""Servers whose VMs keep their memory, and what is kept by it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from support import host

# Counts who asks, in memory and in a file.
COUNTER = """
cat > counter.py <<'END'
import http.server

class Counter(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Counter.asked += 1
        print(Counter.asked, file=LOG)
        body = str(Counter.asked).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

LOG = open("log", "a", buffering=1)
server = http.server.HTTPServer(("127.0.0.1", 8000), Counter)
open("listening", "w").close()
server.serve_forever()
END
nohup python3 counter.py > /dev/null 2>&1 &
until [ -e listening ]; do sleep 0.05; done
"""
ASK = (
    "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8000').read().decode())"
)
SERVER = """
import asyncio, sys
from pathlib import Path
from mulligan.engine.engine import Engine
from mulligan.models import VmExecuteRequest
from mulligan.settings import Settings, VmType

async def main():
    types = {"focal-optimized": VmType(driver=sys.argv[2], keep_memory=True, memory_mb=256)}
    settings = Settings(data_dir=Path(sys.argv[1]), vm_pool_size=0, vm_types=types)
    async with Engine(settings) as engine:
        for language, kernel, code in eval(sys.stdin.readline()):
            request = VmExecuteRequest(agent_id="a", language=language, code=code, kernel=kernel)
            done = await engine.execute(request)
            assert done.exit_code == 0, done
            print(repr(done.result or done.stdout), flush=True)
        print("done", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


class Server:
    """An engine in a process of its own, which is killed."""

    def __init__(
        self, directory: Path, driver: str, python: str = sys.executable, **identity
    ) -> None:
        paths = os.pathsep.join(each for each in sys.path if each)
        self.process = subprocess.Popen(
            [python, "-c", SERVER, str(directory), driver],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": paths, "HOME": str(directory)},
            cwd="/",
            **identity,
        )

    def run(self, *work: tuple[str, str | None, str]) -> list[str]:
        """What programs print or result in."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{list(work)!r}\n")
        self.process.stdin.flush()
        said = [self.process.stdout.readline() for _ in (*work, None)]
        assert said.pop() == "done\n"
        return [eval(line) for line in said]

    def kill(self) -> None:
        below = host.descendants(self.process.pid)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        assert host.wait_until(lambda: not host.alive(below))


def notes(directory: Path) -> list[Path]:
    """What says that there is memory of a VM, and what of."""
    return list(directory.glob("vms/*/memory.json"))
