"""Accepts durable work: one transaction for the job and what it refers to, then a doorbell. Knows no shape."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from services.gateway.bodies import Incoming
from services.gateway.context import Gateway
from shared import job_store
from shared.contracts.base import JobContract
from shared.db import Connection, retrying
from shared.errors import NotFound
from shared.jobs import Job, NewJob, new_id


def submit(
    gateway: Gateway,
    incoming: Incoming[Any],
    kind: type[JobContract],
    make: Callable[[Connection], JobContract],
    *,
    metadata: dict[str, str] | None = None,
    window: timedelta | None = None,
    priority: int = 0,
    preemptible: bool = False,
    queue: str | None = None,
    job_id: str | None = None,
) -> Job:
    """The accepted job, or the one that stands for the same request.

    `make` resolves names and builds the contract inside the transaction, as the caller's tenant; it may run again.
    What is `preemptible` may be asked to give its worker up. The job expires when `window` has passed. Its queue is
    the contract's unless another is given, and its id a new one unless `make` writes rows that name it. Raises what
    `make` raises, and InvalidInput for an idempotency key with another body.
    """
    caller = incoming.caller
    job_id = job_id or new_id(kind.id_prefix)
    first = True

    def once() -> tuple[Job, bool]:
        nonlocal first
        with gateway.db.transaction(caller.tenant) as connection:
            if not first and (committed := _found(connection, job_id)) is not None:
                return committed, True
            first = False
            # Before anything is resolved: since it was accepted, what it names may have been deleted or made.
            earlier = job_store.submitted_before(
                connection,
                caller.tenant,
                api_key_id=caller.key_id,
                body_hash=incoming.digest,
                idempotency_key=incoming.idempotency_key,
                retried=incoming.retried,
            )
            if earlier is not None:
                return earlier, False
            contract = make(connection)
            new = NewJob(
                id=job_id,
                tenant_id=caller.tenant,
                kind=contract.kind,
                queue=queue or contract.queue_for(gateway.settings.pool),
                payload=contract.dump(),
                priority=priority,
                preemptible=preemptible,
                max_attempts=contract.max_attempts,
                max_crashes=contract.max_crashes,
                time_limit_s=contract.time_limit_s,
                expires_at=datetime.now(UTC) + window if window is not None else None,
                metadata=metadata,
                idempotency_key=incoming.idempotency_key,
                body_hash=incoming.digest,
                api_key_id=caller.key_id,
                traceparent=incoming.traceparent,
            )
            return job_store.submit(connection, new)

    job, is_new = retrying(once, attempts=4)
    if is_new:
        gateway.bell.ring(job.queue, incoming.traceparent)
    return job


def _found(connection: Connection, job_id: str) -> Job | None:
    """After a COMMIT whose reply was lost: the job, if it was written."""
    try:
        return job_store.get(connection, job_id)
    except NotFound:
        return None
