"""SQL of monitoring: spans, minute rollups, what the rules look at, and alerts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from services.monitoring.alerts import Observation, Open
from services.monitoring.canaries import Answered
from services.monitoring.otlp import SpanRow
from shared.db import Connection, Row

SWEEP_LOCK = 0x6D6F6E69  # "moni"

TRY_LOCK = "SELECT pg_try_advisory_xact_lock(%s) AS got"

# One writer a trace at a time: caps hold exactly, and handing tenants down cannot deadlock.
LOCK_TRACES = "SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key"

COUNT_SPANS = (
    "SELECT trace_id, count(*) AS spans FROM monitoring.span WHERE trace_id = ANY(%s) GROUP BY trace_id"
)

ADD_SPANS = """
INSERT INTO monitoring.span (trace_id, span_id, parent_id, tenant_id, service, name, kind, start_ns, end_ns, status,
    status_message, attributes, events, links)
SELECT * FROM jsonb_to_recordset(%s) AS r (trace_id text, span_id text, parent_id text, tenant_id uuid,
    service text, name text, kind text, start_ns bigint, end_ns bigint, status text, status_message text,
    attributes jsonb, events jsonb, links jsonb)
ORDER BY trace_id, span_id
ON CONFLICT DO NOTHING"""

# Spans arrive children first; each takes the tenant of its nearest ancestor that names one.
INHERIT = """
WITH RECURSIVE owned AS (
    SELECT trace_id, span_id, tenant_id FROM monitoring.span
    WHERE trace_id = ANY(%(traces)s) AND tenant_id IS NOT NULL
    UNION
    SELECT child.trace_id, child.span_id, owned.tenant_id FROM monitoring.span child JOIN owned
        ON child.trace_id = owned.trace_id AND child.parent_id = owned.span_id
    WHERE child.trace_id = ANY(%(traces)s) AND child.tenant_id IS NULL
)
UPDATE monitoring.span s SET tenant_id = owned.tenant_id FROM owned
WHERE s.trace_id = owned.trace_id AND s.span_id = owned.span_id AND s.tenant_id IS NULL"""

FORGET_SPANS = """
DELETE FROM monitoring.span WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM monitoring.span WHERE received_at < now() - %s LIMIT %s))"""

FORGET_ROLLUPS = "DELETE FROM monitoring.rollup WHERE minute < now() - %s"

OLDEST_LEFT = """
SELECT now() AS now, (SELECT min(created_at) FROM gateway.usage WHERE created_at >= COALESCE(
    (SELECT max(minute) + interval '1 minute' FROM monitoring.rollup), '-infinity')) AS oldest"""

# An answer that its client gave up is nobody's error.
ROLL = """
INSERT INTO monitoring.rollup (minute, tenant_id, model, pool, requests, errors, prompt_tokens, completion_tokens,
    seconds_sum, seconds_p95, first_token_p95)
SELECT date_trunc('minute', created_at), tenant_id, model, pool, count(*),
    count(*) FILTER (WHERE status NOT IN ('ok', 'cancelled')),
    sum(prompt_tokens), sum(completion_tokens), sum(seconds),
    percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds),
    percentile_cont(0.95) WITHIN GROUP (ORDER BY first_token_seconds)
FROM gateway.usage WHERE created_at >= %s AND created_at < %s GROUP BY 1, 2, 3, 4
ON CONFLICT (minute, tenant_id, model, pool) DO UPDATE SET requests = EXCLUDED.requests, errors = EXCLUDED.errors,
    prompt_tokens = EXCLUDED.prompt_tokens, completion_tokens = EXCLUDED.completion_tokens,
    seconds_sum = EXCLUDED.seconds_sum, seconds_p95 = EXCLUDED.seconds_p95,
    first_token_p95 = EXCLUDED.first_token_p95"""

ERROR_RATES = """
SELECT t.name || '/' || r.model AS subject, r.tenant_id AS tenant, sum(r.requests)::int AS samples,
    sum(r.errors)::float / sum(r.requests) AS value,
    ARRAY(SELECT u.trace_id FROM gateway.usage u WHERE u.tenant_id = r.tenant_id AND u.model = r.model
        AND u.created_at > now() - %(window)s AND u.status NOT IN ('ok', 'cancelled')
        AND u.trace_id IS NOT NULL ORDER BY u.created_at DESC LIMIT 5) AS traces
FROM monitoring.rollup r JOIN core.tenant t ON t.id = r.tenant_id
WHERE r.minute >= date_trunc('minute', now()) - %(window)s
GROUP BY t.name, r.tenant_id, r.model HAVING sum(r.errors) > 0"""

QUEUE_AGES = """
SELECT queue AS subject, count(*)::int AS samples,
    extract(epoch FROM now() - min(run_at))::float AS value,
    (array_agg(split_part(traceparent, '-', 2) ORDER BY run_at) FILTER (WHERE traceparent IS NOT NULL))[1:5] AS traces
FROM core.job WHERE state = 'queued' AND blocked_by = 0 AND run_at <= now() GROUP BY queue"""

SILENT_WORKERS = """
SELECT name AS subject, 1 AS samples, extract(epoch FROM now() - max(heartbeat_at))::float AS value,
    ARRAY[]::text[] AS traces
FROM core.worker WHERE state <> 'stopped' GROUP BY name HAVING max(heartbeat_at) > now() - %(window)s"""

DEAD_JOBS = """
SELECT t.name || '/' || j.kind AS subject, j.tenant_id AS tenant, count(*)::int AS samples, count(*)::float AS value,
    (array_agg(split_part(j.traceparent, '-', 2) ORDER BY j.finished_at DESC)
        FILTER (WHERE j.traceparent IS NOT NULL))[1:5] AS traces
FROM core.job j JOIN core.tenant t ON t.id = j.tenant_id
WHERE j.state = 'dead' AND j.finished_at > now() - %(window)s GROUP BY t.name, j.tenant_id, j.kind"""

MEASURES = {
    "error_rate": ERROR_RATES,
    "queue_age": QUEUE_AGES,
    "worker_silent": SILENT_WORKERS,
    "dead_jobs": DEAD_JOBS,
}

# Subjects of an error rate are `tenant/model`.
STANDING = """
SELECT id, rule, tenant_id, substr(subject, strpos(subject, '/') + 1) AS model, message FROM monitoring.alert
WHERE resolved_at IS NULL AND tenant_id IS NOT NULL AND rule = ANY(%s) ORDER BY id"""

CANARIES = """
SELECT r.id, r.name, v.version FROM gateway.registry r JOIN gateway.registry_event e ON e.id = r.head_id
JOIN gateway.registry_version v ON v.registry_id = r.id AND v.version = e.canary
WHERE r.deleted_at IS NULL AND v.model_id = %s ORDER BY r.id"""

END_CANARY = "SELECT gateway.registry_move(%s, 'end_canary', %s, NULL, NULL, NULL, %s, NULL, %s)"

# Whoever's registered names have answered since the last sweeps; a canary that nobody asks harms nobody.
RELEASING = """
SELECT DISTINCT tenant_id FROM gateway.usage
WHERE created_at > now() - interval '5 minutes' AND metadata ? 'registry'"""

# Held, so that what is judged is what is ended: another sweep, or who moves it meanwhile, comes before or after. Since
# when is the start of this canary, or the last change of its share.
RULED = """
SELECT r.id, r.name, r.canary_rule, e.canary AS version, (SELECT max(s.created_at) FROM gateway.registry_event s
    WHERE s.registry_id = r.id AND s.action = 'canary' AND s.version = e.canary) AS since
FROM gateway.registry r JOIN gateway.registry_event e ON e.id = r.head_id
WHERE r.deleted_at IS NULL AND r.canary_rule IS NOT NULL AND e.canary IS NOT NULL
ORDER BY r.id FOR UPDATE OF r SKIP LOCKED"""

# Of live requests: what a batch takes is no latency, and a candidate is evaluated in batches by the same name.
CANARY_ANSWERS = """
SELECT count(*)::int AS answers, count(*) FILTER (WHERE status <> 'ok')::int AS errors,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE status = 'ok') AS seconds_p95,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY first_token_seconds) FILTER (WHERE status = 'ok') AS first_token_p95
FROM (SELECT status, seconds, first_token_seconds FROM gateway.usage
    WHERE tenant_id = %(tenant)s AND metadata ? 'registry' AND metadata ->> 'registry' = %(name)s
        AND metadata ->> 'registry_version' = %(version)s AND created_at >= %(since)s
        AND status <> 'cancelled' AND job_id IS NULL ORDER BY created_at DESC LIMIT %(limit)s) newest"""

OPEN_ALERTS = "SELECT id, rule, subject FROM monitoring.alert WHERE resolved_at IS NULL"

RAISE = """
INSERT INTO monitoring.alert (id, rule, subject, tenant_id, severity, message, value, threshold, trace_ids)
VALUES (%(id)s, %(rule)s, %(subject)s, %(tenant)s, %(severity)s, %(message)s, %(value)s, %(threshold)s, %(traces)s)
ON CONFLICT (rule, subject) WHERE resolved_at IS NULL DO NOTHING RETURNING *"""

RESOLVE = "UPDATE monitoring.alert SET resolved_at = now() WHERE id = %s AND resolved_at IS NULL RETURNING *"

OPERATOR = "SELECT id FROM core.tenant WHERE name = 'default'"


def take_lock(connection: Connection) -> bool:
    """True when this transaction is the one that sweeps; another worker's sweep makes it False."""
    row = connection.execute(TRY_LOCK, (SWEEP_LOCK,)).fetchone()
    return bool(row and row["got"])


def keep_spans(connection: Connection, rows: Sequence[SpanRow], cap: int) -> int:
    """Store spans once each, at most `cap` a trace, and hand tenants down; returns how many found no place.

    Roots come last and say most: they always have a place.
    """
    traces = sorted({row.trace_id for row in rows})
    connection.execute(LOCK_TRACES, (sorted({int(trace[:15], 16) for trace in traces}),))
    held: dict[str, int] = {
        row["trace_id"]: row["spans"] for row in connection.execute(COUNT_SPANS, (traces,)).fetchall()
    }
    kept: list[dict[str, Any]] = []
    for row in rows:
        if row.parent_id is None or held.get(row.trace_id, 0) < cap:
            held[row.trace_id] = held.get(row.trace_id, 0) + 1
            kept.append(row.dump())
    connection.execute(ADD_SPANS, (Jsonb(kept),))
    connection.execute(INHERIT, {"traces": traces})
    return len(rows) - len(kept)


def forget_spans(connection: Connection, older_than: timedelta, limit: int) -> int:
    """Drop at most `limit` spans past their time; returns how many."""
    return connection.execute(FORGET_SPANS, (older_than, limit)).rowcount


def forget_rollups(connection: Connection, older_than: timedelta) -> int:
    """Drop rollups past their time; returns how many."""
    return connection.execute(FORGET_ROLLUPS, (older_than,)).rowcount


def oldest_left(connection: Connection) -> tuple[datetime, datetime | None]:
    """(Postgres's now, the time of the first usage row that no rollup covers)."""
    row = connection.execute(OLDEST_LEFT).fetchone()
    assert row is not None
    return row["now"], row["oldest"]


def roll(connection: Connection, start: datetime, end: datetime) -> int:
    """Sum the usage of [start, end) up by minute, tenant, model and pool; returns the rollups written."""
    return connection.execute(ROLL, (start, end)).rowcount


def observe(connection: Connection, measure: str, window: timedelta) -> list[Observation]:
    """What a rule of this measure has to judge now."""
    return [
        Observation(
            subject=row["subject"],
            value=row["value"],
            samples=row["samples"],
            tenant=row.get("tenant"),
            traces=tuple(row["traces"] or ()),
        )
        for row in connection.execute(MEASURES[measure], {"window": window}).fetchall()
    ]


def open_alerts(connection: Connection) -> list[Open]:
    """The alerts that stand."""
    return [Open(**row) for row in connection.execute(OPEN_ALERTS).fetchall()]


def raise_alert(connection: Connection, values: dict[str, Any]) -> Row | None:
    """Store an alert; None when one of this rule and subject stands already."""
    return connection.execute(RAISE, values).fetchone()


def resolve_alert(connection: Connection, alert_id: str) -> Row | None:
    """End an alert; None when it has ended already."""
    return connection.execute(RESOLVE, (alert_id,)).fetchone()


def standing(connection: Connection, rules: Sequence[str]) -> list[Row]:
    """Alerts of these rules that stand: `id`, `tenant_id`, `model` and `message`."""
    return connection.execute(STANDING, (list(rules),)).fetchall()


def canaries(connection: Connection, model: str) -> list[Row]:
    """The tenant's registered models of which this model has a share of the callers now: `id`, `name`, `version`."""
    return connection.execute(CANARIES, (model,)).fetchall()


def releasing(connection: Connection) -> list[UUID]:
    """Tenants whose registered models answered of late."""
    return [row["tenant_id"] for row in connection.execute(RELEASING).fetchall()]


def ruled_canaries(connection: Connection) -> list[Row]:
    """The tenant's canaries that have a rule, held until the transaction ends: `id`, `name`, `version`, `canary_rule`
    and `since`."""
    return connection.execute(RULED).fetchall()


def canary_answers(connection: Connection, tenant: UUID, canary: Row, limit: int) -> Answered:
    """What the newest answers of a canary came to."""
    values = {
        "tenant": tenant,
        "name": canary["name"],
        "version": str(canary["version"]),
        "since": canary["since"],
        "limit": limit,
    }
    row = connection.execute(CANARY_ANSWERS, values).fetchone()
    assert row is not None
    return Answered(**row, since=canary["since"])


def end_canary(
    connection: Connection, registry_id: str, version: int, reason: str, data: dict[str, Any] | None = None
) -> bool:
    """Give all callers production again, with `data` for the history; False where the canary had ended meanwhile."""
    try:
        told = Jsonb(data) if data is not None else None
        connection.execute(END_CANARY, (registry_id, version, told, reason))
    except psycopg.errors.CheckViolation:
        return False
    return True


def operator_tenant(connection: Connection) -> UUID | None:
    """The tenant whose endpoints hear of the platform's own alerts."""
    row = connection.execute(OPERATOR).fetchone()
    return row["id"] if row is not None else None
