"""SQL of the operator's views: workers, queues, jobs by state, traces, alerts."""

from __future__ import annotations

from shared.db import Connection, Row

WORKERS = """
SELECT * FROM core.worker WHERE state <> 'stopped' OR heartbeat_at > now() - interval '1 hour'
ORDER BY name, started_at"""

LIVING_QUEUES = """
SELECT DISTINCT unnest(queues) AS queue FROM core.worker
WHERE state = 'running' AND heartbeat_at > now() - interval '30 seconds'"""

JOBS_BY_STATE = "SELECT kind, state, count(*)::bigint AS jobs FROM core.job GROUP BY kind, state"

QUEUES = """
SELECT queue,
    count(*) FILTER (WHERE state = 'queued' AND blocked_by = 0)::int AS waiting,
    count(*) FILTER (WHERE state = 'leased')::int AS running,
    COALESCE(extract(epoch FROM now() - min(run_at) FILTER
        (WHERE state = 'queued' AND blocked_by = 0 AND run_at <= now())), 0)::float8 AS oldest_s
FROM core.job WHERE state IN ('queued', 'leased') AND (%(queues)s::text[] IS NULL OR queue = ANY(%(queues)s))
GROUP BY queue ORDER BY queue"""

POOL_WORKERS = """
SELECT queues, slots, busy, info -> 'slots' AS job_slots, info -> 'running' AS running FROM core.worker
WHERE queues && %s AND state = 'running' AND heartbeat_at > now() - interval '30 seconds'"""

POOL_QUEUES = """
SELECT DISTINCT queue FROM (
    SELECT unnest(queues) AS queue FROM core.worker UNION SELECT queue FROM core.lane) known
WHERE queue = %(pool)s OR queue LIKE %(below)s ORDER BY queue"""

TRACES = """
SELECT r.*, (SELECT count(*) FROM monitoring.span s WHERE s.trace_id = r.trace_id)::int AS spans
FROM monitoring.span r
WHERE r.parent_id IS NULL AND (%(name)s::text IS NULL OR r.name = %(name)s)
  AND (%(after)s::text IS NULL OR r.start_ns < (
      SELECT min(start_ns) FROM monitoring.span WHERE trace_id = %(after)s AND parent_id IS NULL))
ORDER BY r.start_ns DESC LIMIT %(limit)s"""

TRACE = "SELECT * FROM monitoring.span WHERE trace_id = %s ORDER BY start_ns, span_id LIMIT 10000"

HAS_TRACE = "SELECT 1 FROM monitoring.span WHERE trace_id = %s AND parent_id IS NULL LIMIT 1"

ALERTS = """
SELECT * FROM monitoring.alert
WHERE (%(open)s::boolean IS NULL OR (resolved_at IS NULL) = %(open)s)
  AND (%(after)s::text IS NULL
       OR (started_at, id) < (SELECT started_at, id FROM monitoring.alert WHERE id = %(after)s))
ORDER BY started_at DESC, id DESC LIMIT %(limit)s"""

HAS_ALERT = "SELECT 1 FROM monitoring.alert WHERE id = %s"


def answer(connection: Connection) -> None:
    """Does Postgres answer at all."""
    connection.execute("SELECT 1")


def workers(connection: Connection) -> list[Row]:
    """Workers that live or have lived within the hour."""
    return connection.execute(WORKERS).fetchall()


def living_queues(connection: Connection) -> frozenset[str]:
    """Every queue that some living worker takes from."""
    return frozenset(row["queue"] for row in connection.execute(LIVING_QUEUES).fetchall())


def jobs_by_state(connection: Connection) -> list[Row]:
    return connection.execute(JOBS_BY_STATE).fetchall()


def queues(connection: Connection, names: list[str] | None = None) -> list[Row]:
    """Waiting and running jobs and the age of the oldest waiting one, by queue."""
    return connection.execute(QUEUES, {"queues": names}).fetchall()


def pool_queues(connection: Connection, pool: str) -> list[str]:
    """The queues of a pool: `inference.default` has `inference.default.batch` and `inference.default.live`."""
    escaped = pool.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    rows = connection.execute(POOL_QUEUES, {"pool": pool, "below": f"{escaped}.%"}).fetchall()
    return [row["queue"] for row in rows]


def pool_workers(connection: Connection, names: list[str]) -> list[Row]:
    """Living workers that serve any of the queues, and how their slots are shared out and taken."""
    return connection.execute(POOL_WORKERS, (names,)).fetchall()


def list_traces(connection: Connection, name: str | None, after: str | None, limit: int) -> list[Row]:
    """Root spans, newest first, with how many spans their traces have."""
    return connection.execute(TRACES, {"name": name, "after": after, "limit": limit}).fetchall()


def get_trace(connection: Connection, trace_id: str) -> list[Row]:
    return connection.execute(TRACE, (trace_id,)).fetchall()


def has_trace(connection: Connection, trace_id: str) -> bool:
    return connection.execute(HAS_TRACE, (trace_id,)).fetchone() is not None


def list_alerts(connection: Connection, open_: bool | None, after: str | None, limit: int) -> list[Row]:
    return connection.execute(ALERTS, {"open": open_, "after": after, "limit": limit}).fetchall()


def has_alert(connection: Connection, alert_id: str) -> bool:
    return connection.execute(HAS_ALERT, (alert_id,)).fetchone() is not None
