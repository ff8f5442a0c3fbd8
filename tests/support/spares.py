"""A program that finds the process that waits for the next one, and does something to it."""

import asyncio

MEDDLER = """
import os, resource, signal, time

def siblings():
    found = set()
    for name in os.listdir('/proc'):
        try:
            state = open(f'/proc/{name}/stat').read().rpartition(')')[2].split()
        except (OSError, ValueError):
            continue
        if name.isdigit() and int(state[1]) == PARENT and state[0] != 'Z':
            found.add(int(name))
    return found - {os.getpid()}

PARENT = os.getppid()
print('looks', flush=True)
before, looks = set(), 0
for _ in range(1500):
    time.sleep(0.02)
    found = siblings() if os.path.exists('go') else set()
    looks = looks + 1 if len(found) == 1 and found == before else 0
    before = found
    if looks == 10:
        break
[spare] = found
WHAT
print('done', flush=True)
time.sleep(60)
"""
LOWER = "resource.prlimit(spare, resource.RLIMIT_NOFILE, (32, 32))"
END = """os.kill(spare, signal.SIGKILL)
while spare in siblings():
    time.sleep(0.01)"""


def meddler(what: str) -> str:
    """The program: says "looks", waits for a file ``go`` in its working directory, says "done"."""
    return MEDDLER.replace("WHAT", what)


class Heard:
    """What it has said, by its output."""

    def __init__(self) -> None:
        self._said = b""
        self._news = asyncio.Event()

    def __call__(self, _: object, data: bytes | str) -> None:
        self._said += data.encode() if isinstance(data, str) else data
        self._news.set()

    async def until(self, word: bytes) -> None:
        """Waits for a word."""
        async with asyncio.timeout(40):
            while word not in self._said:
                self._news.clear()
                await self._news.wait()
