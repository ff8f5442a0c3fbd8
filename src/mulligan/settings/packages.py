"""Packages that executions ask for."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PackageSettings(BaseModel):
    """Sets of packages (``requirements``), see docs/packages.md.

    ``max_requirements`` one execution may ask for; a set takes at most ``max_set_mb``, in MiB,
    while it is built, and ``build_timeout_seconds`` to build. One that was not used for
    ``unused_days`` goes, and the longest unused where all take more than ``max_total_mb``; 0: none
    does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    max_requirements: int = Field(default=100, ge=1, le=1000)
    max_set_mb: int = Field(default=8192, ge=16, le=2**30)
    build_timeout_seconds: int = Field(default=900, ge=1, le=86400)
    unused_days: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    max_total_mb: int = Field(default=20480, ge=0, le=2**40)
