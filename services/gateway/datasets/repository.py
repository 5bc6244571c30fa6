"""SQL of datasets and their versions, as the gateway reads and names them."""

from __future__ import annotations

from uuid import UUID

from shared.db import Connection, Row
from shared.jobs import new_id

ENSURE = """
INSERT INTO data_governance.dataset (id, tenant_id, name) VALUES (%s, %s, %s)
ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO UPDATE SET name = EXCLUDED.name RETURNING *"""

GET = "SELECT * FROM data_governance.dataset WHERE tenant_id = %s AND (name = %s OR id = %s) AND deleted_at IS NULL"

LIST = """
SELECT * FROM data_governance.dataset WHERE tenant_id = %(tenant)s AND deleted_at IS NULL
  AND (%(after)s::text IS NULL
       OR (created_at, id) < (SELECT created_at, id FROM data_governance.dataset WHERE id = %(after)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""

EXISTS = "SELECT 1 FROM data_governance.dataset WHERE id = %s"

VERSIONS = """
SELECT v.*, d.name AS dataset FROM data_governance.version v
JOIN data_governance.dataset d ON d.id = v.dataset_id
WHERE v.tenant_id = %(tenant)s AND (%(dataset)s::text IS NULL OR v.dataset_id = %(dataset)s)
  AND (%(id)s::text IS NULL OR v.id = %(id)s) AND d.deleted_at IS NULL AND v.deleted_at IS NULL
  AND (%(after)s::text IS NULL OR (v.created_at, v.id) < (
       SELECT a.created_at, a.id FROM data_governance.version a
       WHERE a.tenant_id = %(tenant)s AND a.dataset_id = v.dataset_id AND a.id = %(after)s))
ORDER BY v.created_at DESC, v.id DESC LIMIT %(limit)s"""

FILENAMES = """
SELECT payload ->> 'filename' AS name, 0 AS at FROM core.job WHERE tenant_id = %(tenant)s AND id = %(job)s
UNION ALL
SELECT other ->> 'name', at FROM core.job,
    jsonb_array_elements(coalesce(payload -> 'others', '[]')) WITH ORDINALITY AS o (other, at)
WHERE tenant_id = %(tenant)s AND id = %(job)s
ORDER BY at"""


def ensure_dataset(connection: Connection, tenant: UUID, name: str) -> Row:
    """The tenant's dataset of this name; made when it is not there."""
    row = connection.execute(ENSURE, (new_id("ds-"), tenant, name)).fetchone()
    assert row is not None
    return row


def get_dataset(connection: Connection, tenant: UUID, name: str) -> Row | None:
    """By name or id."""
    return connection.execute(GET, (tenant, name, name)).fetchone()


def dataset_existed(connection: Connection, dataset_id: str) -> bool:
    return connection.execute(EXISTS, (dataset_id,)).fetchone() is not None


def list_datasets(connection: Connection, tenant: UUID, after: str | None, limit: int) -> list[Row]:
    """Newest first."""
    return connection.execute(LIST, {"tenant": tenant, "after": after, "limit": limit}).fetchall()


def versions(
    connection: Connection,
    tenant: UUID,
    *,
    dataset_id: str | None = None,
    version_id: str | None = None,
    after: str | None = None,
    limit: int = 100,
) -> list[Row]:
    """Newest first; of one dataset (after a version of it), or with one id in any: the same may stand in several."""
    values = {"tenant": tenant, "dataset": dataset_id, "id": version_id, "after": after, "limit": limit}
    return connection.execute(VERSIONS, values).fetchall()


def filenames(connection: Connection, tenant: UUID, job_id: str) -> list[str]:
    """What a build was made from, in order; nothing of a job that is no longer known."""
    rows = connection.execute(FILENAMES, {"tenant": tenant, "job": job_id})
    return [row["name"] for row in rows if row["name"] is not None]
