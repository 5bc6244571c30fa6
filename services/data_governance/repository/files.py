"""SQL of the files that data governance makes for a tenant."""

from __future__ import annotations

from uuid import UUID

from shared.db import Connection

ADD = """
INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact, job_id)
VALUES (%s, %s, %s, 'user_data', %s, %s, %s)"""


def add(
    connection: Connection,
    tenant: UUID,
    file_id: str,
    *,
    filename: str,
    size: int,
    artifact: str,
    job_id: str,
) -> None:
    """A file like an upload, that leads back to its job."""
    connection.execute(ADD, (file_id, tenant, filename, size, artifact, job_id))
