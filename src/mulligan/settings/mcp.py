"""The server of the Model Context Protocol."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class McpSettings(BaseModel):
    """MCP, at ``/mcp`` of a server and over standard input and output.

    ``approvals`` says when what the person at a client answers to a question counts as an approval:
    "trusted" (unless the client came with an agent's token, which answers no approvals elsewhere
    either), "always" or "off". ``idle_seconds`` ends sessions that nothing was heard of;
    ``max_sessions`` may be open at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    approvals: Literal["trusted", "always", "off"] = "trusted"
    idle_seconds: float = Field(default=1800.0, gt=0, allow_inf_nan=False)
    max_sessions: int = Field(default=1000, ge=1)
