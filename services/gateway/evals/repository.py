"""SQL of evals, their runs and the items of runs, as their tenant sees them. A run's state is its job's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

Order = Literal["asc", "desc"]
OrderBy = Literal["created_at", "updated_at"]

INSERT = """
INSERT INTO training.eval (id, tenant_id, name, data_source_config, testing_criteria, metrics, slices, cluster,
    metadata)
VALUES (%(id)s, %(tenant)s, %(name)s, %(config)s, %(criteria)s, %(metrics)s, %(slices)s, %(cluster)s, %(metadata)s)
RETURNING *"""

GET = "SELECT * FROM training.eval WHERE tenant_id = %s AND id = %s AND deleted_at IS NULL"

UPDATE = """
UPDATE training.eval SET name = COALESCE(%(name)s, name), metadata = COALESCE(%(metadata)s, metadata),
    updated_at = clock_timestamp()
WHERE tenant_id = %(tenant)s AND id = %(id)s AND deleted_at IS NULL RETURNING *"""

EXISTED = "SELECT 1 FROM training.eval WHERE id = %s"

LIST = """
SELECT * FROM training.eval WHERE tenant_id = %(tenant)s AND deleted_at IS NULL
AND (%(after)s::text IS NULL OR ({by}, id) {beyond} (SELECT {by}, id FROM training.eval WHERE id = %(after)s))
ORDER BY {by} {order}, id {order} LIMIT %(limit)s"""

DELETE = "UPDATE training.eval SET deleted_at = now() WHERE id = %s"

DELETE_RUNS = """
UPDATE training.eval_run SET deleted_at = now()
WHERE eval_id = %s AND (%s::text IS NULL OR id = %s) AND deleted_at IS NULL"""

DELETE_ITEMS = """
DELETE FROM training.eval_item i USING training.eval_run r
WHERE i.run_id = r.id AND r.eval_id = %s AND r.deleted_at IS NOT NULL"""

ADD_RUN = """
INSERT INTO training.eval_run (id, tenant_id, eval_id, name, model, data_source)
VALUES (%(id)s, %(tenant)s, %(eval)s, %(name)s, %(model)s, %(source)s)"""

# OpenAI's words for the states of a job.
STATUS = """CASE WHEN j.state = 'succeeded' THEN 'completed' WHEN j.state = 'cancelled' THEN 'canceled'
    WHEN j.state IN ('failed', 'dead', 'expired') THEN 'failed'
    WHEN j.state = 'leased' OR j.progress ? 'phase' THEN 'in_progress' ELSE 'queued' END"""

RUNS = f"""
SELECT r.*, {STATUS} AS status, j.state, j.queue, j.progress, j.result, j.error, j.metadata, j.traceparent,
    j.started_at, j.finished_at
FROM training.eval_run r JOIN core.job j ON j.id = r.id
WHERE r.tenant_id = %(tenant)s AND r.eval_id = %(eval)s AND r.deleted_at IS NULL"""

ONE_RUN = f"{RUNS} AND r.id = %(id)s"

LIST_RUNS = f"""
{RUNS} AND (%(status)s::text IS NULL OR {STATUS} = %(status)s)
AND (%(after)s::text IS NULL
    OR (r.created_at, r.id) {{beyond}} (SELECT created_at, id FROM training.eval_run WHERE id = %(after)s))
ORDER BY r.created_at {{order}}, r.id {{order}} LIMIT %(limit)s"""

RUN_EXISTED = "SELECT 1 FROM training.eval_run WHERE eval_id = %s AND id = %s"

OPEN_RUNS = """
SELECT r.id FROM training.eval_run r JOIN core.job j ON j.id = r.id
WHERE r.eval_id = %s AND r.deleted_at IS NULL AND j.state IN ('queued', 'leased', 'paused') ORDER BY r.id"""

ITEMS = """
SELECT item_no, item_key, passed, score, scores, slices, error, body, created_at FROM training.eval_item
WHERE run_id = %(run)s AND (%(status)s::text IS NULL OR (CASE WHEN error IS NOT NULL THEN 'error'
    WHEN passed THEN 'pass' ELSE 'fail' END) = ANY(%(statuses)s))
AND (%(after)s::integer IS NULL OR item_no {beyond} %(after)s) ORDER BY item_no {order} LIMIT %(limit)s"""

ITEM = """
SELECT item_no, item_key, passed, score, scores, slices, error, body, created_at FROM training.eval_item
WHERE run_id = %s AND item_no = %s"""

SCORES = """
SELECT item_key, cluster, passed, score, scores, slices, error FROM training.eval_item
WHERE run_id = %s ORDER BY item_no"""

# "failed" by the page, which the client's own types call "fail".
SHOWN = {
    "pass": ["pass"],
    "fail": ["fail", "error"],
    "failed": ["fail", "error"],
    "error": ["error"],
    "errored": ["error"],
}


def insert_eval(connection: Connection, tenant: UUID, eval_id: str, values: dict[str, Any]) -> Row:
    """`values`: name, config, criteria, metrics, slices, cluster, metadata."""
    jsonb = {name: Jsonb(values[name]) for name in ("config", "criteria", "metrics", "slices", "metadata")}
    row = connection.execute(INSERT, {**values, **jsonb, "id": eval_id, "tenant": tenant}).fetchone()
    assert row is not None
    return row


def get_eval(connection: Connection, tenant: UUID, eval_id: str, *, lock: bool = False) -> Row | None:
    query = f"{GET} FOR UPDATE" if lock else GET
    return connection.execute(query, (tenant, eval_id)).fetchone()


def update_eval(
    connection: Connection, tenant: UUID, eval_id: str, name: str | None, metadata: dict[str, str] | None
) -> Row | None:
    """What is None stays as it is."""
    changed = Jsonb(metadata) if metadata is not None else None
    values = {"tenant": tenant, "id": eval_id, "name": name, "metadata": changed}
    return connection.execute(UPDATE, values).fetchone()


def eval_existed(connection: Connection, eval_id: str) -> bool:
    """True for a deleted one too: a page may go on after it."""
    return connection.execute(EXISTED, (eval_id,)).fetchone() is not None


def list_evals(
    connection: Connection, tenant: UUID, *, after: str | None, limit: int, order: Order, by: OrderBy
) -> list[Row]:
    beyond = "<" if order == "desc" else ">"
    query = LIST.format(by=by, order=order, beyond=beyond)
    return connection.execute(query, {"tenant": tenant, "after": after, "limit": limit}).fetchall()


def delete_eval(connection: Connection, eval_id: str) -> None:
    """With its runs and their items."""
    connection.execute(DELETE, (eval_id,))
    delete_runs(connection, eval_id)


def delete_runs(connection: Connection, eval_id: str, run_id: str | None = None) -> None:
    """One run of an eval or all of them, with their items."""
    connection.execute(DELETE_RUNS, (eval_id, run_id, run_id))
    connection.execute(DELETE_ITEMS, (eval_id,))


def add_run(
    connection: Connection,
    tenant: UUID,
    run_id: str,
    eval_id: str,
    *,
    name: str,
    model: str,
    source: dict[str, Any],
) -> None:
    """The row of a run whose job, of the same id, is written in the same transaction."""
    values = {"id": run_id, "tenant": tenant, "eval": eval_id, "name": name, "model": model}
    connection.execute(ADD_RUN, {**values, "source": Jsonb(source)})


def get_run(connection: Connection, tenant: UUID, eval_id: str, run_id: str) -> Row | None:
    return connection.execute(ONE_RUN, {"tenant": tenant, "eval": eval_id, "id": run_id}).fetchone()


def run_existed(connection: Connection, eval_id: str, run_id: str) -> bool:
    return connection.execute(RUN_EXISTED, (eval_id, run_id)).fetchone() is not None


def open_runs(connection: Connection, eval_id: str) -> list[str]:
    """Ids of the runs that have not ended."""
    return [row["id"] for row in connection.execute(OPEN_RUNS, (eval_id,)).fetchall()]


def list_runs(
    connection: Connection,
    tenant: UUID,
    eval_id: str,
    *,
    status: str | None,
    after: str | None,
    limit: int,
    order: Order,
) -> list[Row]:
    query = LIST_RUNS.format(order=order, beyond="<" if order == "desc" else ">")
    values = {"tenant": tenant, "eval": eval_id, "status": status, "after": after, "limit": limit}
    return connection.execute(query, values).fetchall()


def list_items(
    connection: Connection,
    run_id: str,
    *,
    status: str | None,
    after: int | None,
    limit: int,
    order: Order,
) -> list[Row]:
    """Items of a run by number; `status` is one of SHOWN."""
    query = ITEMS.format(order=order, beyond="<" if order == "desc" else ">")
    statuses: Sequence[str] = SHOWN[status] if status else []
    values = {"run": run_id, "status": status, "statuses": statuses, "after": after, "limit": limit}
    return connection.execute(query, values).fetchall()


def get_item(connection: Connection, run_id: str, item_no: int) -> Row | None:
    return connection.execute(ITEM, (run_id, item_no)).fetchone()


def scores(connection: Connection, run_id: str) -> list[Row]:
    """What each item of a run came to: item_key (the same for the same item in another run), cluster, passed, score
    (0..1), scores by criterion, slices, error. In the order of the run's source."""
    return connection.execute(SCORES, (run_id,)).fetchall()
