"""What is told of a job: appended by whoever holds it, read by its tenant."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from shared.db import Connection, Row
from shared.jobs import Job

EVENT = """
INSERT INTO core.job_event (tenant_id, job_id, type, level, message, data) VALUES (%s, %s, %s, %s, %s, %s)
RETURNING id"""

HAS_EVENT = "SELECT 1 AS one FROM core.job_event WHERE id = %s AND job_id = %s AND type = %s"

EVENTS = """
SELECT id, created_at, type, level, message, data FROM core.job_event WHERE job_id = %s AND id > %s
ORDER BY id LIMIT %s"""

LATEST_EVENTS = """
SELECT id, created_at, type, level, message, data FROM core.job_event
WHERE job_id = %s AND (%s::bigint IS NULL OR id < %s) ORDER BY id DESC LIMIT %s"""


def add_event(
    connection: Connection,
    job: Job,
    type_: str,
    message: str,
    data: dict[str, Any] | None = None,
    level: str = "info",
) -> int:
    """Append one event; returns its id."""
    row = append(connection, job, type_, message, data, level).fetchone()
    assert row is not None
    return int(row["id"])


def append(
    connection: Connection, job: Job, type_: str, message: str, data: dict[str, Any] | None, level: str
) -> psycopg.Cursor[Row]:
    """The same without reading its id, which would end a pipeline."""
    return connection.execute(EVENT, (job.tenant_id, job.id, type_, level, message, Jsonb(data or {})))


def has_event(connection: Connection, job: Job, event_id: int, type_: str) -> bool:
    """True when the event with this id was committed: an id that was rolled back may go to another event later."""
    return connection.execute(HAS_EVENT, (event_id, job.id, type_)).fetchone() is not None


def list_events(
    connection: Connection, job_id: str, *, after: int = 0, limit: int = 100
) -> list[dict[str, Any]]:
    """Events of the job with an id over `after`, oldest first."""
    return connection.execute(EVENTS, (job_id, after, limit)).fetchall()


def latest_events(
    connection: Connection, job_id: str, *, before: int | None = None, limit: int = 20
) -> tuple[list[dict[str, Any]], bool]:
    """(newest first, whether there are more), as OpenAI's event lists go."""
    rows = connection.execute(LATEST_EVENTS, (job_id, before, before, limit + 1)).fetchall()
    return rows[:limit], len(rows) > limit
