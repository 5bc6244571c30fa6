"""How a job hands out parts of itself and waits for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shared.db import Connection
from shared.job_store.dependencies import depend, lock_parents
from shared.job_store.ends import cancels_at_once, leave
from shared.job_store.leases import fence, set_progress
from shared.job_store.submission import submit
from shared.jobs import TERMINAL, Job, NewJob, Status


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
    earlier = lock_parents(connection, awaited) if awaited else []
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
        depend(connection, submitted.id, job.id, job.tenant_id, "continue")
    return left
