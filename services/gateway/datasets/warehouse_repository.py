"""SQL of tags and retention, and of the versions that a query names."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from shared.db import Connection, Row

TAGS = """
SELECT t.*, v.rows FROM data_governance.tag t JOIN data_governance.version v
    ON v.tenant_id = t.tenant_id AND v.dataset_id = t.dataset_id AND v.id = t.version_id
WHERE t.tenant_id = %(tenant)s AND t.dataset_id = %(dataset)s AND (%(name)s::text IS NULL OR t.name = %(name)s)
  AND (%(after)s::text IS NULL OR t.name > %(after)s) ORDER BY t.name LIMIT %(limit)s"""

# Locked while it is looked at, so that of two who move it from the same place one finds it moved.
LOCK_TAG = """
SELECT version_id FROM data_governance.tag WHERE tenant_id = %s AND dataset_id = %s AND name = %s FOR UPDATE"""

# A retention that is just removing the version waits for this, or this for it.
LOCK_VERSION = """
SELECT 1 FROM data_governance.version WHERE tenant_id = %s AND dataset_id = %s AND id = %s AND deleted_at IS NULL
FOR SHARE"""

SET_TAG = """
INSERT INTO data_governance.tag AS tag (tenant_id, dataset_id, name, version_id, api_key_id)
VALUES (%(tenant)s, %(dataset)s, %(name)s, %(version)s, %(key)s)
ON CONFLICT (tenant_id, dataset_id, name) DO UPDATE SET version_id = EXCLUDED.version_id,
    api_key_id = EXCLUDED.api_key_id, moves = tag.moves + 1, moved_at = now()
    WHERE tag.version_id = %(expected)s
RETURNING *"""

DELETE_TAG = "DELETE FROM data_governance.tag WHERE tenant_id = %s AND dataset_id = %s AND name = %s"

RETENTION = (
    "SELECT keep_last, keep_days FROM data_governance.retention WHERE tenant_id = %s AND dataset_id = %s"
)

SET_RETENTION = """
INSERT INTO data_governance.retention (tenant_id, dataset_id, keep_last, keep_days) VALUES (%s, %s, %s, %s)
ON CONFLICT (tenant_id, dataset_id) DO UPDATE SET keep_last = EXCLUDED.keep_last, keep_days = EXCLUDED.keep_days"""

FORGET_RETENTION = "DELETE FROM data_governance.retention WHERE tenant_id = %s AND dataset_id = %s"

# By a dataset's name its current version, by name@tag the tagged one, by its id any.
NAMED = """
SELECT d.name AS name, v.artifact FROM data_governance.dataset d JOIN data_governance.version v
    ON v.tenant_id = d.tenant_id AND v.dataset_id = d.id AND v.id = d.current_version AND v.deleted_at IS NULL
WHERE d.tenant_id = %(tenant)s AND d.deleted_at IS NULL AND strpos(%(sql)s, lower(d.name)) > 0
UNION ALL
SELECT d.name || '@' || t.name, v.artifact FROM data_governance.tag t
    JOIN data_governance.dataset d ON d.id = t.dataset_id AND d.deleted_at IS NULL
    JOIN data_governance.version v
        ON v.tenant_id = t.tenant_id AND v.dataset_id = t.dataset_id AND v.id = t.version_id AND v.deleted_at IS NULL
WHERE t.tenant_id = %(tenant)s AND strpos(%(sql)s, lower(d.name || '@' || t.name)) > 0
UNION ALL
SELECT * FROM (SELECT DISTINCT ON (v.id) v.id, v.artifact FROM data_governance.version v
    JOIN data_governance.dataset d ON d.id = v.dataset_id AND d.deleted_at IS NULL
    WHERE v.tenant_id = %(tenant)s AND v.id = ANY(%(ids)s) AND v.deleted_at IS NULL ORDER BY v.id) by_id
LIMIT %(limit)s"""

NAMES = """
SELECT name FROM data_governance.dataset WHERE tenant_id = %s AND deleted_at IS NULL AND current_version IS NOT NULL
ORDER BY created_at DESC LIMIT %s"""


def tags(
    connection: Connection,
    tenant: UUID,
    dataset_id: str,
    *,
    name: str | None = None,
    after: str | None = None,
    limit: int = 1,
) -> list[Row]:
    """Tags of a dataset by name."""
    values = {"tenant": tenant, "dataset": dataset_id, "name": name, "after": after, "limit": limit}
    return connection.execute(TAGS, values).fetchall()


def tagged(connection: Connection, tenant: UUID, dataset_id: str, name: str) -> str | None:
    """The version that a tag stands at, locked until the transaction ends."""
    row = connection.execute(LOCK_TAG, (tenant, dataset_id, name)).fetchone()
    return str(row["version_id"]) if row is not None else None


def hold_version(connection: Connection, tenant: UUID, dataset_id: str, version_id: str) -> bool:
    """Whether the version is there; it then stays until the transaction ends."""
    return connection.execute(LOCK_VERSION, (tenant, dataset_id, version_id)).fetchone() is not None


def set_tag(
    connection: Connection,
    tenant: UUID,
    dataset_id: str,
    name: str,
    *,
    version: str,
    expected: str | None,
    key: str | None,
) -> Row | None:
    """The tag once it stands at `version`; None where it does not stand at `expected` any more."""
    values = {"tenant": tenant, "dataset": dataset_id, "name": name, "version": version}
    return connection.execute(SET_TAG, {**values, "expected": expected, "key": key}).fetchone()


def delete_tag(connection: Connection, tenant: UUID, dataset_id: str, name: str) -> None:
    connection.execute(DELETE_TAG, (tenant, dataset_id, name))


def retention(connection: Connection, tenant: UUID, dataset_id: str) -> Row | None:
    return connection.execute(RETENTION, (tenant, dataset_id)).fetchone()


def set_retention(
    connection: Connection, tenant: UUID, dataset_id: str, keep_last: int, keep_days: int
) -> None:
    connection.execute(SET_RETENTION, (tenant, dataset_id, keep_last, keep_days))


def forget_retention(connection: Connection, tenant: UUID, dataset_id: str) -> None:
    connection.execute(FORGET_RETENTION, (tenant, dataset_id))


def named(connection: Connection, tenant: UUID, sql: str, ids: Sequence[str], limit: int) -> list[Row]:
    """`name` and `artifact` of what a query may mean: every dataset, tag and version whose name stands in it."""
    values = {"tenant": tenant, "sql": sql.lower(), "ids": list(ids), "limit": limit}
    return connection.execute(NAMED, values).fetchall()


def names(connection: Connection, tenant: UUID, limit: int) -> list[str]:
    """Names of datasets that can be asked, the newest first."""
    return [row["name"] for row in connection.execute(NAMES, (tenant, limit)).fetchall()]
