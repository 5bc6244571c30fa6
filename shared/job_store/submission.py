"""How a job comes in: once for each request, behind the jobs that it depends on."""

from __future__ import annotations

from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection
from shared.errors import InvalidInput, NotFound
from shared.job_store.dependencies import depend, lock_parents
from shared.jobs import TERMINAL, Job, NewJob, Status

RECENT_BODY = """
SELECT * FROM core.job WHERE tenant_id = %(tenant)s AND body_hash = %(hash)s
AND (api_key_id = %(key)s OR (api_key_id IS NULL AND %(key)s::text IS NULL))
AND created_at > now() - interval '10 minutes'
ORDER BY created_at LIMIT 1"""

# A retry waits for what the same request may be about to commit; first tries do not wait for each other.
LOCK_RETRY = "SELECT pg_advisory_xact_lock(hashtextextended('heliu.submit ' || %s, 0))"

LOCK_FIRST = "SELECT pg_advisory_xact_lock_shared(hashtextextended('heliu.submit ' || %s, 0))"

INSERT = """
WITH job AS (
    INSERT INTO core.job (id, tenant_id, kind, queue, payload, max_attempts, max_crashes, priority, cost, time_limit_s,
        expires_at, run_at, parent_id, metadata, idempotency_key, body_hash, api_key_id, traceparent, blocked_by,
        state, finished_at, error)
    VALUES (%(id)s, %(tenant_id)s, %(kind)s, %(queue)s, %(payload)s, %(max_attempts)s, %(max_crashes)s, %(priority)s,
        %(cost)s, %(time_limit_s)s, %(expires_at)s, COALESCE(%(run_at)s, now()), %(parent_id)s, %(metadata)s,
        %(idempotency_key)s, %(body_hash)s, %(api_key_id)s, %(traceparent)s, %(blocked_by)s,
        %(state)s, CASE WHEN %(state)s = 'failed' THEN now() END, %(error)s)
    ON CONFLICT (tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING *
), event AS (
    INSERT INTO core.job_event (tenant_id, job_id, type, message)
    SELECT tenant_id, id, CASE state WHEN 'failed' THEN 'job_failed' ELSE 'job_queued' END, kind || ' accepted' FROM job
), preemptible AS (
    -- Parts of what may be asked to give way may be, too.
    INSERT INTO core.preemptible (job_id, tenant_id) SELECT id, tenant_id FROM job
    WHERE %(preemptible)s OR EXISTS (SELECT 1 FROM core.preemptible p WHERE p.job_id = job.parent_id)
)
SELECT * FROM job"""

BY_KEY = "SELECT * FROM core.job WHERE tenant_id = %s AND idempotency_key = %s"

WAKE_LANE = "SELECT core.wake_lane(%s, %s)"


def submitted_before(
    connection: Connection,
    tenant: UUID,
    *,
    api_key_id: str | None,
    body_hash: bytes | None,
    idempotency_key: str | None,
    retried: bool = False,
) -> Job | None:
    """The job that stands for the same request, where it was accepted already.

    `retried` says that the client marked this as a retry, so that the same body from the same key within ten
    minutes is the same request. Raises InvalidInput (`idempotency_mismatch`) for a key with another body.
    """
    if idempotency_key is not None:
        row = connection.execute(BY_KEY, (tenant, idempotency_key)).fetchone()
        if row is not None and row["body_hash"] != body_hash:
            raise InvalidInput(
                f"Idempotency-Key {idempotency_key!r} was used with another body (job {row['id']}); "
                "send the same body or a new key",
                code="idempotency_mismatch",
                param="Idempotency-Key",
            )
    elif retried and body_hash is not None:
        connection.execute(LOCK_RETRY, (_request_name(api_key_id, body_hash),))
        row = connection.execute(
            RECENT_BODY, {"tenant": tenant, "key": api_key_id, "hash": body_hash}
        ).fetchone()
    else:
        return None
    return Job.from_row(row) if row is not None else None


def _request_name(api_key_id: str | None, body_hash: bytes) -> str:
    return f"{api_key_id} {body_hash.hex()}"


def submit(connection: Connection, new: NewJob) -> tuple[Job, bool]:
    """Insert the job and its first event; returns (job, True), or the job that its idempotency key stands for.

    Raises InvalidInput (`idempotency_mismatch`) for a key with another body, and NotFound for a parent that does
    not exist.
    """
    blocked, failed = _parents(connection, new)
    values = {
        **{name: getattr(new, name) for name in NewJob.__dataclass_fields__},
        "payload": Jsonb(new.payload),
        "metadata": Jsonb(new.metadata or {}),
        "blocked_by": len(blocked),
        "state": Status.FAILED if failed else Status.QUEUED,
        "error": Jsonb(
            {"code": "dependency_failed", "message": f"job {failed} that this waits for did not succeed"}
        )
        if failed
        else None,
    }
    with connection.pipeline():
        if new.body_hash is not None and new.idempotency_key is None:
            connection.execute(LOCK_FIRST, (_request_name(new.api_key_id, new.body_hash),))
        wake_lane(connection, new.queue, new.tenant_id)
        inserted = connection.execute(INSERT, values)
    row = inserted.fetchone()
    if row is None:
        earlier = submitted_before(
            connection,
            new.tenant_id,
            api_key_id=new.api_key_id,
            body_hash=new.body_hash,
            idempotency_key=new.idempotency_key,
        )
        assert earlier is not None, "a conflicting job vanished inside the transaction"
        return earlier, False
    for parent in blocked:
        depend(connection, parent, new.id, new.tenant_id, new.on_parent_failure)
    return Job.from_row(row), True


def _parents(connection: Connection, new: NewJob) -> tuple[list[str], str | None]:
    """(parents still to end, a parent that has failed): locked, so that none ends unseen."""
    if not new.depends_on:
        return [], None
    rows = lock_parents(connection, new.depends_on)
    missing = set(new.depends_on) - {row["id"] for row in rows}
    if missing:
        raise NotFound(f"no job {sorted(missing)[0]!r} to depend on", param="depends_on")
    open_parents = [row["id"] for row in rows if Status(row["state"]) not in TERMINAL]
    failed = [
        row["id"]
        for row in rows
        if Status(row["state"]) in TERMINAL
        and row["state"] != Status.SUCCEEDED
        and new.on_parent_failure == "fail"
    ]
    return ([], failed[0]) if failed else (open_parents, None)


def wake_lane(connection: Connection, queue: str, tenant: UUID) -> None:
    """Make sure that the tenant has a lane on the queue, at a fair place."""
    connection.execute(WAKE_LANE, (queue, tenant))
