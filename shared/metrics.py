"""Prometheus instruments that more than one service writes, and the small server that shows them."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

from shared import semconv
from shared.errors import ConfigurationError

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The instruments of one process, in a registry of its own so that tests can make several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs_ended = Counter(
            semconv.METRIC_JOBS_ENDED.removesuffix("_total"),
            "Jobs that left a worker, by kind and state",
            ["kind", "state"],
            registry=self.registry,
        )
        self.process_seconds = Histogram(
            semconv.METRIC_PROCESS_SECONDS,
            "Seconds a worker spent on one job or live request",
            ["destination"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.leases_expired = Counter(
            semconv.METRIC_LEASES_EXPIRED.removesuffix("_total"),
            "Leases that the reaper ended",
            registry=self.registry,
        )
        self.tokens = Counter(
            semconv.METRIC_TOKENS.removesuffix("_total"),
            "Tokens by model and direction",
            ["model", "direction"],
            registry=self.registry,
        )
        self.first_token = Histogram(
            semconv.METRIC_FIRST_TOKEN,
            "Seconds from a request's arrival to its first token",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.per_token = Histogram(
            semconv.METRIC_PER_TOKEN,
            "Seconds per output token after the first",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.busy = Gauge(
            semconv.METRIC_WORKER_BUSY, "Share of the worker's slots in use", registry=self.registry
        )
        self.train_loss = Gauge(
            semconv.METRIC_TRAIN_LOSS, "Last training loss", ["job"], registry=self.registry
        )
        self.train_tokens = Gauge(
            semconv.METRIC_TRAIN_TOKENS_PER_SECOND,
            "Tokens trained per second",
            ["job"],
            registry=self.registry,
        )

    def text(self) -> bytes:
        """The Prometheus exposition of this process."""
        return generate_latest(self.registry)

    def serve(self, host: str, port: int) -> str:
        """Serve /metrics on a thread; returns `host:port` (a free port for 0). Raises ConfigurationError."""
        try:
            server, _ = start_http_server(port, addr=host, registry=self.registry)
        except OSError as exc:
            raise ConfigurationError(
                f"/metrics cannot be served on {host}:{port}: {exc.strerror}; choose another HELIU_METRICS_PORT, or 0",
                param="HELIU_METRICS_PORT",
            ) from exc
        return f"{host}:{server.server_address[1]}"


def announce(ready_file: str, metrics_address: str) -> None:
    """Create the file that says that this process is ready, with the address of its /metrics in it."""
    if ready_file:
        made = Path(f"{ready_file}.new")
        made.write_text(metrics_address)
        made.replace(ready_file)
