"""Smaller sections of the settings: VM types, history, streams, answers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024


class VmType(BaseModel):
    """A kind of VM that can be asked for by name.

    ``disk_mb`` is what the disk of one may hold beyond the image, in MiB; 0: any amount.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver: Literal["bubblewrap"] = "bubblewrap"
    image: Literal["host"] = "host"
    disk_mb: int = Field(default=10240, ge=0, le=2**40)


class HistorySettings(BaseModel):
    """History, and what is kept of the states executions started from and left.

    ``snapshot_on_execution`` keeps the state after each one, ``snapshot_on_failure`` after one that
    fails, which ``auto_rollback_on_failure`` takes back. Rows above ``max_history_entries`` a VM
    go, oldest first. Without ``persist_history`` they are in memory only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    snapshot_on_execution: bool = False
    snapshot_on_failure: bool = True
    auto_rollback_on_failure: bool = False
    max_history_entries: int = Field(default=100, ge=1)
    persist_history: bool = True
    integration_mode: Literal["http", "direct"] = "http"


class StreamSettings(BaseModel):
    """What is kept of the events of executions, for those who listen to them.

    ``buffer_bytes`` is of one execution; of those that have ended, the newest ``keep_ended``, at
    most ``keep_ended_bytes`` of all and none for longer than ``keep_ended_seconds``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    buffer_bytes: int = Field(default=4 * MIB, ge=256 * 1024)
    keep_ended: int = Field(default=256, ge=0)
    keep_ended_bytes: int = Field(default=64 * MIB, ge=0)
    keep_ended_seconds: float = Field(default=600.0, ge=0)
    heartbeat_seconds: float = Field(default=15.0, gt=0)


class AnswerSettings(BaseModel):
    """Model answers. With ``stop_on_failure`` the blocks after one that fails are not run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stop_on_failure: bool = True
