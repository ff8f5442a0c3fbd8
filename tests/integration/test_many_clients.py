"""Programs through the server with eight clients at a time end as they do on the bare host."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mulligan.engine.engine import Engine
from oracle.other_programs import BASH, JAVASCRIPT
from oracle.python_programs import PROGRAMS
from oracle.test_oracle import on_host
from support.server import Server

pytestmark = pytest.mark.anyio
CLIENTS = 8
TABLES = {"python": PROGRAMS, "bash": BASH, "javascript": JAVASCRIPT}


@pytest.fixture
def ungated(data_dir: Path) -> Iterator[Server]:
    """A server that runs whatever it is given, wrong programs too."""
    with Server(data_dir, MULLIGAN_HOOKS__ENABLED="false") as running:
        yield running


async def test_eight_clients(ungated: Server, shared_engine: Engine) -> None:
    image = shared_engine.fleet.images.host
    work = [
        (language, name, code)
        for language, table in TABLES.items()
        if language in image.toolchains
        for name, code in table.items()
    ]
    ended: Counter[str] = Counter()
    otherwise: list[str] = []
    queue = iter(work)

    async def client(number: int) -> None:
        async with httpx.AsyncClient(base_url=ungated.url, timeout=120, trust_env=False) as http:
            for language, name, code in queue:
                expected, _, _ = await asyncio.to_thread(on_host, image, language, code)
                body = {"agent_id": f"agent-{number % 3}", "language": language, "code": code}
                answer = (await http.post("/api/llm/execute", json=body)).json()
                ended[language] += 1
                if answer["exit_code"] != expected:
                    otherwise.append(f"{language} {name}: {answer}"[:300])

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    print(dict(ended))
    assert sum(ended.values()) == len(work)
    assert not otherwise
