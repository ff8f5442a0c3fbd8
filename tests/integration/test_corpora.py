"""Real programs, through the server, with eight clients at a time.

They lie outside the project, in ``../shared/corpora/code_exec``: JSON lines with at least
``language``, ``code`` and ``verified_rc``, the exit code the program is known to have.
"""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from support.host import data_directory
from support.server import Server

CORPUS = Path(__file__).parents[3] / "shared" / "corpora" / "code_exec"
CLIENTS = 8
LANGUAGES = ("python", "javascript", "rust")
FIELDS = {"language", "code", "verified_rc"}

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


def programs() -> list[dict]:
    if not CORPUS.exists():
        pytest.skip(f"{CORPUS} is not there")
    rows = []
    for path in sorted(CORPUS.rglob("*.jsonl")):
        rows += [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    usable = [row for row in rows if set(row) >= FIELDS and row["language"] in LANGUAGES]
    if not usable:
        pytest.skip(f"{CORPUS} has no rows with {sorted(FIELDS)}")
    return usable


def test_programs_end_as_they_are_known_to() -> None:
    rows = programs()
    wrong: list[str] = []
    ended: Counter[str] = Counter()
    with (
        data_directory() as path,
        Server(path, MULLIGAN_MAX_CODE_LENGTH="1000000") as server,
        httpx.Client(base_url=server.url, timeout=600, trust_env=False) as client,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):

        def one(numbered: tuple[int, dict]) -> None:
            number, row = numbered
            answer = client.post(
                "/api/llm/execute",
                json={
                    "agent_id": f"agent-{number % CLIENTS}",
                    "language": row["language"],
                    "code": row["code"],
                    "timeout_seconds": 120,
                },
            ).json()
            same = (answer.get("exit_code") == 0) == (row["verified_rc"] == 0)
            ended[f"{row['language']}: {'as known' if same else 'otherwise'}"] += 1
            if not same:
                wrong.append(f"{row.get('id', number)}: {answer}"[:300])

        list(pool.map(one, enumerate(rows)))
    print(dict(ended))
    assert not wrong, wrong[:10]
