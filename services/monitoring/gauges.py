"""The platform's own gauges, as the sweep last saw them, in the registry of this process. Knows no SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.monitoring.alerts import Observation
from shared import semconv


class Gauges:
    """Jobs by state, depth and oldest age of every queue, standing alerts, and what became of spans."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._jobs = Gauge(
            semconv.METRIC_JOBS, "Jobs by kind and state", ["kind", "state"], registry=registry
        )
        self._depth = Gauge(
            semconv.METRIC_QUEUE_DEPTH, "Jobs that could run now", ["queue"], registry=registry
        )
        self._age = Gauge(
            semconv.METRIC_QUEUE_OLDEST_AGE,
            "Seconds that the oldest job which could run has waited",
            ["queue"],
            registry=registry,
        )
        self._alerts = Gauge(semconv.METRIC_ALERTS_OPEN, "Alerts that stand", ["rule"], registry=registry)
        self.spans_kept = Counter(
            semconv.METRIC_SPANS_KEPT.removesuffix("_total"), "Spans stored", registry=registry
        )
        self.spans_dropped = Counter(
            semconv.METRIC_SPANS_DROPPED.removesuffix("_total"),
            "Spans over the cap of their trace",
            registry=registry,
        )

    def show_queues(self, ages: Sequence[Observation]) -> None:
        """Depth and age of the queues that have work; queues without any disappear."""
        self._depth.clear()
        self._age.clear()
        for seen in ages:
            self._depth.labels(seen.subject).set(seen.samples)
            self._age.labels(seen.subject).set(seen.value)

    def show_jobs(self, counts: Iterable[tuple[str, str, int]]) -> None:
        """(kind, state, jobs)."""
        self._jobs.clear()
        for kind, state, jobs in counts:
            self._jobs.labels(kind, state).set(jobs)

    def show_alerts(self, rules: Iterable[str]) -> None:
        """The rule of every alert that stands."""
        self._alerts.clear()
        for rule in rules:
            self._alerts.labels(rule).inc()
