"""SQL of stored chats as their tenant reads and edits them."""

from __future__ import annotations

from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

COLUMNS = "id, number, created_at, model, metadata, body"

GET = f"SELECT {COLUMNS} FROM gateway.stored_chat WHERE tenant_id = %s AND id = %s"

UPDATE = f"""
UPDATE gateway.stored_chat SET metadata = %s WHERE tenant_id = %s AND id = %s AND deleted_at IS NULL
RETURNING {COLUMNS}"""

# The row stays without its texts: an answer of a job would otherwise be found again under this name.
DELETE = """
UPDATE gateway.stored_chat SET body = NULL, metadata = '{}', deleted_at = now()
WHERE tenant_id = %s AND id = %s AND deleted_at IS NULL RETURNING id"""


def get(connection: Connection, tenant: UUID, chat_id: str) -> Row | None:
    """A chat, whose body is None once it was deleted."""
    return connection.execute(GET, (tenant, chat_id)).fetchone()


def update(connection: Connection, tenant: UUID, chat_id: str, metadata: dict[str, str]) -> Row | None:
    """Other labels in the place of those it has."""
    return connection.execute(UPDATE, (Jsonb(metadata), tenant, chat_id)).fetchone()


def delete(connection: Connection, tenant: UUID, chat_id: str) -> bool:
    return connection.execute(DELETE, (tenant, chat_id)).fetchone() is not None
