"""SQL of retention and of garbage: which versions go, and every artifact that a row of a tenant names."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg import sql

from shared.db import Connection, Row
from shared.errors import HeliuError

TENANTS = "SELECT id FROM core.tenant ORDER BY id"

# Counted from the newest; what is current, tagged, learned from, asked by the eval of a registered model's gate, or
# needed by a job that has not ended stays.
OVERDUE = """
WITH ranked AS (
    SELECT v.id, v.dataset_id, d.name AS dataset, d.current_version, v.created_at, r.keep_last, r.keep_days,
        row_number() OVER (PARTITION BY v.dataset_id ORDER BY v.created_at DESC, v.id DESC) AS place
    FROM data_governance.retention r JOIN data_governance.dataset d ON d.id = r.dataset_id
    JOIN data_governance.version v ON v.tenant_id = r.tenant_id AND v.dataset_id = r.dataset_id
    WHERE r.tenant_id = %(tenant)s AND v.deleted_at IS NULL
      AND (%(dataset)s::text IS NULL OR r.dataset_id = %(dataset)s)
)
SELECT v.id, v.dataset_id, v.dataset FROM ranked v
WHERE v.place > v.keep_last AND v.created_at < now() - make_interval(days => v.keep_days)
  AND v.id IS DISTINCT FROM v.current_version
  AND NOT EXISTS (SELECT 1 FROM data_governance.tag t WHERE t.tenant_id = %(tenant)s AND t.version_id = v.id)
  AND NOT EXISTS (SELECT 1 FROM training.model m WHERE m.tenant_id = %(tenant)s AND m.dataset_version = v.id
                  AND m.deleted_at IS NULL)
  AND NOT EXISTS (SELECT 1 FROM training.model m JOIN core.job j ON j.id = m.job_id
                  WHERE m.tenant_id = %(tenant)s AND m.deleted_at IS NULL
                    AND j.payload #>> '{validation,id}' = v.id)
  AND NOT EXISTS (SELECT 1 FROM core.job j JOIN training.eval_run e ON e.id = j.id AND e.deleted_at IS NULL
                  JOIN gateway.registry g ON g.tenant_id = j.tenant_id AND g.gates ->> 'eval_id' = e.eval_id
                  WHERE j.tenant_id = %(tenant)s AND j.kind = 'eval.run' AND j.payload #>> '{items,id}' = v.id
                    AND g.deleted_at IS NULL)
  AND NOT EXISTS (SELECT 1 FROM core.job j WHERE j.tenant_id = %(tenant)s
                  AND j.state IN ('queued', 'leased', 'paused', 'dead') AND strpos(j.payload::text, v.id) > 0)
ORDER BY v.dataset, v.id"""

REMOVE = """
UPDATE data_governance.version SET deleted_at = now()
WHERE tenant_id = %s AND dataset_id = %s AND id = %s AND deleted_at IS NULL"""

# Whoever tags a version holds it meanwhile.
LOCK = "SELECT 1 FROM data_governance.version WHERE tenant_id = %s AND dataset_id = %s AND id = %s FOR UPDATE"

# All that may name an artifact, read from the catalogue: a table of tomorrow is marked from the day it is there.
COLUMNS = """
SELECT n.nspname AS schema, c.relname AS table, a.attname AS column,
    EXISTS (SELECT 1 FROM pg_attribute d WHERE d.attrelid = c.oid AND d.attname = 'deleted_at' AND NOT d.attisdropped)
        AS deletable,
    has_column_privilege(c.oid, a.attnum, 'SELECT') AS readable
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
  AND a.atttypid IN ('text'::regtype, 'text[]'::regtype, 'json'::regtype, 'jsonb'::regtype)
  AND EXISTS (SELECT 1 FROM pg_attribute t WHERE t.attrelid = c.oid AND t.attname = 'tenant_id')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY 1, 2, 3"""

# What only remembers: that an artifact was used once is no reason to keep it.
MEMORIES = frozenset(
    {
        ("gateway", "usage"),
        ("gateway", "stored_chat"),
        ("gateway", "stored_chat_file"),
        ("gateway", "registry_decision"),
        ("core", "job_event"),
        ("core", "audit"),
        ("core", "webhook_delivery"),
        ("inference", "batch_row"),
        ("training", "eval_item"),
        ("monitoring", "span"),
        ("monitoring", "rollup"),
        ("monitoring", "alert"),
        ("data_governance", "erasure"),
    }
)
# A job that failed for good, or succeeded, needs its input no more; a dead one may be tried again.
OF_JOBS = sql.SQL(" WHERE state IN ('queued', 'leased', 'paused', 'dead')")
OF_FILES = sql.SQL(
    " WHERE COALESCE(deleted_at, 'infinity') > to_timestamp(%(before)s)"
    " AND COALESCE(expires_at, 'infinity') > to_timestamp(%(before)s)"
)
# Whoever read a row just before it was deleted has the grace to use what it names.
NOT_DELETED = sql.SQL(" WHERE COALESCE(deleted_at, 'infinity') > to_timestamp(%(before)s)")
NAMED = sql.SQL(
    "SELECT DISTINCT found[1] AS artifact FROM (SELECT regexp_matches({column}::text, 'sha256:[0-9a-f]{{64}}', 'g') "
    "AS found FROM {table}{where}) named"
)


def tenants(connection: Connection) -> list[UUID]:
    return [row["id"] for row in connection.execute(TENANTS).fetchall()]


def overdue(connection: Connection, tenant: UUID, dataset_id: str | None = None) -> list[Row]:
    """`id`, `dataset_id` and `dataset` of the versions that retention does not keep."""
    return connection.execute(OVERDUE, {"tenant": tenant, "dataset": dataset_id}).fetchall()


def remove_overdue(connection: Connection, tenant: UUID) -> list[Row]:
    """Remove those; they stay known, and have no files once the grace is over. What was tagged meanwhile stays."""
    for row in overdue(connection, tenant):
        connection.execute(LOCK, (tenant, row["dataset_id"], row["id"]))
    gone = overdue(connection, tenant)
    for row in gone:
        connection.execute(REMOVE, (tenant, row["dataset_id"], row["id"]))
    return gone


def named_artifacts(connection: Connection, before: float) -> set[str]:
    """Every artifact that a row of the connection's tenant names, or named until after this moment (unix seconds).

    Raises HeliuError where it may not look.
    """
    connection.execute("SET LOCAL statement_timeout = '10min'")
    found: set[str] = set()
    for row in connection.execute(COLUMNS).fetchall():
        if (row["schema"], row["table"]) in MEMORIES:
            continue
        if not row["readable"]:
            _refuse(row)
            continue
        query = NAMED.format(
            column=sql.Identifier(row["column"]),
            table=sql.Identifier(row["schema"], row["table"]),
            where=_where(row),
        )
        found |= {named["artifact"] for named in connection.execute(query, {"before": before}).fetchall()}
    return found


def _where(row: dict[str, Any]) -> sql.Composable:
    if (row["schema"], row["table"]) == ("core", "job"):
        return OF_JOBS
    if (row["schema"], row["table"]) == ("gateway", "file"):
        return OF_FILES
    return NOT_DELETED if row["deletable"] else sql.SQL("")


def _refuse(row: dict[str, Any]) -> None:
    """A secret need not be read; a column that is for artifacts must be, or they would be taken for garbage."""
    if "artifact" in row["column"] or row["column"] == "object":
        raise HeliuError(
            f"{row['schema']}.{row['table']}.{row['column']} names artifacts and a tenant may not read it; "
            "nothing was collected",
            code="configuration_error",
        )
