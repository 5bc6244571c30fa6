"""SQL of datasets and their versions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection

ADD_VERSION = """
INSERT INTO data_governance.version (tenant_id, id, dataset_id, job_id, file_id, artifact, rows, train_rows,
    validation_rows, gate_passed, gate, report)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant_id, dataset_id, id) DO UPDATE SET artifact = EXCLUDED.artifact, deleted_at = NULL"""

POINT = "UPDATE data_governance.dataset SET current_version = %s WHERE tenant_id = %s AND id = %s"


def add_version(
    connection: Connection,
    *,
    tenant: UUID,
    dataset_id: str,
    job_id: str,
    file_id: str,
    artifact: str,
    version_id: str,
    rows: dict[str, int],
    report: dict[str, Any],
) -> None:
    """Store a version and point its dataset at it; the same content again is the same version."""
    gate = report["gate"]
    connection.execute(
        ADD_VERSION,
        (
            tenant,
            version_id,
            dataset_id,
            job_id,
            file_id,
            artifact,
            rows["total"],
            rows["train"],
            rows["validation"],
            gate["passed"],
            Jsonb(gate),
            Jsonb(report),
        ),
    )
    connection.execute(POINT, (version_id, tenant, dataset_id))
