"""SQL of erasures: where a tenant's rows may be, and what is buried and flagged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

VERSIONS = """
SELECT v.id, min(v.artifact) AS artifact, array_agg(DISTINCT d.name) AS datasets,
    bool_or(d.current_version = v.id AND d.deleted_at IS NULL) AS current,
    ARRAY[min(v.file_id)] || ARRAY(
        SELECT o ->> 'file_id' FROM core.job j CROSS JOIN LATERAL jsonb_array_elements(j.payload -> 'others') o
        WHERE j.id = min(v.job_id)) AS files
FROM data_governance.version v JOIN data_governance.dataset d ON d.id = v.dataset_id
WHERE v.tenant_id = %s AND v.deleted_at IS NULL GROUP BY v.id ORDER BY v.id"""

FILES = """
SELECT id, filename, artifact, purpose FROM gateway.file WHERE tenant_id = %s AND deleted_at IS NULL
  AND (expires_at IS NULL OR expires_at > now()) ORDER BY id"""

# All that learned from these data, and all that stands on what did, or began as it did.
MODELS = """
WITH RECURSIVE learned AS (
    SELECT m.id, m.base_id FROM training.model m LEFT JOIN core.job j ON j.id = m.job_id
    WHERE m.tenant_id = %(tenant)s
      AND (m.dataset_version = ANY(%(data)s) OR j.payload #>> '{validation,id}' = ANY(%(data)s))
    UNION
    SELECT m.id, m.base_id FROM training.model m
    JOIN learned l ON m.base_id = l.id OR m.info ->> 'started_from' = l.id
    WHERE m.tenant_id = %(tenant)s
) SELECT DISTINCT id FROM learned ORDER BY id"""

RUNNING = """
SELECT id FROM core.job WHERE tenant_id = %s AND kind = 'data.build_version'
  AND state IN ('queued', 'leased', 'paused') ORDER BY id"""

ADD = """
INSERT INTO data_governance.erasure (id, tenant_id, job_id, subject, found) VALUES (%s, %s, %s, %s, %s)"""

BURY = """
INSERT INTO data_governance.tombstone (tenant_id, row_id, erasure_id)
SELECT %s, unnest(%s::text[]), %s ON CONFLICT (tenant_id, row_id) DO NOTHING"""

FLAG = """
INSERT INTO data_governance.needs_rebuild (tenant_id, kind, id, erasure_id)
SELECT %s, %s, unnest(%s::text[]), %s ON CONFLICT DO NOTHING"""

AUDIT = "INSERT INTO core.audit (tenant_id, actor, action, subject, data) VALUES (%s, %s, 'subject_erased', %s, %s)"


def versions(connection: Connection, tenant: UUID) -> list[Row]:
    """Every version of the tenant once, those of deleted datasets too."""
    return connection.execute(VERSIONS, (tenant,)).fetchall()


def files(connection: Connection, tenant: UUID) -> list[Row]:
    """Every file that the tenant still has."""
    return connection.execute(FILES, (tenant,)).fetchall()


def models(connection: Connection, tenant: UUID, data: Sequence[str]) -> list[str]:
    """Models that learned from these versions and files, or stand on one that did; deleted ones too."""
    rows = connection.execute(MODELS, {"tenant": tenant, "data": list(data)}).fetchall()
    return [row["id"] for row in rows]


def running_builds(connection: Connection, tenant: UUID) -> list[str]:
    """Jobs that build versions now: what they publish was not looked through."""
    return [row["id"] for row in connection.execute(RUNNING, (tenant,)).fetchall()]


def bury(
    connection: Connection,
    tenant: UUID,
    *,
    erasure_id: str,
    job_id: str,
    actor: str,
    subject: Mapping[str, Any],
    row_ids: Sequence[str],
    versions: Sequence[str],
    models: Sequence[str],
    found: Mapping[str, Any],
) -> None:
    """Tombstones, flags and the line in the audit trail, in the caller's transaction."""
    connection.execute(ADD, (erasure_id, tenant, job_id, Jsonb(subject), Jsonb(found)))
    connection.execute(BURY, (tenant, list(row_ids), erasure_id))
    connection.execute(FLAG, (tenant, "version", list(versions), erasure_id))
    connection.execute(FLAG, (tenant, "model", list(models), erasure_id))
    told = {"rows": len(row_ids), "versions": list(versions), "models": list(models)}
    connection.execute(AUDIT, (tenant, actor, erasure_id, Jsonb(told)))
