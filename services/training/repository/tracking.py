"""SQL of what is kept of a run's steps, and of what earlier runs were measured at."""

from __future__ import annotations

from uuid import UUID

from shared.db import Connection

ADD_RESULT_FILE = """
INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact, job_id)
VALUES (%s, %s, %s, 'fine-tune-results', %s, %s, %s)"""

SECONDS_BEHIND = """
SELECT avg(seconds) AS seconds FROM (
  SELECT (result->'measured'->>'seconds_behind')::float8 AS seconds FROM core.job
  WHERE tenant_id = %s AND kind = %s AND queue = %s AND state = 'succeeded'
    AND (result->'measured'->>'parameters')::float8 BETWEEN %s AND %s
  ORDER BY created_at DESC LIMIT 3) AS newest"""


def seconds_behind(
    connection: Connection, tenant: UUID, kind: str, queue: str, parameters: tuple[float, float]
) -> float | None:
    """What came behind the last step of the newest runs of a kind, of models of such sizes; None without any."""
    row = connection.execute(SECONDS_BEHIND, (tenant, kind, queue, *parameters)).fetchone()
    return row["seconds"] if row is not None else None


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
