"""Jobs as their tenant asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from shared.db import Connection
from shared.errors import NotFound
from shared.jobs import Job, Status

BY_ID = "SELECT * FROM core.job WHERE id = %s"

LOCKED_BY_ID = "SELECT * FROM core.job WHERE id = %s FOR UPDATE"

LIST = """
SELECT * FROM core.job WHERE tenant_id = %(tenant)s AND (%(kinds)s::text[] IS NULL OR kind = ANY(%(kinds)s))
AND (%(states)s::text[] IS NULL OR state = ANY(%(states)s)) AND (%(parents)s OR parent_id IS NULL)
AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s)
AND (%(after)s::text IS NULL OR (created_at, id) < (SELECT created_at, id FROM core.job WHERE id = %(after)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""

POSITION = """
SELECT count(*) AS ahead FROM core.job j WHERE j.queue = %s AND j.tenant_id = %s AND j.state = 'queued'
AND j.blocked_by = 0 AND (-j.priority, j.run_at, j.id) < (%s, %s, %s)"""


def get(
    connection: Connection, job_id: str, *, kinds: Sequence[str] | None = None, lock: bool = False
) -> Job:
    """The job; raises NotFound (also for another tenant's, which row-level security hides)."""
    try:
        row = connection.execute(LOCKED_BY_ID if lock else BY_ID, (job_id,)).fetchone()
    except psycopg.DataError as exc:
        raise NotFound(f"no job {job_id!r}", param="id") from exc
    if row is None or (kinds is not None and row["kind"] not in kinds):
        raise NotFound(f"no job {job_id!r}", param="id")
    return Job.from_row(row)


def list_jobs(
    connection: Connection,
    tenant: UUID,
    *,
    kinds: Sequence[str] | None = None,
    states: Sequence[str] | None = None,
    after: str | None = None,
    limit: int = 20,
    parts: bool = False,
    metadata: dict[str, str] | None = None,
) -> tuple[list[Job], bool]:
    """(newest first, whether there are more). `parts` includes shards and other children; `metadata` must match."""
    if after is not None:
        get(connection, after, kinds=kinds)
    rows = connection.execute(
        LIST,
        {
            "tenant": tenant,
            "kinds": list(kinds) if kinds is not None else None,
            "states": list(states) if states is not None else None,
            "after": after,
            "limit": limit + 1,
            "parents": parts,
            "metadata": Jsonb(metadata) if metadata is not None else None,
        },
    ).fetchall()
    return [Job.from_row(row) for row in rows[:limit]], len(rows) > limit


def position(connection: Connection, job: Job) -> int | None:
    """How many of the tenant's own jobs go before this one; None when it does not wait for a worker."""
    if job.state is not Status.QUEUED or job.blocked_by:
        return None
    row = connection.execute(
        POSITION, (job.queue, job.tenant_id, -job.priority, job.run_at, job.id)
    ).fetchone()
    assert row is not None
    return int(row["ahead"])
