"""Metrics in Prometheus' format: what is told of stages and requests, and how much there is.

Labels have few values whatever is asked for: languages, outcomes, states, routes as they are
declared, methods and status codes. No ids, no names, no text of anybody's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mulligan.engine.census import Census
from mulligan.errors import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalRequired,
    Forbidden,
    TooManyRequests,
    Unavailable,
    UnsupportedLanguage,
    ValidationFailed,
    VmNotAvailable,
)
from mulligan.languages import LANGUAGES, canonical
from mulligan.telemetry import Stage

PREFIX = "mulligan_"
OTHER = "other"
FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
ENDED = ("success", "failed", "timeout", "cancelled")
REFUSED = (
    ValidationFailed,
    UnsupportedLanguage,
    ApprovalDenied,
    ApprovalExpired,
    VmNotAvailable,
    Forbidden,
    TooManyRequests,
    Unavailable,
)
METHODS = ("WEBSOCKET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
POOL_RESULTS = ("hit", "miss")
HOOKS = ("before", "after")
UNDER_WAY = {"execution": "executions_running", "stream": "streams_open"}


class Declared(NamedTuple):
    """A metric: its kind, its name without the prefix, its labels, and what it tells."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = FAST


STAGES = (  # each a histogram of seconds
    Declared(
        "histogram",
        "execution_seconds",
        "All of an execution, from its request to its answer",
        ("language",),
        LONG,
    ),
    Declared(
        "histogram", "queue_seconds", "Waiting for the VM: one execution starts at a time", (), LONG
    ),
    Declared(
        "histogram",
        "kernel_queue_seconds",
        "Waiting for a kernel: its cells run one after the other",
        (),
        LONG,
    ),
    Declared(
        "histogram",
        "admission_seconds",
        "Waiting for a place to run, of those executions that had to",
        (),
        LONG,
    ),
    Declared(
        "histogram", "approval_seconds", "Waiting for an approver that is a program", (), LONG
    ),
    Declared("histogram", "hooks_seconds", "Judging an execution, before and after it", ("when",)),
    Declared("histogram", "boot_seconds", "Booting a VM, those of maintenance included"),
    Declared("histogram", "run_seconds", "A program, from its start to its end", (), LONG),
    Declared("histogram", "restore_point_seconds", "Keeping the state an execution starts from"),
    Declared("histogram", "snapshot_seconds", "Making a snapshot that was asked for", (), LONG),
    Declared("histogram", "rollback_seconds", "Taking a VM back", (), LONG),
)
EVENTS = (
    Declared(
        "counter",
        "executions",
        "Executions that have ended or were refused",
        ("language", "outcome"),
    ),
    Declared(
        "gauge",
        "executions_running",
        "Executions under way: waiting, being judged or running",
    ),
    Declared("gauge", "streams_open", "Event streams that are listened to"),
    Declared("counter", "boot_failures", "VMs that did not boot"),
    Declared(
        "counter",
        "pool_requests",
        "VMs asked of the pool: hit, one was ready; miss, one had to be made",
        ("result",),
    ),
    Declared(
        "counter",
        "http_requests",
        "HTTP requests, by the route as it is declared",
        ("method", "route", "status"),
    ),
    Declared(
        "histogram",
        "http_request_seconds",
        "From a request to the end of its answer; a stream's is when nobody listens any more",
        ("method", "route"),
        LONG,
    ),
)
THERE_IS = (  # counted when they are asked for
    Declared("gauge", "vms", "VMs by what they do", ("state",)),
    Declared("gauge", "places", "Executions whose programs may run at a time"),
    Declared("gauge", "places_taken", "Executions whose programs run, or are about to"),
    Declared("gauge", "executions_queued", "Executions that wait for a place"),
    Declared("gauge", "layers", "Layers that are kept"),
    Declared("gauge", "layers_bytes", "Their size, as far as it was counted"),
    Declared("gauge", "snapshots", "Snapshots, restore points included"),
    Declared("gauge", "approvals_waiting", "Questions that wait for a person"),
)
DECLARED = (*EVENTS, *STAGES, *THERE_IS)


class Metrics:
    """The metrics of one server, in a registry of their own. A sink of stages."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._there_is = _ThereIs()
        self.registry.register(self._there_is)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for each in (*EVENTS, *STAGES):
            name, text, labels = PREFIX + each.name, each.text, each.labels
            if each.kind == "counter":
                self._counters[each.name] = Counter(name, text, labels, registry=self.registry)
            elif each.kind == "gauge":
                self._gauges[each.name] = Gauge(name, text, labels, registry=self.registry)
            else:
                self._histograms[each.name] = Histogram(
                    name, text, labels, buckets=each.buckets, registry=self.registry
                )
        for result in POOL_RESULTS:
            self._counters["pool_requests"].labels(result)
        for when in HOOKS:
            self._histograms["hooks_seconds"].labels(when)

    # A sink

    def begin(self, stage: Stage) -> None:
        """See ``telemetry.Sink``."""
        if stage.name in UNDER_WAY:
            self._gauges[UNDER_WAY[stage.name]].inc()

    def end(self, stage: Stage, token: object, seconds: float, error: BaseException | None) -> None:  # noqa: ARG002
        """See ``telemetry.Sink``."""
        if stage.name in UNDER_WAY:
            self._gauges[UNDER_WAY[stage.name]].dec()
        if stage.name == "execution":
            language = language_of(stage)
            self._counters["executions"].labels(language, outcome_of(stage, error)).inc()
            self._histograms["execution_seconds"].labels(language).observe(seconds)
        elif stage.name == "hooks":
            self._histograms["hooks_seconds"].labels(stage.attributes["when"]).observe(seconds)
        elif histogram := self._histograms.get(f"{stage.name}_seconds"):
            histogram.observe(seconds)
        if stage.name == "boot" and error is not None:
            self._counters["boot_failures"].inc()

    def count(self, name: str, labels: dict[str, str]) -> None:
        """See ``telemetry.Sink``; the pool's ``result`` is "hit" or "miss"."""
        if name == "pool" and labels.get("result") in POOL_RESULTS:
            self._counters["pool_requests"].labels(labels["result"]).inc()

    # Requests

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered; ``route`` is one that is declared, not a path."""
        method = method if method in METHODS else OTHER
        self._counters["http_requests"].labels(method, route, str(status)).inc()
        self._histograms["http_request_seconds"].labels(method, route).observe(seconds)

    def text(self, census: Census | None, accept: str = "") -> tuple[bytes, str]:
        """All of them, and their content type.

        Args:
            census: what there is; None leaves that out.
            accept: the formats that are understood, as HTTP has it.
        """
        self._there_is.census = census
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind


def language_of(stage: Stage) -> str:
    """A language's canonical name; those there are not are all one."""
    name = canonical(str(stage.attributes.get("language", "")))
    return name if name in LANGUAGES else OTHER


def outcome_of(stage: Stage, error: BaseException | None) -> str:
    """How an execution ended, in a word of a few."""
    if error is None:
        outcome = str(stage.attributes.get("outcome"))
        return outcome if outcome in ENDED else OTHER
    if isinstance(error, ApprovalRequired):
        return "approval_required"
    if isinstance(error, REFUSED):
        return "refused"
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "error"


class _ThereIs(Collector):
    """How much of everything there is."""

    def __init__(self) -> None:
        self.census: Census | None = None

    def describe(self) -> Iterable[Metric]:
        return self._families(None)

    def collect(self) -> Iterable[Metric]:
        return self._families(self.census)

    def _families(self, census: Census | None) -> Iterable[Metric]:
        for each in THERE_IS:
            family = GaugeMetricFamily(PREFIX + each.name, each.text, labels=each.labels)
            value = getattr(census, each.name) if census is not None else None
            if isinstance(value, dict):
                for label, number in value.items():
                    family.add_metric([label], number)
            elif value is not None:
                family.add_metric([], value)
            yield family
