"""Images beside the host's own."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class ImageSettings(BaseModel):
    """What is taken in as an image, see docs/images.md.

    Images are kept in ``directory``; None: in the data directory. Files of one take at most
    ``max_mb`` together, in MiB, and are at most ``max_entries``. Making one may take
    ``timeout_seconds``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path | None = None
    max_mb: int = Field(default=16384, ge=1, le=2**30)
    max_entries: int = Field(default=1_000_000, ge=1, le=10_000_000)
    timeout_seconds: int = Field(default=1800, ge=10, le=86400)
