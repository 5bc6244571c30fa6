"""SQL of uploaded content by hash."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from shared.db import Connection

ADD = "INSERT INTO gateway.blob (tenant_id, object, bytes) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"

HELD = "SELECT object, bytes FROM gateway.blob WHERE tenant_id = %s AND object = ANY(%s)"


def add_blob(connection: Connection, tenant: UUID, blob: str, size: int) -> None:
    """Remember that the tenant has sent this content; again is the same."""
    connection.execute(ADD, (tenant, blob, size))


def held(connection: Connection, tenant: UUID, blobs: Collection[str]) -> dict[str, int]:
    """Those of the objects that the tenant has sent, with their bytes."""
    rows = connection.execute(HELD, (tenant, list(blobs))).fetchall()
    return {row["object"]: row["bytes"] for row in rows}
