"""SQL of sources as their tenant edits them. Credentials are only ever written here, sealed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

SHOWN = (
    """id, name, kind, connection, options, cron, timezone, next_at, build, generation, state, created_at"""
)

INSERT = f"""
INSERT INTO data_governance.source (id, tenant_id, name, kind, connection, options, sealed, cron, timezone, next_at,
    build)
VALUES (%(id)s, %(tenant)s, %(name)s, %(kind)s, %(connection)s, %(options)s, %(sealed)s, %(cron)s, %(timezone)s,
    %(next_at)s, %(build)s)
ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING RETURNING {SHOWN}"""

FIND = f"""
SELECT {SHOWN} FROM data_governance.source WHERE tenant_id = %s AND (name = %s OR id = %s) AND deleted_at IS NULL"""

LOCK = FIND + " FOR UPDATE"

LIST = f"""
SELECT {SHOWN} FROM data_governance.source WHERE tenant_id = %(tenant)s AND deleted_at IS NULL
  AND (%(after)s::text IS NULL
       OR (created_at, id) < (SELECT created_at, id FROM data_governance.source WHERE id = %(after)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""

EXISTS = "SELECT 1 FROM data_governance.source WHERE id = %s"

# A state that was made of another connection is read anew from the start.
CHANGE = f"""
UPDATE data_governance.source SET connection = %(connection)s, options = %(options)s, cron = %(cron)s,
    timezone = %(timezone)s, next_at = %(next_at)s, build = %(build)s, generation = generation + 1,
    state = CASE WHEN %(stale)s THEN state || '{{"stale": true}}' ELSE state END
WHERE id = %(id)s RETURNING {SHOWN}"""

SEAL = "UPDATE data_governance.source SET sealed = %s WHERE id = %s"

DELETE = """
UPDATE data_governance.source SET deleted_at = now(), sealed = NULL, cron = NULL, next_at = NULL,
    generation = generation + 1 WHERE id = %s"""

UNDER_WAY = """
SELECT id FROM core.job WHERE kind = 'data.sync' AND payload ->> 'source_id' = %s
  AND state IN ('queued', 'leased', 'paused') LIMIT 1"""

SYNCS = """
SELECT * FROM core.job WHERE tenant_id = %(tenant)s AND kind = 'data.sync' AND payload ->> 'source_id' = %(source)s
  AND (%(after)s::text IS NULL OR (created_at, id) < (SELECT created_at, id FROM core.job WHERE id = %(after)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""

SYNC = """
SELECT * FROM core.job WHERE id = %s AND kind = 'data.sync' AND payload ->> 'source_id' = %s"""

# As the platform, for the test of a source and for a change of the installation's secret.
SEALED = "SELECT sealed FROM data_governance.source WHERE id = %s"

ALL_SEALED = "SELECT id, sealed FROM data_governance.source WHERE sealed IS NOT NULL FOR UPDATE"


def insert(connection: Connection, tenant: UUID, values: dict[str, Any]) -> Row | None:
    """The row; None where the tenant has a source of this name."""
    return connection.execute(INSERT, {**_jsonb(values), "tenant": tenant}).fetchone()


def find(connection: Connection, tenant: UUID, name: str, *, lock: bool = False) -> Row | None:
    """By name or id."""
    return connection.execute(LOCK if lock else FIND, (tenant, name, name)).fetchone()


def listed(connection: Connection, tenant: UUID, after: str | None, limit: int) -> list[Row]:
    """Newest first."""
    return connection.execute(LIST, {"tenant": tenant, "after": after, "limit": limit}).fetchall()


def existed(connection: Connection, source_id: str) -> bool:
    return connection.execute(EXISTS, (source_id,)).fetchone() is not None


def change(connection: Connection, values: dict[str, Any]) -> Row:
    row = connection.execute(CHANGE, _jsonb(values)).fetchone()
    assert row is not None
    return row


def seal(connection: Connection, source_id: str, sealed: str | None) -> None:
    connection.execute(SEAL, (sealed, source_id))


def delete(connection: Connection, source_id: str) -> None:
    """Mark it deleted and forget its credentials."""
    connection.execute(DELETE, (source_id,))


def under_way(connection: Connection, source_id: str) -> str | None:
    """The sync of the source that has not ended; lock the source first."""
    row = connection.execute(UNDER_WAY, (source_id,)).fetchone()
    return row["id"] if row is not None else None


def syncs(connection: Connection, tenant: UUID, source_id: str, after: str | None, limit: int) -> list[Row]:
    """Rows of jobs, newest first."""
    values = {"tenant": tenant, "source": source_id, "after": after, "limit": limit}
    return connection.execute(SYNCS, values).fetchall()


def sync(connection: Connection, source_id: str, job_id: str) -> Row | None:
    return connection.execute(SYNC, (job_id, source_id)).fetchone()


def sealed_of(connection: Connection, source_id: str) -> str | None:
    """As the platform."""
    row = connection.execute(SEALED, (source_id,)).fetchone()
    return row["sealed"] if row is not None else None


def all_sealed(connection: Connection) -> list[Row]:
    """Of every tenant; as the platform."""
    return connection.execute(ALL_SEALED).fetchall()


def _jsonb(values: dict[str, Any]) -> dict[str, Any]:
    held = {name: Jsonb(values[name]) for name in ("connection", "options")}
    return {**values, **held, "build": Jsonb(values["build"]) if values["build"] is not None else None}
