"""Monitoring's own instruments, in the registry of this process; queues and jobs are the gateway's to show."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from shared import semconv


class Gauges:
    """Standing alerts as the last sweep saw them, and what became of spans."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._alerts = Gauge(semconv.METRIC_ALERTS_OPEN, "Alerts that stand", ["rule"], registry=registry)
        self.spans_kept = Counter(
            semconv.METRIC_SPANS_KEPT.removesuffix("_total"), "Spans stored", registry=registry
        )
        self.spans_dropped = Counter(
            semconv.METRIC_SPANS_DROPPED.removesuffix("_total"),
            "Spans over the cap of their trace",
            registry=registry,
        )

    def show_alerts(self, rules: Iterable[str]) -> None:
        """The rule of every alert that stands."""
        self._alerts.clear()
        for rule in rules:
            self._alerts.labels(rule).inc()
