"""Every place where a tool of MCP takes an id, as cases of an agent that names another's."""

from typing import Any

from mulligan.mcp.tools import TOOLS
from support.access import Ask, Case, Things

VERSION = "2026-07-28"
META = "io.modelcontextprotocol"
NEEDED = {"code": "1", "answer": "x", "path": "f", "content": "x"}
KINDS = {
    "vm_id": "vm",
    "execution_id": "execution",
    "snapshot_id": "snapshot",
    "old": "snapshot",
    "new": "snapshot",
}


def cases() -> dict[str, Case]:
    """By the tool and its parameter; made from the tools' schemas, so that none is forgotten."""
    return {
        f"{tool}.{name}": _case(tool, name)
        for tool, each in TOOLS.items()
        for name in each.takes.model_fields
        if name in KINDS or name.endswith("_id")
    }


def _case(tool: str, name: str) -> Case:
    fields = TOOLS[tool].takes.model_fields

    def ask(mine: Things, theirs: Things) -> Ask:
        given = {key: value for key, value in NEEDED.items() if key in fields}
        if "vm_id" in fields:
            given["vm_id"] = mine.vm
        given[name] = getattr(theirs, KINDS[name])
        headers = {
            "Accept": "application/json, text/event-stream",
            "Mcp-Protocol-Version": VERSION,
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
        }
        return Ask("/mcp", body=_message(tool, given), status=200, headers=headers)

    return ask


def _message(tool: str, given: dict[str, str]) -> dict[str, Any]:
    meta = {f"{META}/protocolVersion": VERSION, f"{META}/clientCapabilities": {}}
    params = {"name": tool, "arguments": given, "_meta": meta}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
