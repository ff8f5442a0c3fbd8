"""Who is let in, and how much an agent may have of everything."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field


class LimitSettings(BaseModel):
    """What one agent may have at a time; 0: any amount.

    ``running_executions`` counts those that have been let in and have not ended, ``vms`` forks
    too, and ``stored_mb`` (MiB) everything that its VMs and their snapshots take on disk.
    ``requests_per_second`` is what it may send on the average, and ``request_burst`` at once;
    administrators are held to ``admin_requests_per_second``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    running_executions: int = Field(default=256, ge=0)
    vms: int = Field(default=4096, ge=0)
    stored_mb: int = Field(default=0, ge=0)
    requests_per_second: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    request_burst: int = Field(default=100, ge=1)
    admin_requests_per_second: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class AuditSettings(BaseModel):
    """The audit log: files of ``file_mb`` (MiB), ``files`` of them, the oldest of which goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    file_mb: int = Field(default=64, ge=1, le=2**20)
    files: int = Field(default=16, ge=1, le=10_000)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def checked_origin(origin: str) -> str:
    """An origin as browsers send it.

    Raises:
        ValueError: it is none, or stands for all of them.
    """
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(
            f"{origin!r} is no origin such as https://app.example.org (and * would let any web "
            "page in)"
        )
    return origin.lower()
