"""SQL of registered models: names, versions, moves, and the history of who answered.

Stages and who answers move in functions of the database alone, which check what they need; see the migration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from shared.db import Connection, Row
from shared.errors import Conflict, NotFound

INSERT = """
INSERT INTO gateway.registry (id, tenant_id, name, description, gates, approval, canary_rule, api_key_id)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING RETURNING id"""

COUNT = "SELECT count(*)::int AS n FROM gateway.registry WHERE tenant_id = %s AND deleted_at IS NULL"

# With who answers now, and when that was settled.
STATE = """
SELECT r.*, e.production, e.canary, COALESCE(e.share, 0) AS share, e.back_id, e.created_at AS moved_at
FROM gateway.registry r LEFT JOIN gateway.registry_event e ON e.id = r.head_id
WHERE r.tenant_id = %(tenant)s AND r.deleted_at IS NULL"""

ONE = f"{STATE} AND r.name = %(name)s"

LIST = f"""
{STATE} AND (%(after)s::text IS NULL
    OR (r.created_at, r.id) < (SELECT created_at, id FROM gateway.registry WHERE id = %(after)s))
ORDER BY r.created_at DESC, r.id DESC LIMIT %(limit)s"""

# With the models of those versions that callers get.
ANSWERING = """
SELECT r.name, r.created_at, e.production, p.model_id AS model, e.canary, c.model_id AS canary_model, e.share
FROM gateway.registry r JOIN gateway.registry_event e ON e.id = r.head_id
JOIN gateway.registry_version p ON p.registry_id = r.id AND p.version = e.production
LEFT JOIN gateway.registry_version c ON c.registry_id = r.id AND c.version = e.canary
WHERE r.tenant_id = %(tenant)s AND r.deleted_at IS NULL AND (%(name)s::text IS NULL OR r.name = %(name)s)
ORDER BY r.created_at DESC, r.id DESC LIMIT %(limit)s"""

EXISTED = "SELECT 1 FROM gateway.registry WHERE id = %s"

NAMES = (
    "SELECT name FROM gateway.registry WHERE tenant_id = %s AND deleted_at IS NULL ORDER BY name LIMIT 1000"
)

DESCRIBE = "UPDATE gateway.registry SET description = %s WHERE id = %s"

DELETE = "UPDATE gateway.registry SET deleted_at = now() WHERE id = %s RETURNING id"

VERSION = "SELECT * FROM gateway.registry_version WHERE registry_id = %s AND version = %s"

VERSIONS = """
SELECT * FROM gateway.registry_version WHERE registry_id = %(registry)s
AND (%(after)s::integer IS NULL OR version < %(after)s) ORDER BY version DESC LIMIT %(limit)s"""

# What each of a name's versions has answered since the name was registered.
USAGE = """
SELECT (metadata ->> 'registry_version')::integer AS version, count(*)::bigint AS requests,
    count(*) FILTER (WHERE status <> 'ok')::bigint AS errors,
    sum(prompt_tokens)::bigint AS prompt_tokens, sum(completion_tokens)::bigint AS completion_tokens,
    sum(seconds)::float8 AS seconds
FROM gateway.usage
WHERE tenant_id = %s AND metadata ? 'registry' AND metadata ->> 'registry' = %s AND created_at >= %s
GROUP BY 1"""

# Who answers now, and the models of all versions that may be asked for by number, of every name of the tenant.
ROUTES = """
SELECT r.id, r.name, e.production, e.canary, e.share,
    ARRAY(SELECT jsonb_build_array(v.version, v.model_id) FROM gateway.registry_version v
          WHERE v.registry_id = r.id AND v.stage <> 'archived' ORDER BY v.version) AS models
FROM gateway.registry r JOIN gateway.registry_event e ON e.id = r.head_id
WHERE r.tenant_id = %(tenant)s AND r.deleted_at IS NULL ORDER BY r.name LIMIT %(limit)s"""

# A version's model is needed while it may answer: it is not archived, or a roll-back can come to it.
NEEDING = """
WITH RECURSIVE back AS (
    SELECT r.id AS registry_id, e.production, e.back_id FROM gateway.registry r
        JOIN gateway.registry_event e ON e.id = r.head_id WHERE r.tenant_id = %(tenant)s AND r.deleted_at IS NULL
    UNION
    SELECT b.registry_id, e.production, e.back_id FROM back b JOIN gateway.registry_event e ON e.id = b.back_id)
SELECT r.name || '@' || v.version AS label FROM gateway.registry_version v
JOIN gateway.registry r ON r.id = v.registry_id
WHERE v.tenant_id = %(tenant)s AND v.model_id = %(model)s AND r.deleted_at IS NULL
  AND (v.stage <> 'archived' OR EXISTS (
      SELECT 1 FROM back b WHERE b.registry_id = v.registry_id AND b.production = v.version))
ORDER BY 1 LIMIT %(limit)s"""

ADD = "SELECT gateway.registry_add(%s, %s, %s, %s) AS version"

MOVE = "SELECT gateway.registry_move(%s, %s, %s, %s, %s, %s, %s, %s, %s) AS event"

REJECT = "SELECT gateway.registry_reject(%s, %s, %s, %s)"

EVENT = "SELECT * FROM gateway.registry_event WHERE id = %s"

EVENTS = """
SELECT * FROM gateway.registry_event WHERE registry_id = %(registry)s
AND (%(after)s::bigint IS NULL OR id < %(after)s) AND (%(version)s::integer IS NULL OR version = %(version)s)
ORDER BY id DESC LIMIT %(limit)s"""

# What the checks of the database say, as codes that clients are told.
REFUSALS = {
    "not_found": NotFound,
    "conflict": Conflict,
    "illegal_transition": Conflict,
    "nothing_before": Conflict,
    "decision_missing": Conflict,
    "decision_stale": Conflict,
    "decision_unfounded": Conflict,
    "decision_expired": Conflict,
    "promotion_blocked": Conflict,
    "waiver_invalid": Conflict,
    "approval_required": Conflict,
    "request_expired": Conflict,
    "request_answered": Conflict,
    "own_request": Conflict,
}


@dataclass(frozen=True)
class Move:
    """What is to happen to a registered model, or to one of its versions; `share` is in parts of 10,000."""

    action: str
    number: int | None = None
    share: int | None = None
    decision: str | None = None
    settings: dict[str, Any] | None = None


def insert(
    connection: Connection,
    registry_id: str,
    tenant: UUID,
    name: str,
    *,
    description: str | None,
    gates: dict[str, Any],
    approval: str,
    canary_rule: dict[str, Any] | None,
    key: str | None,
) -> bool:
    """False where the name is taken."""
    rule = Jsonb(canary_rule) if canary_rule is not None else None
    values = (registry_id, tenant, name, description, Jsonb(gates), approval, rule, key)
    return connection.execute(INSERT, values).fetchone() is not None


def count(connection: Connection, tenant: UUID) -> int:
    row = connection.execute(COUNT, (tenant,)).fetchone()
    assert row is not None
    return int(row["n"])


def get(connection: Connection, tenant: UUID, name: str) -> Row | None:
    """The registered model with `production`, `canary`, `share`, `back_id`."""
    return connection.execute(ONE, {"tenant": tenant, "name": name}).fetchone()


def list_all(connection: Connection, tenant: UUID, after: str | None, limit: int) -> list[Row]:
    """Newest first."""
    return connection.execute(LIST, {"tenant": tenant, "after": after, "limit": limit}).fetchall()


def answering(connection: Connection, tenant: UUID, limit: int, *, name: str | None = None) -> list[Row]:
    """The names that have a version in production, newest first: `production` and `canary` with their models."""
    return connection.execute(ANSWERING, {"tenant": tenant, "name": name, "limit": limit}).fetchall()


def existed(connection: Connection, registry_id: str) -> bool:
    return connection.execute(EXISTED, (registry_id,)).fetchone() is not None


def names(connection: Connection, tenant: UUID) -> list[str]:
    """Names to look a mistyped one up in."""
    return [row["name"] for row in connection.execute(NAMES, (tenant,)).fetchall()]


def describe(connection: Connection, registry_id: str, description: str | None) -> None:
    connection.execute(DESCRIBE, (description, registry_id))


def delete(connection: Connection, registry_id: str) -> None:
    """Raises Conflict (`approval_required`) for a name whose moves wait for a second key."""
    checked(connection, DELETE, (registry_id,))


def version(connection: Connection, registry_id: str, number: int) -> Row | None:
    return connection.execute(VERSION, (registry_id, number)).fetchone()


def versions(connection: Connection, registry_id: str, after: int | None, limit: int) -> list[Row]:
    """Newest first; `after` is the last version of the page before."""
    values = {"registry": registry_id, "after": after, "limit": limit}
    return connection.execute(VERSIONS, values).fetchall()


def usage_by_version(connection: Connection, tenant: UUID, registered: Row) -> dict[int, Row]:
    rows = connection.execute(USAGE, (tenant, registered["name"], registered["created_at"])).fetchall()
    return {row["version"]: row for row in rows}


def routes(connection: Connection, tenant: UUID, limit: int) -> list[Row]:
    """`production`, `canary`, `share` and `models` ([[version, model], ...]) of each name that has a version."""
    return connection.execute(ROUTES, {"tenant": tenant, "limit": limit}).fetchall()


def needing(connection: Connection, tenant: UUID, model: str, limit: int) -> list[str]:
    """`NAME@VERSION` of the versions that are made of this model and may answer yet."""
    values = {"tenant": tenant, "model": model, "limit": limit}
    return [row["label"] for row in connection.execute(NEEDING, values).fetchall()]


def add(connection: Connection, registry_id: str, model: str, note: str | None, key: str | None) -> int:
    """The number of the version that is this model, a new one where the name has it not."""
    row = checked(connection, ADD, (registry_id, model, note, key))
    return int(row["version"])


def move(
    connection: Connection,
    registry_id: str,
    wanted: Move,
    *,
    request: str | None = None,
    key: str | None,
    reason: str | None,
) -> Row:
    """The event. Raises Conflict with the code of what the database refuses."""
    given = Jsonb(wanted.settings) if wanted.settings is not None else None
    values = (registry_id, wanted.action, wanted.number, wanted.share, wanted.decision, request, given)
    row = connection.execute(EVENT, (checked(connection, MOVE, (*values, key, reason))["event"],)).fetchone()
    assert row is not None
    return row


def reject(
    connection: Connection, registry_id: str, request_id: str, reason: str | None, key: str | None
) -> None:
    checked(connection, REJECT, (registry_id, request_id, reason, key))


def checked(connection: Connection, query: str, values: tuple[Any, ...]) -> Row:
    """The row that a statement returns. Raises what the database's own checks refuse, by its code."""
    try:
        row = connection.execute(query, values).fetchone()
    except psycopg.errors.CheckViolation as exc:
        code, said = exc.diag.constraint_name or "", exc.diag.message_primary or ""
        if code not in REFUSALS:
            raise
        raise REFUSALS[code](said, code=code) from exc
    assert row is not None
    return row


def events(
    connection: Connection, registry_id: str, after: int | None, limit: int, *, number: int | None = None
) -> list[Row]:
    """The history, newest first."""
    values = {"registry": registry_id, "after": after, "limit": limit, "version": number}
    return connection.execute(EVENTS, values).fetchall()
