"""SQL of a run of an eval: its items, and what its parts have left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

PARTS = "SELECT id, state, result, error FROM core.job WHERE parent_id = %s AND id = ANY(%s) ORDER BY id"

ASKED_TEXTS = "SELECT (payload ->> 'count')::int AS count FROM core.job WHERE id = %s"

TASK_SPEC = "SELECT spec FROM gateway.task_version WHERE task_id = %s AND version = %s"

FILES = "SELECT id, artifact FROM gateway.file WHERE id = ANY(%s)"

# What a run's batches leave is the run's; in the tenant's list of files it would only be in the way.
HIDE_FILES = "UPDATE gateway.file SET deleted_at = now() WHERE id = ANY(%s) AND deleted_at IS NULL"

LIVING = """
SELECT 1 FROM core.worker WHERE state = 'running' AND heartbeat_at > now() - interval '30 seconds' AND %s = ANY(queues)
LIMIT 1"""

# A page whose COMMIT got through and whose reply was lost is written once more, and changes nothing.
ADD_ITEM = """
INSERT INTO training.eval_item (run_id, item_no, tenant_id, item_key, cluster, passed, score, scores, slices, error,
    body)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (run_id, item_no) DO NOTHING"""

COUNTS = """
SELECT count(*)::int AS total, count(*) FILTER (WHERE passed)::int AS passed,
    count(*) FILTER (WHERE error IS NOT NULL)::int AS errored, COALESCE(max(item_no), -1)::int AS last
FROM training.eval_item WHERE run_id = %s"""

BY_CRITERION = """
SELECT r.value ->> 'name' AS name, count(*) FILTER (WHERE (r.value ->> 'passed')::boolean)::int AS passed,
    count(*) FILTER (WHERE NOT (r.value ->> 'passed')::boolean AND NOT r.value ? 'error')::int AS failed,
    count(*) FILTER (WHERE r.value ? 'error')::int AS errored
FROM training.eval_item i CROSS JOIN LATERAL jsonb_array_elements(i.body -> 'results') r
WHERE i.run_id = %s GROUP BY 1"""

MEASURED = """
SELECT passed, score, cluster, slices, error IS NOT NULL AS errored FROM training.eval_item
WHERE run_id = %s ORDER BY item_no"""


@dataclass(frozen=True)
class EvalItem:
    """A row of training.eval_item, but for whose it is."""

    number: int
    key: str
    cluster: str
    passed: bool
    score: float
    scores: dict[str, float | None]
    slices: dict[str, str]
    error: dict[str, str] | None
    body: dict[str, Any]


def parts(connection: Connection, run_id: str, ids: Sequence[str]) -> list[Row]:
    """(id, state, result, error) of jobs that a run has handed out."""
    return connection.execute(PARTS, (run_id, list(ids))).fetchall()


def task_spec(connection: Connection, task_id: str, version: int) -> dict[str, Any]:
    """A version of a task, which never changes."""
    row = connection.execute(TASK_SPEC, (task_id, version)).fetchone()
    assert row is not None, f"the task {task_id} has no version {version}"
    spec: dict[str, Any] = row["spec"]
    return spec


def asked_texts(connection: Connection, job_id: str) -> int:
    """How many texts a job was to make vectors of."""
    row = connection.execute(ASKED_TEXTS, (job_id,)).fetchone()
    assert row is not None
    return int(row["count"])


def artifacts(connection: Connection, file_ids: Sequence[str]) -> list[str]:
    """What files hold, in the order in which they are named."""
    found = {row["id"]: row["artifact"] for row in connection.execute(FILES, (list(file_ids),)).fetchall()}
    return [found[file_id] for file_id in file_ids]


def hide_files(connection: Connection, file_ids: Sequence[str]) -> None:
    connection.execute(HIDE_FILES, (list(file_ids),))


def is_heard(connection: Connection, queue: str) -> bool:
    """Whether a living worker takes from this queue."""
    return connection.execute(LIVING, (queue,)).fetchone() is not None


def add_items(connection: Connection, tenant: UUID, run_id: str, items: Sequence[EvalItem]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            ADD_ITEM,
            [
                (
                    run_id,
                    one.number,
                    tenant,
                    one.key,
                    one.cluster,
                    one.passed,
                    one.score,
                    Jsonb(one.scores),
                    Jsonb(one.slices),
                    Jsonb(one.error) if one.error is not None else None,
                    Jsonb(one.body),
                )
                for one in items
            ],
        )


def counts(connection: Connection, run_id: str) -> Row:
    """total, passed, errored, and `last`: the highest item number stored, -1 before the first."""
    row = connection.execute(COUNTS, (run_id,)).fetchone()
    assert row is not None
    return row


def by_criterion(connection: Connection, run_id: str) -> dict[str, Row]:
    """passed, failed and errored of each criterion by its name."""
    return {row["name"]: row for row in connection.execute(BY_CRITERION, (run_id,)).fetchall()}


def measured(connection: Connection, run_id: str) -> list[Row]:
    """passed, score, cluster, slices and errored of every item in order."""
    return connection.execute(MEASURED, (run_id,)).fetchall()
