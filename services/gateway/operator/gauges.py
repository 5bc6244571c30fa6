"""The platform's own gauges, read from Postgres at each scrape: they are right whichever process answers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from services.gateway.operator import repository as platform_repository
from shared import semconv
from shared.db import Database


def platform_text(db: Database) -> bytes:
    """Prometheus text of jobs by state, queue depth and oldest age, leases and workers. Raises Unavailable."""
    with db.core() as connection:
        jobs = platform_repository.jobs_by_state(connection)
        queues = platform_repository.queues(connection)
        workers = platform_repository.workers(connection)
    registry = CollectorRegistry()
    states = Gauge(semconv.METRIC_JOBS, "Jobs by kind and state", ["kind", "state"], registry=registry)
    for row in jobs:
        states.labels(row["kind"], row["state"]).set(row["jobs"])
    depth = Gauge(semconv.METRIC_QUEUE_DEPTH, "Jobs that wait for a worker", ["queue"], registry=registry)
    oldest = Gauge(
        semconv.METRIC_QUEUE_OLDEST_AGE, "Age of the oldest waiting job", ["queue"], registry=registry
    )
    leases = Gauge("heliu_leases", "Jobs that a worker holds", ["queue"], registry=registry)
    for row in queues:
        depth.labels(row["queue"]).set(row["waiting"])
        oldest.labels(row["queue"]).set(row["oldest_s"])
        leases.labels(row["queue"]).set(row["running"])
    names = ["service", "pool", "state"]
    alive = Gauge("heliu_workers", "Workers by service, pool and state", names, registry=registry)
    slots = Gauge("heliu_worker_slots", "Slots of workers", names, registry=registry)
    for row in workers:
        labels = (row["service"], row["pool"], row["state"])
        alive.labels(*labels).inc()
        slots.labels(*labels).inc(row["slots"])
    return generate_latest(registry)
