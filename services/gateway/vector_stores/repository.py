"""SQL of vector stores, their files and batches of files, as their tenant sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

INSERT = """
INSERT INTO data_governance.vector_store (id, tenant_id, name, description, metadata, encoder, expires_days)
VALUES (%(id)s, %(tenant)s, %(name)s, %(description)s, %(metadata)s, %(encoder)s, %(expires_days)s)"""

# A job that ended without a word about its file has the last one about it.
STATUS = """CASE WHEN f.status <> 'in_progress' THEN f.status
    WHEN j.state IN ('failed', 'dead', 'expired') THEN 'failed' WHEN j.state = 'cancelled' THEN 'cancelled'
    ELSE 'in_progress' END"""

COUNTS = f"""
    count(*)::int AS total, count(*) FILTER (WHERE {STATUS} = 'completed')::int AS completed,
    count(*) FILTER (WHERE {STATUS} = 'failed')::int AS failed,
    count(*) FILTER (WHERE {STATUS} = 'cancelled')::int AS cancelled,
    count(*) FILTER (WHERE {STATUS} = 'in_progress')::int AS in_progress"""

STORES = f"""
SELECT s.*, s.last_active_at + make_interval(days => s.expires_days) AS expires_at,
    COALESCE(s.last_active_at + make_interval(days => s.expires_days) <= now(), false) AS expired, c.*
FROM data_governance.vector_store s CROSS JOIN LATERAL (
    SELECT {COUNTS}, COALESCE(sum(f.usage_bytes), 0)::bigint AS usage_bytes
    FROM data_governance.vector_store_file f JOIN core.job j ON j.id = f.job_id WHERE f.store_id = s.id) c
WHERE s.tenant_id = %(tenant)s AND s.deleted_at IS NULL"""

ONE = f"{STORES} AND s.id = %(id)s"

LOCK = """
SELECT id FROM data_governance.vector_store WHERE tenant_id = %s AND id = %s AND deleted_at IS NULL FOR UPDATE"""

EXISTED = "SELECT 1 FROM data_governance.vector_store WHERE id = %s"

UPDATE = """
UPDATE data_governance.vector_store SET name = %(name)s, metadata = %(metadata)s, expires_days = %(expires_days)s
WHERE id = %(id)s"""

# A search a minute is enough to know when it was used last.
TOUCH = """
UPDATE data_governance.vector_store SET last_active_at = now()
WHERE id = %s AND last_active_at < now() - interval '1 minute'"""

# In the versions that their callers get now.
TASKS_WITH = """
SELECT DISTINCT t.name FROM gateway.task t JOIN gateway.task_route r ON r.id = t.route_id
    CROSS JOIN LATERAL jsonb_array_elements(r.weights) AS routed
    JOIN gateway.task_version v ON v.task_id = t.id AND v.version = (routed ->> 0)::int
WHERE t.tenant_id = %s AND t.deleted_at IS NULL AND v.spec #>> '{retrieval,vector_store}' = %s
ORDER BY t.name LIMIT %s"""

DELETE = "UPDATE data_governance.vector_store SET deleted_at = now() WHERE id = %s"

DELETE_FILES = """
DELETE FROM data_governance.vector_store_file WHERE store_id = %s AND (%s::text IS NULL OR file_id = %s)
RETURNING file_id, job_id"""

ADD_FILE = """
INSERT INTO data_governance.vector_store_file (store_id, file_id, tenant_id, batch_id, job_id, attributes, chunking)
VALUES (%(store)s, %(file)s, %(tenant)s, %(batch)s, %(job)s, %(attributes)s, %(chunking)s)
ON CONFLICT (store_id, file_id) DO UPDATE SET batch_id = EXCLUDED.batch_id, job_id = EXCLUDED.job_id,
    attributes = EXCLUDED.attributes, chunking = EXCLUDED.chunking, status = 'in_progress', last_error = NULL,
    index_artifact = NULL, chunks = 0, usage_bytes = 0, created_at = now()"""

KEEP_FILE = """
UPDATE data_governance.vector_store_file SET attributes = %(attributes)s, batch_id = COALESCE(%(batch)s, batch_id)
WHERE store_id = %(store)s AND file_id = %(file)s"""

FILES = f"""
SELECT f.*, {STATUS} AS state, COALESCE(f.last_error, j.error) AS error
FROM data_governance.vector_store_file f JOIN core.job j ON j.id = f.job_id
WHERE f.store_id = %(store)s AND (%(file)s::text IS NULL OR f.file_id = %(file)s)
  AND (%(batch)s::text IS NULL OR f.batch_id = %(batch)s) AND (%(state)s::text IS NULL OR {STATUS} = %(state)s)"""

ADD_BATCH = "INSERT INTO data_governance.vector_store_batch (id, tenant_id, store_id) VALUES (%s, %s, %s)"

BATCH = f"""
SELECT b.*, c.* FROM data_governance.vector_store_batch b CROSS JOIN LATERAL (
    SELECT {COUNTS} FROM data_governance.vector_store_file f JOIN core.job j ON j.id = f.job_id
    WHERE f.batch_id = b.id) c
WHERE b.id = %s AND b.store_id = %s"""

CANCEL_BATCH = """
UPDATE data_governance.vector_store_batch SET cancelled_at = COALESCE(cancelled_at, now()) WHERE id = %s"""

CANCEL_FILES = """
UPDATE data_governance.vector_store_file SET status = 'cancelled' WHERE batch_id = %s AND status = 'in_progress'
RETURNING job_id"""


def insert(connection: Connection, values: dict[str, Any]) -> None:
    jsons = {
        "metadata": Jsonb(values["metadata"]),
        "encoder": Jsonb(values["encoder"]) if values["encoder"] is not None else None,
    }
    connection.execute(INSERT, {**values, **jsons})


def find(connection: Connection, tenant: UUID, store: str) -> Row | None:
    """A living store with the counts of its files."""
    return connection.execute(ONE, {"tenant": tenant, "id": store}).fetchone()


def lock(connection: Connection, tenant: UUID, store: str) -> bool:
    return connection.execute(LOCK, (tenant, store)).fetchone() is not None


def tasks_with(connection: Connection, tenant: UUID, store: str, limit: int) -> list[str]:
    """Names of the tasks that answer from this store now."""
    return [row["name"] for row in connection.execute(TASKS_WITH, (tenant, store, limit)).fetchall()]


def existed(connection: Connection, store: str) -> bool:
    return connection.execute(EXISTED, (store,)).fetchone() is not None


def listed(
    connection: Connection,
    tenant: UUID,
    *,
    beyond: str | None,
    newest_first: bool,
    limit: int,
) -> list[Row]:
    """Stores beyond the one named, in this order."""
    place = "(SELECT created_at, id FROM data_governance.vector_store WHERE id = %(beyond)s)"
    query = STORES + _page("s.created_at", "s.id", place, newest_first)
    return connection.execute(query, {"tenant": tenant, "beyond": beyond, "limit": limit}).fetchall()


def update(
    connection: Connection, store: str, name: str, metadata: dict[str, str], expires_days: int | None
) -> None:
    given = {"id": store, "name": name, "metadata": Jsonb(metadata), "expires_days": expires_days}
    connection.execute(UPDATE, given)


def touch(connection: Connection, store: str) -> None:
    """Say that the store was used; its expiry is counted from here."""
    connection.execute(TOUCH, (store,))


def delete(connection: Connection, store: str) -> list[Row]:
    """The store with its files; returns those, with the jobs that were given them."""
    connection.execute(DELETE, (store,))
    return connection.execute(DELETE_FILES, (store, None, None)).fetchall()


def delete_file(connection: Connection, store: str, file: str) -> Row | None:
    return connection.execute(DELETE_FILES, (store, file, file)).fetchone()


def add_file(connection: Connection, values: dict[str, Any]) -> None:
    """A file that is to be indexed by a job; what an earlier job made of it is forgotten."""
    jsons = {name: Jsonb(values[name]) for name in ("attributes", "chunking")}
    connection.execute(ADD_FILE, {**values, **jsons})


def keep_file(
    connection: Connection, store: str, file: str, attributes: dict[str, Any], batch: str | None
) -> None:
    """Other attributes for a file whose index stays."""
    given = {"store": store, "file": file, "attributes": Jsonb(attributes), "batch": batch}
    connection.execute(KEEP_FILE, given)


def file(connection: Connection, store: str, file_id: str) -> Row | None:
    given = {"store": store, "file": file_id, "batch": None, "state": None}
    return connection.execute(FILES, given).fetchone()


def files(
    connection: Connection,
    store: str,
    *,
    batch: str | None,
    state: str | None,
    beyond: str | None,
    newest_first: bool,
    limit: int,
) -> list[Row]:
    """Files beyond the one named, in this order."""
    place = (
        "(SELECT created_at, file_id FROM data_governance.vector_store_file"
        " WHERE store_id = %(store)s AND file_id = %(beyond)s)"
    )
    query = FILES + _page("f.created_at", "f.file_id", place, newest_first)
    given = {"store": store, "file": None, "batch": batch, "state": state, "beyond": beyond, "limit": limit}
    return connection.execute(query, given).fetchall()


def _page(time: str, id_: str, place: str, newest_first: bool) -> str:
    sign, order = ("<", "DESC") if newest_first else (">", "ASC")
    return f"""
  AND (%(beyond)s::text IS NULL OR ({time}, {id_}) {sign} {place})
ORDER BY {time} {order}, {id_} {order} LIMIT %(limit)s"""


def add_batch(connection: Connection, tenant: UUID, store: str, batch: str) -> None:
    connection.execute(ADD_BATCH, (batch, tenant, store))


def batch(connection: Connection, store: str, batch_id: str) -> Row | None:
    """A batch with the counts of its files."""
    return connection.execute(BATCH, (batch_id, store)).fetchone()


def cancel_batch(connection: Connection, batch_id: str) -> Sequence[str]:
    """Its files that have not ended are cancelled; returns their jobs."""
    connection.execute(CANCEL_BATCH, (batch_id,))
    return [row["job_id"] for row in connection.execute(CANCEL_FILES, (batch_id,)).fetchall()]
