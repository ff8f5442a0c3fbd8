"""OpenTelemetry traces: a span for each request, and below it for each stage.

Only this module knows OpenTelemetry, which is an extra; it is imported where traces are configured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mulligan.errors import ConfigError, VmExecutionError
from mulligan.settings import TracingSettings
from mulligan.telemetry import Stage
from mulligan.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

# What a span may be called, and what it may tell: nothing else leaves.
STAGES = (
    "execution",
    "queue",
    "kernel_queue",
    "approval",
    "hooks",
    "boot",
    "run",
    "restore_point",
    "snapshot",
    "rollback",
)
ATTRIBUTES = ("language", "outcome", "exit_code", "execution_id", "vm_id", "when")
SERVER_FAULT = 500


def of_settings(settings: TracingSettings) -> Tracing | None:
    """The traces that are configured, or none.

    Raises:
        ConfigError: they are, and OpenTelemetry is not installed.
    """
    if settings.endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
    except ImportError:
        raise ConfigError(
            "traces are configured, and OpenTelemetry is not installed",
            field="tracing.endpoint",
            remedy="pip install '.[otel]' where Mulligan's source is, or unset "
            "MULLIGAN_TRACING__ENDPOINT",
        ) from None
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    return Tracing(settings, OTLPSpanExporter(endpoint=settings.endpoint, headers=headers))


class Tracing:
    """Traces of one server, sent through a provider of its own. A sink of stages.

    Args:
        settings: what the service is called, and how much is traced.
        exporter: where spans go, in batches, from a thread of its own.
    """

    def __init__(self, settings: TracingSettings, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import (  # noqa: PLC0415
            ParentBased,
            TraceIdRatioBased,
        )

        names = {"service.name": settings.service_name, "service.version": __version__}
        self._provider = TracerProvider(
            resource=Resource.create(names),
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("mulligan", __version__)

    def flush(self) -> None:
        """Returns when what has ended is sent, or cannot be."""
        self._provider.force_flush()

    def close(self) -> None:
        """Sends what is left; blocks for seconds at the most where nobody takes it."""
        self._provider.shutdown()

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        """A span around a request, below the asker's own where the headers name one."""
        from opentelemetry.trace import SpanKind, use_span  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        parent = TraceContextTextMapPropagator().extract(headers)
        span = self._tracer.start_span(method, context=parent, kind=SpanKind.SERVER)
        told = RequestSpan(span, method)
        with use_span(span, record_exception=False, set_status_on_exception=False):
            try:
                yield told
            finally:
                span.end()

    # A sink

    def begin(self, stage: Stage) -> object:
        """See ``telemetry.Sink``."""
        if stage.name not in STAGES:
            return None
        from opentelemetry import context, trace  # noqa: PLC0415

        span = self._tracer.start_span(f"mulligan.{stage.name}")
        return span, context.attach(trace.set_span_in_context(span))

    def end(self, stage: Stage, token: object, seconds: float, error: BaseException | None) -> None:  # noqa: ARG002
        """See ``telemetry.Sink``."""
        if token is None:
            return
        from opentelemetry import context  # noqa: PLC0415
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        assert isinstance(token, tuple)
        span, attached = token
        context.detach(attached)
        for name in ATTRIBUTES:
            if name in stage.attributes:
                span.set_attribute(f"mulligan.{name}", stage.attributes[name])
        if error is not None:  # its text may quote code
            kind = error.variant if isinstance(error, VmExecutionError) else type(error).__name__
            span.set_attribute("error.type", kind)
            span.set_status(StatusCode.ERROR, kind)
        span.end()

    def count(self, name: str, labels: dict[str, str]) -> None:
        """See ``telemetry.Sink``."""


class RequestSpan:
    """The span of a request."""

    def __init__(self, span: Span, method: str) -> None:
        self._span = span
        self._method = method
        span.set_attribute("http.request.method", method)

    @property
    def trace_id(self) -> str:
        """Its trace, in hexadecimal, for logs."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def answered(self, route: str, status: int) -> None:
        """By which route as it is declared, and how."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        self._span.update_name(f"{self._method} {route}")
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        if status >= SERVER_FAULT:
            self._span.set_status(StatusCode.ERROR)
