"""SQL of files that are made of stored chats."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from shared.db import Connection

ADD_FILE = """
INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact, job_id)
VALUES (%s, %s, %s, 'fine-tune', %s, %s, %s)"""

ADD_ORIGINS = """
INSERT INTO gateway.stored_chat_file (tenant_id, file_id, answer_id, job_id)
SELECT %s, %s, answer, %s FROM unnest(%s::text[]) AS answer"""


def add_file(
    connection: Connection,
    tenant: UUID,
    file_id: str,
    filename: str,
    size: int,
    artifact: str,
    job_id: str,
) -> None:
    """A file like an upload for fine-tuning, that leads back to its job."""
    connection.execute(ADD_FILE, (file_id, tenant, filename, size, artifact, job_id))


def add_origins(
    connection: Connection, tenant: UUID, file_id: str, answers: Sequence[str], job_id: str
) -> None:
    """Which answers the file's rows are."""
    connection.execute(ADD_ORIGINS, (tenant, file_id, job_id, list(answers)))
