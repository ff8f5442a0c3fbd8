"""Traces, and where they go."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator


class TracingSettings(BaseModel):
    """OpenTelemetry traces of a server; there are none without ``endpoint``.

    ``endpoint`` is the URL of an OTLP receiver for traces over HTTP, such as
    ``http://localhost:4318/v1/traces``; ``headers`` go with each request to it. ``sample_ratio`` is
    the part of requests that are traced, of those whose asker has not decided it (``traceparent``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    service_name: str = Field(default="mulligan", min_length=1)
    sample_ratio: float = Field(default=1.0, ge=0, le=1)

    @field_validator("endpoint")
    @classmethod
    def _a_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(
                f"{value!r} is no URL; use one such as http://localhost:4318/v1/traces"
            )
        return value
