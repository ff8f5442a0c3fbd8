"""What docs/mcp.md shows is what happens."""

import json
import re
import sys
from pathlib import Path

import pytest

from mulligan.cli.app import app
from support.server import Server

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import mcp_docs

TEXT = mcp_docs.DOCUMENT.read_text()
VARIES = re.compile(r"\b(exec|vm|snap|approval|mcp-session)-[0-9a-f]{16}\b|\b\d+ ms\b")


def test_the_table_is_of_the_tools_there_are() -> None:
    assert mcp_docs.between(TEXT, "tools") == mcp_docs.table(), "run: python tools/mcp_docs.py"


def test_the_session_is_one(data_dir: Path) -> None:
    shown = mcp_docs.between(TEXT, "session")
    happens = mcp_docs.fenced(mcp_docs.session(mcp_docs.example(TEXT), data_dir))
    assert VARIES.sub("…", happens) == VARIES.sub("…", shown)
    assert list((data_dir / "data" / "vms").iterdir()) == []


def test_the_command_that_clients_are_given_exists() -> None:
    from typer.testing import CliRunner

    configs = [json.loads(each) for each in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    assert len(configs) == 2
    arguments = configs[0]["mcpServers"]["mulligan"]["args"]
    done = CliRunner().invoke(app, [*arguments, "--help"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("query", ["", "?agent_id=claude-code"])
def test_the_addresses_that_clients_are_given_exist(server: Server, query: str) -> None:
    import httpx

    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    headers = {"Accept": "application/json, text/event-stream"}
    answer = httpx.post(f"{server.url}/mcp{query}", json=ping, headers=headers, trust_env=False)
    assert answer.json()["jsonrpc"] == "2.0"
    assert f"http://127.0.0.1:8080/mcp{query}" in TEXT
