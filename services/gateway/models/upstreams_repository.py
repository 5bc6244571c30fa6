"""SQL of models that another server answers for, as operators edit them. Their keys are only ever written here, but
for the test of one."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

SHOWN = "u.id, u.name, u.url, u.model, u.endpoints, u.context_length, u.created_at"

INSERT = """
INSERT INTO inference.upstream (id, tenant_id, name, url, model, endpoints, context_length, api_key)
VALUES (%(id)s, %(tenant)s, %(name)s, %(url)s, %(model)s, %(endpoints)s, %(context_length)s, %(api_key)s)"""

INSERT_MODEL = """
INSERT INTO training.model (tenant_id, id, kind, artifact, info)
VALUES (%(tenant)s, %(name)s, 'upstream', %(id)s, %(info)s)"""

CHANGE = """
UPDATE inference.upstream SET url = %(url)s, model = %(model)s, endpoints = %(endpoints)s,
    context_length = %(context_length)s WHERE tenant_id = %(tenant)s AND name = %(name)s"""

CHANGE_KEY = "UPDATE inference.upstream SET api_key = %s WHERE tenant_id = %s AND name = %s"

CHANGE_MODEL = "UPDATE training.model SET info = %(info)s WHERE tenant_id = %(tenant)s AND id = %(name)s"

DELETE = "DELETE FROM inference.upstream WHERE tenant_id = %s AND name = %s"

LIST = f"""
SELECT {SHOWN}, t.name AS tenant, u.api_key IS NOT NULL AS has_api_key
FROM inference.upstream u JOIN core.tenant t ON t.id = u.tenant_id
WHERE (%(tenant)s::uuid IS NULL OR u.tenant_id = %(tenant)s) AND (%(name)s::text IS NULL OR u.name = %(name)s)
ORDER BY u.created_at DESC, u.id LIMIT %(limit)s"""

KEYS = "SELECT id, api_key FROM inference.upstream WHERE api_key IS NOT NULL FOR UPDATE"

SEAL = "UPDATE inference.upstream SET api_key = %s WHERE id = %s"

KEY = "SELECT api_key FROM inference.upstream WHERE id = %s"


def insert(connection: Connection, tenant: UUID, values: dict[str, Any], info: dict[str, Any]) -> None:
    """The upstream and the model that the tenant sees; `values` are the columns by name."""
    given = {**values, "tenant": tenant, "info": Jsonb(info)}
    connection.execute(INSERT, given)
    connection.execute(INSERT_MODEL, given)


def change(
    connection: Connection, tenant: UUID, values: dict[str, Any], info: dict[str, Any], key: str | None
) -> None:
    """All but the key, which stays where none is given; an empty one takes it away."""
    given = {**values, "tenant": tenant, "info": Jsonb(info)}
    connection.execute(CHANGE, given)
    connection.execute(CHANGE_MODEL, given)
    if key is not None:
        connection.execute(CHANGE_KEY, (key or None, tenant, values["name"]))


def delete(connection: Connection, tenant: UUID, name: str) -> None:
    """The upstream with its key; the model's row is marked by its own repository."""
    connection.execute(DELETE, (tenant, name))


def find(connection: Connection, tenant: UUID, name: str) -> Row | None:
    """One, without its key; as the platform."""
    return connection.execute(LIST, {"tenant": tenant, "name": name, "limit": 1}).fetchone()


def listed(connection: Connection, limit: int) -> list[Row]:
    """Of all tenants, newest first, without their keys; as the platform."""
    return connection.execute(LIST, {"tenant": None, "name": None, "limit": limit}).fetchall()


def all_keys(connection: Connection) -> list[Row]:
    """Of every tenant, as they are stored; as the platform."""
    return connection.execute(KEYS).fetchall()


def seal(connection: Connection, upstream_id: str, sealed: str) -> None:
    """As the platform."""
    connection.execute(SEAL, (sealed, upstream_id))


def key_of(connection: Connection, upstream_id: str) -> str | None:
    """For a test; as the platform."""
    row = connection.execute(KEY, (upstream_id,)).fetchone()
    return row["api_key"] if row is not None else None
