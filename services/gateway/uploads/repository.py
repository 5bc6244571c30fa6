"""SQL of uploaded files. A deleted or expired file is as if it had never been."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from shared.db import Connection, Row

LIVING = "deleted_at IS NULL AND (expires_at IS NULL OR expires_at > now())"

INSERT = """
INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact, expires_at)
VALUES (%s, %s, %s, %s, %s, %s, now() + %s::interval) RETURNING *"""

GET = f"SELECT * FROM gateway.file WHERE id = %s AND {LIVING}"

LIST_NEWEST = f"""
SELECT * FROM gateway.file WHERE tenant_id = %(tenant)s AND {LIVING}
  AND (%(purpose)s::text IS NULL OR purpose = %(purpose)s)
  AND (%(after)s::text IS NULL
       OR (created_at, id) < (SELECT created_at, id FROM gateway.file WHERE id = %(after)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""

LIST_OLDEST = LIST_NEWEST.replace("(created_at, id) <", "(created_at, id) >").replace(
    "created_at DESC, id DESC", "created_at, id"
)

EXISTS = "SELECT 1 FROM gateway.file WHERE id = %s"

DELETE = f"UPDATE gateway.file SET deleted_at = now() WHERE id = %s AND {LIVING} RETURNING id"


def insert_file(
    connection: Connection,
    file_id: str,
    tenant: UUID,
    *,
    filename: str,
    purpose: str,
    bytes_: int,
    artifact: str,
    expires_after: timedelta | None,
) -> Row:
    row = connection.execute(
        INSERT, (file_id, tenant, filename, purpose, bytes_, artifact, expires_after)
    ).fetchone()
    assert row is not None
    return row


def get_file(connection: Connection, file_id: str) -> Row | None:
    return connection.execute(GET, (file_id,)).fetchone()


def file_existed(connection: Connection, file_id: str) -> bool:
    """True for a deleted file too: a page may go on after it."""
    return connection.execute(EXISTS, (file_id,)).fetchone() is not None


def list_files(
    connection: Connection,
    tenant: UUID,
    *,
    purpose: str | None,
    after: str | None,
    limit: int,
    newest_first: bool,
) -> list[Row]:
    query = LIST_NEWEST if newest_first else LIST_OLDEST
    return connection.execute(
        query, {"tenant": tenant, "purpose": purpose, "after": after, "limit": limit}
    ).fetchall()


def delete_file(connection: Connection, file_id: str) -> bool:
    return connection.execute(DELETE, (file_id,)).fetchone() is not None
