"""The SQL of jobs, job events, leases and dependencies. Takes a connection; never commits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from shared.db import Connection, Row
from shared.errors import HeliuError, InvalidInput, NotFound
from shared.jobs import TERMINAL, Job, NewJob, Status, check_transition
from shared.webhooks import event_body, event_type

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

PARENTS = "SELECT id, state FROM core.job WHERE id = ANY(%s) ORDER BY id FOR SHARE"

DEPEND = """
INSERT INTO core.dependency (parent_id, child_id, tenant_id, on_failure) VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING"""

EVENT = """
INSERT INTO core.job_event (tenant_id, job_id, type, level, message, data) VALUES (%s, %s, %s, %s, %s, %s)
RETURNING id"""

CLAIM = """
WITH job AS (SELECT * FROM core.claim(%s, %s, %s)), event AS (
    INSERT INTO core.job_event (tenant_id, job_id, type, message, data)
    SELECT tenant_id, id, 'job_started', 'attempt ' || attempt || ' started', jsonb_build_object('wait_s',
        round(GREATEST(0, extract(epoch FROM clock_timestamp() - run_at)), 3)) FROM job
)
SELECT * FROM job"""

FENCE = "SELECT * FROM core.job WHERE id = %s AND epoch = %s AND state = 'leased' FOR UPDATE"

RENEW = """
UPDATE core.job j SET lease_until = clock_timestamp() + %s
FROM unnest(%s::text[], %s::bigint[]) AS held (id, epoch)
WHERE j.id = held.id AND j.epoch = held.epoch AND j.state = 'leased'
RETURNING j.id, j.epoch, j.cancel_requested_at IS NOT NULL AS cancel, j.pause_requested_at IS NOT NULL AS pause,
    EXISTS (SELECT 1 FROM core.preemptible p WHERE p.job_id = j.id AND p.asked_epoch = j.epoch) AS preempt"""

REQUESTED = """
SELECT j.id, j.epoch, j.cancel_requested_at IS NOT NULL AS cancel, j.pause_requested_at IS NOT NULL AS pause,
    p.job_id IS NOT NULL AS preempt
FROM core.job j JOIN unnest(%s::text[], %s::bigint[]) AS held (id, epoch) ON j.id = held.id AND j.epoch = held.epoch
LEFT JOIN core.preemptible p ON p.job_id = j.id AND p.asked_epoch = j.epoch
WHERE j.state = 'leased'
AND (j.cancel_requested_at IS NOT NULL OR j.pause_requested_at IS NOT NULL OR p.job_id IS NOT NULL)"""

LEAVE = """
UPDATE core.job SET state = %(state)s, lease_until = NULL, worker_id = NULL, result = %(result)s, error = %(error)s,
    finished_at = CASE WHEN %(terminal)s THEN now() END,
    run_at = CASE WHEN %(state)s = 'queued' THEN COALESCE(now() + %(delay)s::interval, run_at) ELSE run_at END,
    attempt = attempt - CASE WHEN %(charged)s THEN 0 ELSE 1 END,
    crashes = crashes + %(crash)s,
    blocked_by = %(blocked_by)s,
    pause_requested_at = CASE WHEN %(state)s IN ('queued', 'leased') THEN pause_requested_at END
WHERE id = %(id)s AND epoch = %(epoch)s AND state = 'leased' RETURNING *"""

LEAVE_LANE = "UPDATE core.lane SET running = running - 1 WHERE queue = %s AND tenant_id = %s"

CHILDREN_OF_ENDED = """
SELECT d.child_id, d.on_failure FROM core.dependency d JOIN core.job j ON j.id = d.child_id
WHERE d.parent_id = %s ORDER BY d.child_id"""

UNBLOCK = """
UPDATE core.job SET blocked_by = blocked_by - 1
WHERE id = %s AND state IN ('queued', 'paused') AND blocked_by > 0 RETURNING *"""

END_QUEUED = """
UPDATE core.job SET state = %s, finished_at = now(), error = %s WHERE id = %s AND state IN ('queued', 'paused')
RETURNING *"""

EXPIRED_LEASES = """
SELECT * FROM core.job WHERE state = 'leased' AND lease_until < clock_timestamp()
ORDER BY lease_until LIMIT %s FOR UPDATE SKIP LOCKED"""

PREVIOUS_LEASES = """
SELECT j.* FROM core.job j JOIN core.worker w ON w.id = j.worker_id
WHERE j.state = 'leased' AND w.name = %s AND w.id <> %s FOR UPDATE OF j SKIP LOCKED"""

OVERDUE = """
SELECT id FROM core.job WHERE state = 'queued' AND expires_at < now() AND NOT progress ? 'finalize_on_cancel'
ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED"""

READY = """
SELECT l.queue, sum(ready.n)::int AS jobs FROM core.lane l CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM (SELECT 1 FROM core.job j WHERE j.queue = l.queue AND j.tenant_id = l.tenant_id
        AND j.state = 'queued' AND j.blocked_by = 0 AND j.run_at <= now() LIMIT l.cap - l.running) few) ready
WHERE l.running < l.cap AND ready.n > 0 GROUP BY l.queue"""

ENDPOINTS = """
SELECT id FROM core.webhook_endpoint WHERE tenant_id = %s AND %s = ANY(events) AND deleted_at IS NULL"""

DELIVER = "INSERT INTO core.webhook_delivery (id, tenant_id, endpoint_id, body) VALUES (%s, %s, %s, %s)"

POSITION = """
SELECT count(*) AS ahead FROM core.job j WHERE j.queue = %s AND j.tenant_id = %s AND j.state = 'queued'
AND j.blocked_by = 0 AND (-j.priority, j.run_at, j.id) < (%s, %s, %s)"""

LIST = """
SELECT * FROM core.job WHERE tenant_id = %(tenant)s AND (%(kinds)s::text[] IS NULL OR kind = ANY(%(kinds)s))
AND (%(states)s::text[] IS NULL OR state = ANY(%(states)s)) AND (%(parents)s OR parent_id IS NULL)
AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s)
AND (%(after)s::text IS NULL OR (created_at, id) < (SELECT created_at, id FROM core.job WHERE id = %(after)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""


class LeaseLost(HeliuError):
    """The job is no longer this worker's: its lease ran out and somebody else may have it."""

    code = "lease_lost"

    def __init__(self, job_id: str, epoch: int) -> None:
        super().__init__(f"job {job_id} is no longer held at epoch {epoch}")
        self.job_id = job_id
        self.epoch = epoch


@dataclass(frozen=True)
class Renewal:
    """What a worker learns of one job that it still holds."""

    id: str
    epoch: int
    cancel: bool
    pause: bool
    preempt: bool = False


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
        connection.execute(DEPEND, (parent, new.id, new.tenant_id, new.on_parent_failure))
    return Job.from_row(row), True


def _parents(connection: Connection, new: NewJob) -> tuple[list[str], str | None]:
    """(parents still to end, a parent that has failed): locked, so that none ends unseen."""
    if not new.depends_on:
        return [], None
    rows = connection.execute(PARENTS, (list(new.depends_on),)).fetchall()
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
    connection.execute("SELECT core.wake_lane(%s, %s)", (queue, tenant))


def add_event(
    connection: Connection,
    job: Job,
    type_: str,
    message: str,
    data: dict[str, Any] | None = None,
    level: str = "info",
) -> int:
    """Append one event; returns its id."""
    row = _insert_event(connection, job, type_, message, data, level).fetchone()
    assert row is not None
    return int(row["id"])


def _insert_event(
    connection: Connection, job: Job, type_: str, message: str, data: dict[str, Any] | None, level: str
) -> psycopg.Cursor[Row]:
    return connection.execute(EVENT, (job.tenant_id, job.id, type_, level, message, Jsonb(data or {})))


def has_event(connection: Connection, job: Job, event_id: int, type_: str) -> bool:
    """True when the event with this id was committed: an id that was rolled back may go to another event later."""
    row = connection.execute(
        "SELECT 1 AS one FROM core.job_event WHERE id = %s AND job_id = %s AND type = %s",
        (event_id, job.id, type_),
    ).fetchone()
    return row is not None


def claim(connection: Connection, queue: str, worker_id: str, lease: timedelta) -> Job | None:
    """Take the next eligible job of the queue, with its event, or None."""
    return claim_unread(connection, queue, worker_id, lease)()


def claim_unread(
    connection: Connection, queue: str, worker_id: str, lease: timedelta
) -> Callable[[], Job | None]:
    """The same, read by the returned function once a pipelined transaction is over.

    So claiming is a single round trip, and the lane is locked for no longer than Postgres itself takes.
    """
    cursor = connection.execute(CLAIM, (queue, worker_id, lease))

    def read() -> Job | None:
        row = cursor.fetchone()
        return Job.from_row(row) if row is not None else None

    return read


def fence(connection: Connection, job_id: str, epoch: int) -> Job:
    """Lock the job for this transaction; raises LeaseLost unless `epoch` still holds it."""
    row = connection.execute(FENCE, (job_id, epoch)).fetchone()
    if row is None:
        raise LeaseLost(job_id, epoch)
    return Job.from_row(row)


def renew(connection: Connection, held: Sequence[tuple[str, int]], lease: timedelta) -> list[Renewal]:
    """Push the leases of `held` (id, epoch) on; whatever is missing from the answer is lost."""
    rows = connection.execute(RENEW, (lease, [h[0] for h in held], [h[1] for h in held])).fetchall()
    return [Renewal(**row) for row in rows]


def requested(connection: Connection, held: Sequence[tuple[str, int]]) -> list[Renewal]:
    """Those of `held` (id, epoch) that were asked to cancel, to pause or to give way."""
    rows = connection.execute(REQUESTED, ([h[0] for h in held], [h[1] for h in held])).fetchall()
    return [Renewal(**row) for row in rows]


def set_progress(connection: Connection, job: Job, progress: dict[str, Any]) -> None:
    """Merge `progress` into the job's; the caller holds the fence."""
    connection.execute(
        "UPDATE core.job SET progress = progress || %s WHERE id = %s", (Jsonb(progress), job.id)
    )


def leave(
    connection: Connection,
    job: Job,
    target: Status,
    *,
    message: str,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    delay: timedelta | None = timedelta(0),
    charged: bool = True,
    crashed: bool = False,
    blocked_by: int = 0,
    data: dict[str, Any] | None = None,
) -> Job:
    """The one exit from `leased`: state, lane, event and dependants in the caller's transaction.

    `charged` False gives the attempt back (drain, pause, waiting for children, crash); `crashed` counts one. Without a
    `delay` a job that is queued again keeps its place in the line.
    Raises LeaseLost when the job is no longer held at `job.epoch`.
    """
    check_transition(Status.LEASED, target)
    row = connection.execute(
        LEAVE,
        {
            "id": job.id,
            "epoch": job.epoch,
            "state": target,
            "terminal": target in TERMINAL,
            "result": Jsonb(result) if result is not None else None,
            "error": Jsonb(error) if error is not None else None,
            "delay": delay,
            "charged": charged,
            "crash": int(crashed),
            "blocked_by": blocked_by,
        },
    ).fetchone()
    if row is None:
        raise LeaseLost(job.id, job.epoch)
    left = Job.from_row(row)
    level = "info" if error is None else ("warn" if target is Status.QUEUED else "error")
    name = "job_requeued" if target is Status.QUEUED else f"job_{target.value}"
    _insert_event(connection, left, name, message, {**(data or {}), **(error or {})}, level)
    if target in TERMINAL:
        _after_end(connection, left)
    elif target is Status.QUEUED:
        left = _as_asked(connection, left)
    # Last: every claim and every end of the tenant's jobs in this queue waits for the lane.
    connection.execute(LEAVE_LANE, (left.queue, left.tenant_id))
    return left


def _as_asked(connection: Connection, queued: Job) -> Job:
    """A job that was given back does not wait for another worker to hear that it shall be cancelled or paused."""
    if cancels_at_once(queued):
        ended = end_unclaimed(connection, queued.id, Status.CANCELLED, None)
        assert ended is not None, "a job that was just queued could not be cancelled"
        return ended
    return pause_if_asked(connection, queued)


def cancels_at_once(job: Job) -> bool:
    """Whether a cancel request ends the job; one that has parts comes back once more to put together what there is."""
    return job.cancel_requested_at is not None and not job.progress.get("finalize_on_cancel")


def leave_crashed(connection: Connection, job: Job, reason: str, *, delay: timedelta = timedelta(0)) -> Job:
    """A lease that ended without an answer: again, or `dead` after too many, or `cancelled` where asked for."""
    if cancels_at_once(job):
        return leave(
            connection, job, Status.CANCELLED, message="cancelled after its worker was lost", crashed=True
        )
    if job.crashes + 1 >= job.max_crashes:
        error = {
            "code": "crashed",
            "message": f"{reason}; {job.crashes + 1} crashes, {job.max_crashes} allowed",
        }
        return leave(
            connection, job, Status.DEAD, message=error["message"], error=error, crashed=True, charged=False
        )
    error = {"code": "crashed", "message": reason}
    return leave(
        connection, job, Status.QUEUED, message=reason, error=error, crashed=True, charged=False, delay=delay
    )


def pause_if_asked(connection: Connection, job: Job) -> Job:
    """A queued job with a request to pause becomes paused; any other stays as it is."""
    if job.pause_requested_at is None:
        return job
    row = connection.execute(
        "UPDATE core.job SET state = 'paused', pause_requested_at = NULL "
        "WHERE id = %s AND state = 'queued' RETURNING *",
        (job.id,),
    ).fetchone()
    assert row is not None
    add_event(connection, job, "job_paused", "paused")
    return Job.from_row(row)


def _after_end(connection: Connection, ended: Job) -> None:
    """What an end sets off, in the same transaction: dependants and outgoing webhooks."""
    dependants = connection.execute(CHILDREN_OF_ENDED, (ended.id,))
    if ended.parent_id is None:
        enqueue_webhooks(connection, ended.tenant_id, event_type(ended), {"id": ended.id})
    _release_dependants(connection, ended, dependants.fetchall())


def enqueue_webhooks(connection: Connection, tenant: UUID, type_: str, data: dict[str, Any]) -> None:
    """One delivery for each of the tenant's endpoints that wants this type of event."""
    for endpoint in connection.execute(ENDPOINTS, (tenant, type_)).fetchall():
        event_id, body = event_body(type_, data)
        connection.execute(DELIVER, (event_id, tenant, endpoint["id"], body))


def _release_dependants(connection: Connection, ended: Job, dependants: Sequence[Row]) -> None:
    for child in dependants:
        if ended.state is Status.SUCCEEDED or child["on_failure"] == "continue":
            connection.execute(UNBLOCK, (child["child_id"],))
            continue
        error = {
            "code": "dependency_failed",
            "message": f"job {ended.id} that this waits for ended as {ended.state.value}",
        }
        row = connection.execute(END_QUEUED, (Status.FAILED, Jsonb(error), child["child_id"])).fetchone()
        if row is not None:
            failed = Job.from_row(row)
            add_event(connection, failed, "job_failed", error["message"], error, "error")
            _after_end(connection, failed)


def wait_for_children(
    connection: Connection,
    job: Job,
    children: Sequence[NewJob],
    progress: dict[str, Any],
    *,
    awaited: Sequence[str] = (),
    any_of: bool = False,
    write: Callable[[Connection], None] | None = None,
) -> Job:
    """Submit `children` and give the job back until they and its earlier parts `awaited` have ended, however.

    With `any_of` until the first of them has: one of `awaited` that has ended unseen brings the job back at once, and
    the others' ends, having nothing to unblock, count for nothing until it waits again. `awaited` names every earlier
    part that the caller has not seen end. `write` runs before anything is handed out, and not at all where nothing is.

    Raises LeaseLost. With nothing to wait for the job is eligible again at once; one that was cancelled meanwhile ends
    without handing out any, or comes back at once where it puts together what there is.
    """
    # Parts before their whole, as their ends lock them, so that none ends between this look and the wait.
    earlier = connection.execute(PARENTS, (list(awaited),)).fetchall() if awaited else []
    still_open = [row["id"] for row in earlier if Status(row["state"]) not in TERMINAL]
    held = fence(connection, job.id, job.epoch)
    if held.cancel_requested_at is not None and cancels_at_once(held):
        return leave(connection, job, Status.CANCELLED, message="cancelled before its parts were handed out")
    if children and held.cancel_requested_at is not None:
        return leave(connection, job, Status.QUEUED, message="asked to cancel: no more parts", charged=False)
    pauses = held.progress.get("pause_parts") or progress.get("pause_parts")
    if children and held.pause_requested_at is not None and pauses:
        return leave(connection, job, Status.PAUSED, message="paused: no more parts", charged=False)
    if write is not None:
        write(connection)
    set_progress(connection, job, progress)
    waits_for = len(still_open) + len(children)
    if any_of:
        waits_for = 0 if len(still_open) < len(earlier) else min(1, waits_for)
    left = leave(
        connection,
        job,
        Status.QUEUED,
        message=f"waits for {'one of ' if any_of else ''}{len(still_open) + len(children)} parts",
        charged=False,
        blocked_by=waits_for,
    )
    for child in children:
        submitted, _ = submit(connection, child)
        connection.execute(DEPEND, (submitted.id, job.id, job.tenant_id, "continue"))
    return left


def reap(connection: Connection, limit: int = 1) -> list[Job]:
    """End expired leases: requeued, dead or cancelled. One at a time keeps the locks of lanes short."""
    rows = connection.execute(EXPIRED_LEASES, (limit,)).fetchall()
    return [
        leave_crashed(connection, Job.from_row(row), f"worker {row['worker_id']} stopped renewing its lease")
        for row in rows
    ]


def expire_overdue(connection: Connection, limit: int = 100) -> list[Job]:
    """End queued jobs past their `expires_at`."""
    error = {"code": "expired", "message": "the job was not started before it expired"}
    return [
        ended
        for row in connection.execute(OVERDUE, (limit,)).fetchall()
        if (ended := end_unclaimed(connection, row["id"], Status.EXPIRED, error)) is not None
    ]


def release_previous(connection: Connection, worker_name: str, worker_id: str) -> list[Job]:
    """A worker that starts again gives back at once what its earlier incarnation held."""
    rows = connection.execute(PREVIOUS_LEASES, (worker_name, worker_id)).fetchall()
    return [
        leave_crashed(connection, Job.from_row(row), f"worker {worker_name} was restarted") for row in rows
    ]


def end_unclaimed(
    connection: Connection, job_id: str, target: Status, error: dict[str, Any] | None
) -> Job | None:
    row = connection.execute(END_QUEUED, (target, Jsonb(error) if error else None, job_id)).fetchone()
    if row is None:
        return None
    ended = Job.from_row(row)
    add_event(connection, ended, f"job_{target.value}", (error or {}).get("message", target.value), error)
    _after_end(connection, ended)
    return ended


def ready_queues(connection: Connection) -> dict[str, int]:
    """Queues with claimable jobs -> how many, counted no further than the lanes' free places."""
    return {row["queue"]: row["jobs"] for row in connection.execute(READY).fetchall()}


def get(
    connection: Connection, job_id: str, *, kinds: Sequence[str] | None = None, lock: bool = False
) -> Job:
    """The job; raises NotFound (also for another tenant's, which row-level security hides)."""
    try:
        row = connection.execute(
            f"SELECT * FROM core.job WHERE id = %s{' FOR UPDATE' if lock else ''}", (job_id,)
        ).fetchone()
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


def list_events(
    connection: Connection, job_id: str, *, after: int = 0, limit: int = 100
) -> list[dict[str, Any]]:
    """Events of the job with an id over `after`, oldest first."""
    return connection.execute(
        "SELECT id, created_at, type, level, message, data FROM core.job_event WHERE job_id = %s AND id > %s "
        "ORDER BY id LIMIT %s",
        (job_id, after, limit),
    ).fetchall()


def latest_events(
    connection: Connection, job_id: str, *, before: int | None = None, limit: int = 20
) -> tuple[list[dict[str, Any]], bool]:
    """(newest first, whether there are more), as OpenAI's event lists go."""
    rows = connection.execute(
        "SELECT id, created_at, type, level, message, data FROM core.job_event "
        "WHERE job_id = %s AND (%s::bigint IS NULL OR id < %s) ORDER BY id DESC LIMIT %s",
        (job_id, before, before, limit + 1),
    ).fetchall()
    return rows[:limit], len(rows) > limit


def position(connection: Connection, job: Job) -> int | None:
    """How many of the tenant's own jobs go before this one; None when it does not wait for a worker."""
    if job.state is not Status.QUEUED or job.blocked_by:
        return None
    row = connection.execute(
        POSITION, (job.queue, job.tenant_id, -job.priority, job.run_at, job.id)
    ).fetchone()
    assert row is not None
    return int(row["ahead"])
