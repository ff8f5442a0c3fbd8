"""What ``mulligan doctor`` finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked at: "ok", "note" (something is missing but VMs work), or "fail"."""

    check: str
    state: str
    detail: str
    remedy: str | None = None
