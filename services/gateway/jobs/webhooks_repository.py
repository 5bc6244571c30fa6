"""SQL of webhook endpoints, as their tenant edits them."""

from __future__ import annotations

from uuid import UUID

from shared.db import Connection, Row

INSERT = """
INSERT INTO core.webhook_endpoint (id, tenant_id, url, secret, events) VALUES (%s, %s, %s, %s, %s) RETURNING *"""

COUNT = (
    "SELECT count(*)::int AS endpoints FROM core.webhook_endpoint WHERE tenant_id = %s AND deleted_at IS NULL"
)

LIST = """
SELECT * FROM core.webhook_endpoint WHERE tenant_id = %(tenant)s AND deleted_at IS NULL
  AND (%(after)s::text IS NULL
       OR (created_at, id) < (SELECT created_at, id FROM core.webhook_endpoint WHERE id = %(after)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""

EXISTS = "SELECT 1 FROM core.webhook_endpoint WHERE id = %s"

GET = "SELECT * FROM core.webhook_endpoint WHERE id = %s AND deleted_at IS NULL"

CHANGE = """
UPDATE core.webhook_endpoint SET url = COALESCE(%s, url), events = COALESCE(%s::text[], events)
WHERE id = %s AND deleted_at IS NULL RETURNING *"""

DELETE = (
    "UPDATE core.webhook_endpoint SET deleted_at = now() WHERE id = %s AND deleted_at IS NULL RETURNING id"
)


def insert_endpoint(
    connection: Connection, endpoint_id: str, tenant: UUID, url: str, secret: str, events: list[str]
) -> Row:
    row = connection.execute(INSERT, (endpoint_id, tenant, url, secret, events)).fetchone()
    assert row is not None
    return row


def count_endpoints(connection: Connection, tenant: UUID) -> int:
    row = connection.execute(COUNT, (tenant,)).fetchone()
    assert row is not None
    return int(row["endpoints"])


def list_endpoints(connection: Connection, tenant: UUID, after: str | None, limit: int) -> list[Row]:
    """Newest first."""
    return connection.execute(LIST, {"tenant": tenant, "after": after, "limit": limit}).fetchall()


def endpoint_existed(connection: Connection, endpoint_id: str) -> bool:
    return connection.execute(EXISTS, (endpoint_id,)).fetchone() is not None


def get_endpoint(connection: Connection, endpoint_id: str) -> Row | None:
    return connection.execute(GET, (endpoint_id,)).fetchone()


def change_endpoint(
    connection: Connection, endpoint_id: str, url: str | None, events: list[str] | None
) -> Row | None:
    """None where there is no such endpoint."""
    return connection.execute(CHANGE, (url, events, endpoint_id)).fetchone()


def delete_endpoint(connection: Connection, endpoint_id: str) -> bool:
    return connection.execute(DELETE, (endpoint_id,)).fetchone() is not None
