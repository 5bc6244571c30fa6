"""SQL of datasets and their versions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

ADD_VERSION = """
INSERT INTO data_governance.version (tenant_id, id, dataset_id, job_id, file_id, artifact, rows, train_rows,
    validation_rows, gate_passed, gate, report, drift)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant_id, dataset_id, id) DO UPDATE SET artifact = EXCLUDED.artifact, deleted_at = NULL"""

STORED = (
    "SELECT gate, drift FROM data_governance.version WHERE tenant_id = %s AND dataset_id = %s AND id = %s"
)

# One that failed its gate is what nobody uses: measured by it, the same data built twice would pass.
BEFORE = """
SELECT id, report FROM data_governance.version
WHERE tenant_id = %s AND dataset_id = %s AND id <> %s AND deleted_at IS NULL
ORDER BY gate_passed DESC, created_at DESC, id DESC LIMIT 1"""

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
    gate: dict[str, Any],
    drift: dict[str, Any] | None,
) -> None:
    """Store a version and point its dataset at it; the same content again is the same version, judged as it was."""
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
            Jsonb({**report, "gate": gate}),
            Jsonb(drift) if drift is not None else None,
        ),
    )
    connection.execute(POINT, (version_id, tenant, dataset_id))


def stored(connection: Connection, tenant: UUID, dataset_id: str, version_id: str) -> Row | None:
    """`gate` and `drift` of a version that the dataset has, or had."""
    return connection.execute(STORED, (tenant, dataset_id, version_id)).fetchone()


def before(connection: Connection, tenant: UUID, dataset_id: str, version_id: str) -> Row | None:
    """`id` and `report` of what a new version is compared with: the newest that passed its gate, else the newest."""
    return connection.execute(BEFORE, (tenant, dataset_id, version_id)).fetchone()
