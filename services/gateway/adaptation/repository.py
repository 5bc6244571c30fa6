"""SQL of tasks, their versions and their routes."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from psycopg.types.json import Json

from shared.db import Connection, Row

INSERT = """
INSERT INTO gateway.task (id, tenant_id, name, description, latest) VALUES (%s, %s, %s, %s, 1)
ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING RETURNING id"""

COUNT = "SELECT count(*)::int AS tasks FROM gateway.task WHERE tenant_id = %s AND deleted_at IS NULL"

ONE = """
SELECT t.*, r.weights, r.back_id, r.created_at AS routed_at FROM gateway.task t
JOIN gateway.task_route r ON r.id = t.route_id
WHERE t.tenant_id = %s AND t.name = %s AND t.deleted_at IS NULL"""

LOCK = "SELECT id FROM gateway.task WHERE tenant_id = %s AND name = %s AND deleted_at IS NULL FOR UPDATE"

LIST = """
SELECT t.*, r.weights, r.back_id, r.created_at AS routed_at FROM gateway.task t
JOIN gateway.task_route r ON r.id = t.route_id
WHERE t.tenant_id = %(tenant)s AND t.deleted_at IS NULL
  AND (%(after)s::text IS NULL
       OR (t.created_at, t.id) < (SELECT created_at, id FROM gateway.task WHERE id = %(after)s))
ORDER BY t.created_at DESC, t.id DESC LIMIT %(limit)s"""

# With the versions that callers get: [[version, weight, model], ...].
CALLED = """
SELECT t.name, t.created_at, ARRAY(
    SELECT jsonb_build_array(v.version, (routed ->> 1)::int, v.spec ->> 'model')
    FROM jsonb_array_elements(r.weights) AS routed
    JOIN gateway.task_version v ON v.task_id = t.id AND v.version = (routed ->> 0)::int) AS routed
FROM gateway.task t JOIN gateway.task_route r ON r.id = t.route_id
WHERE t.tenant_id = %(tenant)s AND t.deleted_at IS NULL AND (%(name)s::text IS NULL OR t.name = %(name)s)
ORDER BY t.created_at DESC, t.id DESC LIMIT %(limit)s"""

EXISTED = "SELECT 1 FROM gateway.task WHERE id = %s"

NAMES = "SELECT name FROM gateway.task WHERE tenant_id = %s AND deleted_at IS NULL ORDER BY name LIMIT 1000"

ROUTES = """
SELECT t.id, t.name, r.weights FROM gateway.task t JOIN gateway.task_route r ON r.id = t.route_id
WHERE t.tenant_id = %s AND t.deleted_at IS NULL ORDER BY t.name LIMIT %s"""

ADD_VERSION = """
INSERT INTO gateway.task_version (task_id, version, tenant_id, spec, note, api_key_id)
VALUES (%s, %s, %s, %s, %s, %s) RETURNING *"""

SET_LATEST = "UPDATE gateway.task SET latest = %s WHERE id = %s"

VERSION = "SELECT * FROM gateway.task_version WHERE task_id = %s AND version = %s"

VERSIONS = """
SELECT * FROM gateway.task_version WHERE task_id = %(task)s
  AND (%(after)s::integer IS NULL OR version < %(after)s)
ORDER BY version DESC LIMIT %(limit)s"""

ADD_ROUTE = """
INSERT INTO gateway.task_route (task_id, tenant_id, weights, back_id, api_key_id) VALUES (%s, %s, %s, %s, %s)
RETURNING id"""

SET_ROUTE = "UPDATE gateway.task SET route_id = %s WHERE id = %s"

ROUTE = "SELECT * FROM gateway.task_route WHERE id = %s"

DELETE = "UPDATE gateway.task SET deleted_at = now() WHERE id = %s"

# What each version has answered since the task was made; a name may have been another task's before.
USAGE = """
SELECT (metadata ->> 'task_version')::integer AS version, count(*)::bigint AS requests,
    count(*) FILTER (WHERE status <> 'ok')::bigint AS errors,
    count(*) FILTER (WHERE metadata ? 'refused_by')::bigint AS refused,
    sum(prompt_tokens)::bigint AS prompt_tokens, sum(completion_tokens)::bigint AS completion_tokens,
    sum(seconds)::float8 AS seconds
FROM gateway.usage
WHERE tenant_id = %s AND metadata ? 'task' AND metadata ->> 'task' = %s AND created_at >= %s
GROUP BY 1"""


def insert_task(
    connection: Connection, task_id: str, tenant: UUID, name: str, description: str | None
) -> bool:
    """False where the name is taken."""
    return connection.execute(INSERT, (task_id, tenant, name, description)).fetchone() is not None


def count_tasks(connection: Connection, tenant: UUID) -> int:
    row = connection.execute(COUNT, (tenant,)).fetchone()
    assert row is not None
    return int(row["tasks"])


def get_task(connection: Connection, tenant: UUID, name: str) -> Row | None:
    """The task with its `weights`."""
    return connection.execute(ONE, (tenant, name)).fetchone()


def lock_task(connection: Connection, tenant: UUID, name: str) -> Row | None:
    """The same, locked until the transaction ends."""
    if connection.execute(LOCK, (tenant, name)).fetchone() is None:
        return None
    return get_task(connection, tenant, name)


def list_tasks(connection: Connection, tenant: UUID, after: str | None, limit: int) -> list[Row]:
    """Newest first."""
    return connection.execute(LIST, {"tenant": tenant, "after": after, "limit": limit}).fetchall()


def called(connection: Connection, tenant: UUID, limit: int, *, name: str | None = None) -> list[Row]:
    """Tasks as they are called: `routed` is [[version, weight, model], ...]; newest first."""
    return connection.execute(CALLED, {"tenant": tenant, "name": name, "limit": limit}).fetchall()


def task_existed(connection: Connection, task_id: str) -> bool:
    return connection.execute(EXISTED, (task_id,)).fetchone() is not None


def task_names(connection: Connection, tenant: UUID) -> list[str]:
    """Names to look a mistyped one up in."""
    return [row["name"] for row in connection.execute(NAMES, (tenant,)).fetchall()]


def routes(connection: Connection, tenant: UUID, limit: int) -> list[Row]:
    """(id, name, weights) of every task."""
    return connection.execute(ROUTES, (tenant, limit)).fetchall()


def add_version(
    connection: Connection,
    tenant: UUID,
    task_id: str,
    version: int,
    spec: dict[str, object],
    note: str | None,
    key: str | None,
) -> Row:
    row = connection.execute(ADD_VERSION, (task_id, version, tenant, Json(spec), note, key)).fetchone()
    assert row is not None
    connection.execute(SET_LATEST, (version, task_id))
    return row


def get_version(connection: Connection, task_id: str, version: int) -> Row | None:
    return connection.execute(VERSION, (task_id, version)).fetchone()


def list_versions(connection: Connection, task_id: str, after: int | None, limit: int) -> list[Row]:
    """Newest first; `after` is the last version of the page before."""
    return connection.execute(VERSIONS, {"task": task_id, "after": after, "limit": limit}).fetchall()


def add_route(
    connection: Connection,
    tenant: UUID,
    task_id: str,
    weights: Sequence[tuple[int, int]],
    back: int | None,
    key: str | None,
) -> None:
    """Route the task's callers anew."""
    row = connection.execute(
        ADD_ROUTE, (task_id, tenant, Json([list(w) for w in weights]), back, key)
    ).fetchone()
    assert row is not None
    connection.execute(SET_ROUTE, (row["id"], task_id))


def get_route(connection: Connection, route_id: int) -> Row | None:
    return connection.execute(ROUTE, (route_id,)).fetchone()


def delete_task(connection: Connection, task_id: str) -> None:
    connection.execute(DELETE, (task_id,))


def usage_by_version(connection: Connection, tenant: UUID, task: Row) -> dict[int, Row]:
    rows = connection.execute(USAGE, (tenant, task["name"], task["created_at"])).fetchall()
    return {row["version"]: row for row in rows}
