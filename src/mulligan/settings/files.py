"""Files of VMs: how large, and how long one may wait."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

GIB = 1024**3


class FileSettings(BaseModel):
    """Files that are sent to and fetched from VMs.

    ``max_file_bytes`` is the largest file that is taken; the VM's disk bounds it, too.
    ``idle_seconds`` is how long a transfer waits for the other side before it is broken off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_file_bytes: int = Field(default=10 * GIB, ge=1, le=2**62)
    idle_seconds: float = Field(default=120.0, gt=0, le=86400)
