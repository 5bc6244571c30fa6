"""SQL of the files of vector stores, as the jobs that index them and the searches see them."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

# A file that was taken out, or that has been given to another job since, is nobody's to write.
COMPLETE = """
UPDATE data_governance.vector_store_file
SET status = 'completed', last_error = NULL, index_artifact = %(index)s, chunks = %(chunks)s, usage_bytes = %(bytes)s
WHERE store_id = %(store)s AND file_id = %(file)s AND job_id = %(job)s AND status = 'in_progress'"""

FAIL = """
UPDATE data_governance.vector_store_file SET status = 'failed', last_error = %(error)s
WHERE store_id = %(store)s AND file_id = %(file)s AND job_id = %(job)s AND status = 'in_progress'"""

WANTED = """
SELECT 1 FROM data_governance.vector_store_file f JOIN data_governance.vector_store s ON s.id = f.store_id
WHERE f.store_id = %s AND f.file_id = %s AND f.job_id = %s AND f.status = 'in_progress' AND s.deleted_at IS NULL"""

SEARCHED = """
SELECT f.file_id, f.index_artifact, f.attributes, g.filename
FROM data_governance.vector_store_file f
JOIN data_governance.vector_store s ON s.id = f.store_id AND s.deleted_at IS NULL
JOIN gateway.file g ON g.id = f.file_id
WHERE f.store_id = %s AND f.status = 'completed' AND (%s::text IS NULL OR f.file_id = %s)
ORDER BY f.created_at, f.file_id"""

ENCODER = """
SELECT encoder FROM data_governance.vector_store WHERE id = %s AND deleted_at IS NULL
AND (expires_days IS NULL OR last_active_at + make_interval(days => expires_days) > now())"""

PARTS = "SELECT id, state, result, error FROM core.job WHERE parent_id = %s AND kind = %s ORDER BY id"

HEARD = """
SELECT 1 FROM core.worker WHERE state = 'running' AND heartbeat_at > now() - interval '30 seconds' AND %s = ANY(queues)
LIMIT 1"""


def complete(
    connection: Connection, store: str, file: str, job: str, *, index: str, chunks: int, bytes_: int
) -> None:
    """What the job made is what the store searches from here on."""
    given = {"store": store, "file": file, "job": job, "index": index, "chunks": chunks, "bytes": bytes_}
    connection.execute(COMPLETE, given)


def fail(connection: Connection, store: str, file: str, job: str, error: dict[str, Any]) -> None:
    connection.execute(FAIL, {"store": store, "file": file, "job": job, "error": Jsonb(error)})


def is_wanted(connection: Connection, store: str, file: str, job: str) -> bool:
    """Whether the file is still of the store and waits for this job."""
    return connection.execute(WANTED, (store, file, job)).fetchone() is not None


def searched(connection: Connection, store: str, file: str | None = None) -> list[Row]:
    """The indexed files of a living store, or the one; of another tenant's store there are none."""
    return connection.execute(SEARCHED, (store, file, file)).fetchall()


def encoder(connection: Connection, store: str) -> tuple[bool, Row | None]:
    """(whether there is such a store to be used, its encoder)."""
    row = connection.execute(ENCODER, (store,)).fetchone()
    return row is not None, row["encoder"] if row is not None else None


def parts(connection: Connection, parent: str, kind: str) -> list[Row]:
    """The parts that a job handed out, in the order of handing out."""
    return connection.execute(PARTS, (parent, kind)).fetchall()


def is_heard(connection: Connection, queue: str) -> bool:
    """Whether a living worker takes jobs from this queue."""
    return connection.execute(HEARD, (queue,)).fetchone() is not None
