"""SQL of distillation: the parts that it handed out, the files that it makes, the student as it is served."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

PART = "SELECT state, result, error FROM core.job WHERE id = %s"

FILE_ARTIFACT = "SELECT artifact FROM gateway.file WHERE id = %s"

ADD_FILE = """
INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact, job_id)
VALUES (%s, %s, %s, %s, %s, %s, %s)"""

MODEL = (
    "SELECT id, kind, base_id, artifact, base_artifact FROM training.model WHERE tenant_id = %s AND id = %s"
)

NOTE = "UPDATE training.model SET info = info || %s WHERE tenant_id = %s AND id = %s"


def part(connection: Connection, job_id: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(state, result, error) of a job that was handed out."""
    row = connection.execute(PART, (job_id,)).fetchone()
    assert row is not None, "a part that was handed out is there until its whole is gone"
    return str(row["state"]), dict(row["result"] or {}), dict(row["error"] or {})


def file_artifact(connection: Connection, file_id: str) -> str:
    row = connection.execute(FILE_ARTIFACT, (file_id,)).fetchone()
    assert row is not None, "a batch writes its files with its end"
    return str(row["artifact"])


def add_file(
    connection: Connection,
    file_id: str,
    tenant: UUID,
    *,
    filename: str,
    purpose: str,
    size: int,
    artifact: str,
    job_id: str,
) -> None:
    connection.execute(ADD_FILE, (file_id, tenant, filename, purpose, size, artifact, job_id))


def model(connection: Connection, tenant: UUID, name: str) -> Row | None:
    return connection.execute(MODEL, (tenant, name)).fetchone()


def note(connection: Connection, tenant: UUID, name: str, told: dict[str, Any]) -> None:
    """Add to what a model says of itself."""
    connection.execute(NOTE, (Jsonb(told), tenant, name))
