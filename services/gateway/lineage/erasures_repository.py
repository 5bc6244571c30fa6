"""SQL of erasures, as the gateway lists them."""

from __future__ import annotations

from uuid import UUID

from shared.db import Connection, Row

GET = "SELECT * FROM data_governance.erasure WHERE tenant_id = %s AND id = %s"

LIST = """
SELECT * FROM data_governance.erasure WHERE tenant_id = %(tenant)s AND (%(after)s::text IS NULL
    OR (created_at, id) < (SELECT created_at, id FROM data_governance.erasure WHERE id = %(after)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""

# The newest build behind each dataset whose current version an erasure flagged.
REBUILDS = """
SELECT d.id AS dataset_id, d.name AS dataset, v.id AS version, j.payload FROM data_governance.needs_rebuild n
JOIN data_governance.dataset d ON d.tenant_id = n.tenant_id AND d.current_version = n.id AND d.deleted_at IS NULL
JOIN data_governance.version v ON v.tenant_id = n.tenant_id AND v.dataset_id = d.id AND v.id = n.id
JOIN core.job j ON j.id = v.job_id
WHERE n.tenant_id = %s AND n.kind = 'version' AND n.erasure_id = %s ORDER BY d.name"""


def get(connection: Connection, tenant: UUID, erasure_id: str) -> Row | None:
    return connection.execute(GET, (tenant, erasure_id)).fetchone()


def list_erasures(connection: Connection, tenant: UUID, after: str | None, limit: int) -> list[Row]:
    """Newest first."""
    return connection.execute(LIST, {"tenant": tenant, "after": after, "limit": limit}).fetchall()


def to_rebuild(connection: Connection, tenant: UUID, erasure_id: str) -> list[Row]:
    """`dataset`, `version` and the payload of the job that built it, of every current version that was flagged."""
    return connection.execute(REBUILDS, (tenant, erasure_id)).fetchall()
