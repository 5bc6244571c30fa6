"""Fires the schedules of sources: each moment once, however many dispatchers run.

The job of a moment and the next moment are one transaction under the source's lock, and the moment is the job's
idempotency key. Moments that nobody was there for are made up for by one sync; one that comes while the sync before
still runs is passed over.
"""

from __future__ import annotations

import logging
from uuid import UUID

from services.dispatcher import schedules_repository
from shared import job_store
from shared.contracts.schedule import Schedule, next_moment
from shared.contracts.sources import BuildAfter, SyncSource
from shared.db import Database, Row
from shared.jobs import NewJob, new_id

log = logging.getLogger(__name__)

AT_ONCE = 100


def fire_due(db: Database) -> int:
    """Submit the syncs whose moment has come; returns how many. Raises Unavailable without Postgres."""
    with db.core() as connection:
        found = schedules_repository.due(connection, AT_ONCE)
    return sum(_fire(db, source_id, tenant) for source_id, tenant in found)


def _fire(db: Database, source_id: str, tenant: UUID) -> bool:
    with db.transaction(tenant) as connection:
        row = schedules_repository.take(connection, source_id)
        if row is None:
            return False
        schedule = Schedule(cron=row["cron"], timezone=row["timezone"])
        schedules_repository.move(connection, source_id, next_moment(schedule, row["now"]))
        if schedules_repository.is_under_way(connection, source_id):
            log.info("schedule_passed_over", extra={"source": source_id})
            return False
        _, new = job_store.submit(connection, _job(row, tenant))
        return new


def _job(row: Row, tenant: UUID) -> NewJob:
    build = BuildAfter.model_validate(row["build"]) if row["build"] is not None else None
    contract = SyncSource(source_id=row["id"], source=row["name"], scheduled=True, build=build)
    return NewJob(
        id=new_id(contract.id_prefix),
        tenant_id=tenant,
        kind=contract.kind,
        queue=contract.queue_for(),
        payload=contract.dump(),
        max_attempts=contract.max_attempts,
        max_crashes=contract.max_crashes,
        idempotency_key=f"schedule {row['id']} {row['next_at'].isoformat()}",
    )
