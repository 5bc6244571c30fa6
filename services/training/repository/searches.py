"""SQL of searches for hyperparameters: their trials, what these told, and who could run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

ADD = """
INSERT INTO training.search_trial (search_id, number, tenant_id, job_id, params) VALUES (%s, %s, %s, %s, %s)"""

TRIALS = """
SELECT t.number, t.job_id, t.params, t.state, t.value, t.curve, t.notes, t.models, t.error, t.told,
    j.state AS job_state, j.error AS job_error
FROM training.search_trial t JOIN core.job j ON j.id = t.job_id WHERE t.search_id = %s ORDER BY t.number"""

OF_JOB = """
SELECT t.search_id, t.number, t.params, s.payload, s.progress FROM training.search_trial t
    JOIN core.job s ON s.id = t.search_id WHERE t.job_id = %s"""

# What a run that was killed told behind the checkpoint that it goes on from, it will tell again.
REWIND = """
UPDATE training.search_trial SET curve = (
    SELECT COALESCE(jsonb_object_agg(key, value), '{}') FROM jsonb_each(curve) WHERE key::bigint <= %s)
WHERE search_id = %s AND number = %s"""

ADD_POINT = """
UPDATE training.search_trial SET curve = curve || jsonb_build_object(%s::text, jsonb_build_array(%s::float8, %s::int))
WHERE search_id = %s AND number = %s"""

NOTE = "UPDATE training.search_trial SET notes = %s WHERE search_id = %s AND number = %s"

SETTLE = """
UPDATE training.search_trial SET state = %s, value = %s, error = %s, models = %s, settled_at = now()
WHERE search_id = %s AND number = %s AND state = 'open' RETURNING number"""

TOLD = "UPDATE training.search_trial SET told = true WHERE search_id = %s AND number = ANY(%s)"

FORGET_CHECKPOINTS = """
DELETE FROM training.checkpoint WHERE job_id = (
    SELECT job_id FROM training.search_trial WHERE search_id = %s AND number = %s)"""

FORGET_MODELS = "UPDATE training.search_trial SET models = NULL WHERE search_id = %s AND models IS NOT NULL"

HEARING = """
SELECT count(*)::int AS workers FROM core.worker
WHERE state = 'running' AND heartbeat_at > now() - interval '30 seconds' AND %s = ANY(queues)"""


def add_trial(
    connection: Connection, tenant: UUID, search_id: str, number: int, job_id: str, params: Mapping[str, Any]
) -> None:
    """A trial whose job is submitted in the same transaction."""
    connection.execute(ADD, (search_id, number, tenant, job_id, Jsonb(dict(params))))


def trials(connection: Connection, search_id: str) -> list[Row]:
    """All of them by number, with `job_state` and `job_error` of their jobs."""
    return connection.execute(TRIALS, (search_id,)).fetchall()


def trial_of(connection: Connection, job_id: str) -> Row | None:
    """`search_id`, `number` and `params` of the trial that this job runs, and its search's `payload` and `progress`."""
    return connection.execute(OF_JOB, (job_id,)).fetchone()


def rewind(connection: Connection, search_id: str, number: int, step: int) -> None:
    """Forget what was told after `step`."""
    connection.execute(REWIND, (step, search_id, number))


def add_point(
    connection: Connection, search_id: str, number: int, *, step: int, value: float, total: int
) -> None:
    """What a trial told at a step; told again, the last telling stands."""
    connection.execute(ADD_POINT, (step, value, total, search_id, number))


def note(connection: Connection, search_id: str, number: int, notes: Mapping[str, Any]) -> None:
    connection.execute(NOTE, (Jsonb(dict(notes)), search_id, number))


def settle(
    connection: Connection,
    search_id: str,
    number: int,
    state: str,
    *,
    value: float | None = None,
    error: Mapping[str, Any] | None = None,
    models: Sequence[Mapping[str, Any]] | None = None,
) -> bool:
    """Say what became of an open trial; False for one of which that was said before. It goes on from nowhere again,
    so its checkpoints are let go."""
    stored = [Jsonb(one) if one is not None else None for one in (error, models)]
    settled = connection.execute(SETTLE, (state, value, *stored, search_id, number)).fetchone() is not None
    if settled:
        connection.execute(FORGET_CHECKPOINTS, (search_id, number))
    return settled


def mark_told(connection: Connection, search_id: str, numbers: Sequence[int]) -> None:
    """The search's events have these trials' ends."""
    connection.execute(TOLD, (search_id, list(numbers)))


def forget_models(connection: Connection, search_id: str) -> None:
    """The models of trials are needed no more; what no row names is collected."""
    connection.execute(FORGET_MODELS, (search_id,))


def workers_of(connection: Connection, queue: str) -> int:
    """How many living workers take from this queue. As the platform."""
    row = connection.execute(HEARING, (queue,)).fetchone()
    assert row is not None
    return int(row["workers"])
