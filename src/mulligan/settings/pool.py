"""How many VMs are up, and for how long."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, Field

EACH_BYTES = 32 * 1024 * 1024  # an idle VM takes a third of it, or less


class PoolSettings(BaseModel):
    """VMs that are up: how many at a time, and for how long where nobody uses them.

    ``max_vms`` of the host, spare ones included (null: one for each 32 MiB of memory the machine
    has), and ``max_vms_per_agent``; 0: any number. A VM that nobody uses hibernates after
    ``idle_hibernate_seconds`` and is removed, with all it wrote, after ``idle_delete_seconds``; 0:
    never. One with live kernels or with programs in the background is not idle, unless
    ``hibernate_with_programs``. A spare VM that takes longer than ``ping_seconds`` to answer is
    replaced.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_vms: int | None = Field(default=None, ge=0)
    max_vms_per_agent: int = Field(default=0, ge=0)
    idle_hibernate_seconds: float = Field(default=900.0, ge=0, allow_inf_nan=False)
    idle_delete_seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    hibernate_with_programs: bool = False
    ping_seconds: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @property
    def most(self) -> int:
        """``max_vms`` in numbers; 0: any."""
        if self.max_vms is not None:
            return self.max_vms
        return max(8, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // EACH_BYTES)
