"""Terminals."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TerminalSettings(BaseModel):
    """Terminals: whether there are any, and how long and how many.

    What is typed into one is seen by no gate. ``enabled`` forbids them to everybody, and
    ``agents`` allows them to agents, too, where callers have tokens. ``idle_seconds`` (0: any) is
    how long nothing may go in or out, ``max_seconds`` how long one may last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    agents: bool = False
    idle_seconds: float = Field(default=3600.0, ge=0)
    max_seconds: int = Field(default=8 * 3600, ge=1, le=7 * 86400)
    max_open: int = Field(default=64, ge=1, le=1024)
