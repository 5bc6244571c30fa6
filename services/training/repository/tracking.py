"""SQL of what is kept of a run's steps."""

from __future__ import annotations

from uuid import UUID

from shared.db import Connection

ADD_RESULT_FILE = """
INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact, job_id)
VALUES (%s, %s, %s, 'fine-tune-results', %s, %s, %s)"""


def add_result_file(
    connection: Connection,
    file_id: str,
    tenant: UUID,
    *,
    filename: str,
    bytes_: int,
    artifact: str,
    job_id: str,
) -> None:
    """The table of a run's steps as a file of the tenant's."""
    connection.execute(ADD_RESULT_FILE, (file_id, tenant, filename, bytes_, artifact, job_id))
