"""Idempotency keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024


class IdempotencySettings(BaseModel):
    """How long keys are known, and how much of their answers is kept for each agent.

    Above ``max_keys`` an agent's oldest keys are forgotten; above ``max_bytes`` its oldest answers
    are, and their keys stay known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_seconds: int = Field(default=86400, ge=1, le=366 * 86400)
    max_keys: int = Field(default=10_000, ge=1, le=10_000_000)
    max_bytes: int = Field(default=64 * MIB, ge=0)
