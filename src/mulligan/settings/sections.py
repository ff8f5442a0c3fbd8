"""Smaller sections of the settings: VM types, history, streams, answers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mulligan.network.rules import MOST_ENTRIES, uncovered
from mulligan.settings.network import (
    NetworkMode,
    SecretSource,
    checked_entries,
    checked_mode,
    checked_secrets,
)

MIB = 1024 * 1024
DriverName = Literal["bubblewrap", "gvisor", "qemu", "auto"]


class VmType(BaseModel):
    """A kind of VM that can be asked for by name.

    Its ``image`` is "host", this machine's own programs, or one of ``mulligan image ls``.
    ``driver`` makes its walls, see docs/drivers.md; None: the one of all settings.

    What one may take; 0: any amount. ``disk_mb`` of disk beyond the image, in MiB; ``memory_mb`` of
    memory for its programs, in MiB; ``vcpus`` of CPU time, in CPUs; ``max_processes``;
    ``max_open_files`` and ``cpu_seconds`` of each process. ``cpu_weight`` is its share where VMs
    compete, 100 being usual; ``shm_mb`` the size of /dev/shm, which counts as memory and is at
    most half of it. What holds each: docs/limits.md. So many are ``warm``: up and ready for
    whoever comes next. After so many executions, or hours up, a VM's processes are renewed as soon
    as it is idle; 0: never. See docs/pool.md.

    With ``keep_memory`` its kernels and what runs in the background outlive the server, where the
    driver can: docs/drivers.md.

    With ``allow_builds`` code of packages may run, in a builder, to make what is asked for. With
    ``network`` "allowlist" its programs reach the hosts of ``allow`` through a proxy, which puts
    ``secrets`` in; see docs/network.md.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver: DriverName | None = None
    image: str = Field(default="host", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    disk_mb: int = Field(default=10240, ge=0, le=2**40)
    memory_mb: int = Field(default=2048, ge=0, le=2**30)
    vcpus: float = Field(default=2.0, ge=0, le=8192, allow_inf_nan=False)
    cpu_weight: int = Field(default=100, ge=1, le=10_000)
    max_processes: int = Field(default=512, ge=0, le=2**22)
    max_open_files: int = Field(default=4096, ge=0, le=2**20)
    cpu_seconds: int = Field(default=0, ge=0, le=10**9)
    shm_mb: int = Field(default=256, ge=1, le=2**20)
    warm: int = Field(default=0, ge=0, le=4096)
    recycle_after_executions: int = Field(default=0, ge=0)
    recycle_after_hours: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    keep_memory: bool = False
    allow_builds: bool = False
    network: NetworkMode = "none"
    allow: list[str] = Field(default_factory=list, max_length=MOST_ENTRIES)
    secrets: dict[str, SecretSource] = Field(default_factory=dict)

    _mode = field_validator("network", mode="before")(checked_mode)
    _entries = field_validator("allow")(checked_entries)
    _secrets = field_validator("secrets")(checked_secrets)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.network == "none" and (self.allow or self.secrets):
            raise ValueError('allow and secrets are for network = "allowlist"')
        if self.network == "allowlist" and not self.allow:
            raise ValueError('network = "allowlist" needs an allow that names who may be reached')
        for name, secret in self.secrets.items():
            missing = uncovered(secret.hosts, self.allow)
            if missing is not None:
                raise ValueError(f"secrets.{name}.hosts has {missing}, which allow does not cover")
        return self

    @model_validator(mode="after")
    def _can_start(self) -> Self:
        """What is too little for anything to start is a mistake in its unit."""
        least = {"memory_mb": 32, "vcpus": 0.05, "max_processes": 8, "max_open_files": 64}
        for name, value in least.items():
            if 0 < getattr(self, name) < value:
                raise ValueError(f"{name} must be 0 (no limit) or at least {value:g}")
        return self


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
