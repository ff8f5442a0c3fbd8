"""schemathesis, all its checks, over the OpenAPI document of a real server that makes real VMs.

Every route of the document is in it, so a new one is, too.
"""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support import host
from support.server import Server, clean_environment

pytest.importorskip("schemathesis")
ROOT = Path(__file__).parents[2]
FEW = {"MULLIGAN_LIMITS__VMS": "8", "MULLIGAN_EXECUTION_TIMEOUT_MS": "2000"}


def fuzz(data_dir: Path, examples: int, seconds: int, phases: str) -> None:
    with Server(data_dir, MULLIGAN_LOG_LEVEL="warning", **FEW) as server:
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            vm = http.post("/api/vms", json={"agent_id": "fuzz"}).json()["id"]
            session = http.post("/sessions", json={"name": "fuzz", "agent_id": "fuzz"}).json()
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
            *("--phases", phases, "--max-examples", str(examples), "--max-time", str(seconds)),
            *("--seed", "1", "--generation-database", "none", "--no-color"),
        ]
        names = {"MULLIGAN_FUZZ_VM": vm, "MULLIGAN_FUZZ_SESSION": session["name"]}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=clean_environment() | names,
            capture_output=True,
            text=True,
            timeout=seconds + 100,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http:
            assert http.get("/health").json()["status"] == "ok"
            assert len(http.get("/api/vms").json()) <= 100
            body = {"agent_id": "fuzz", "language": "bash", "code": "echo well", "vm_id": vm}
            ran = http.post("/api/llm/execute", json=body)
            assert ran.json().get("stdout") == "well\n", ran.text
        assert "Traceback" not in server.log()
        assert host.alive({server.pid})


@pytest.mark.timeout(170)
def test_all_checks(data_dir: Path) -> None:
    fuzz(data_dir, 4, 30, "examples,coverage,fuzzing")


@pytest.mark.long
@pytest.mark.timeout(1000)
def test_all_checks_for_long(data_dir: Path) -> None:
    fuzz(data_dir, 200, 600, "examples,coverage,fuzzing,stateful")
