"""What a worker learns and writes of a job while its claim holds; the claim is known by its epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from shared.db import Connection
from shared.errors import HeliuError
from shared.jobs import Job

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

PROGRESS = "UPDATE core.job SET progress = progress || %s WHERE id = %s"


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
    connection.execute(PROGRESS, (Jsonb(progress), job.id))
