"""SQL of API keys, tenants, rate windows and the audit trail."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

FIND_KEY = """
SELECT k.id, k.tenant_id, k.digest, k.role, k.requests_per_minute, k.tokens_per_day, t.name AS tenant_name,
    t.max_live
FROM core.api_key k JOIN core.tenant t ON t.id = k.tenant_id
WHERE k.digest = %s AND k.revoked_at IS NULL"""

FIND_LABELLER = """
SELECT l.id, l.tenant_id, l.digest, 'labeller' AS role, NULL::int AS requests_per_minute,
    NULL::bigint AS tokens_per_day, t.name AS tenant_name, t.max_live, l.project_id
FROM data_governance.label_labeller l JOIN data_governance.label_project p ON p.id = l.project_id
JOIN core.tenant t ON t.id = l.tenant_id
WHERE l.digest = %s AND l.revoked_at IS NULL AND p.deleted_at IS NULL"""

DEFAULT_TENANT = """
SELECT NULL AS id, id AS tenant_id, 'operator' AS role, NULL::int AS requests_per_minute,
    NULL::bigint AS tokens_per_day, name AS tenant_name, max_live
FROM core.tenant WHERE name = 'default'"""

TAKE = """
INSERT INTO gateway.rate_window AS w (api_key_id, window_start, requests)
VALUES (%(key)s, date_trunc('minute', clock_timestamp()), %(n)s)
ON CONFLICT (api_key_id, window_start) DO UPDATE SET requests = w.requests + EXCLUDED.requests
RETURNING requests, extract(epoch FROM window_start + interval '1 minute' - clock_timestamp())::float8 AS left_s"""

FORGET_WINDOWS = "DELETE FROM gateway.rate_window WHERE window_start < now() - interval '10 minutes'"

TOKENS_TODAY = """
SELECT COALESCE(sum(prompt_tokens::bigint + completion_tokens), 0)::bigint AS tokens,
    extract(epoch FROM date_trunc('day', now()) + interval '1 day' - now())::float8 AS left_s
FROM gateway.usage WHERE api_key_id = %s AND created_at >= date_trunc('day', now())"""

LIST_KEYS = """
SELECT k.id, k.name, k.prefix, k.role, k.requests_per_minute, k.tokens_per_day, k.created_at, k.revoked_at,
    t.name AS tenant
FROM core.api_key k JOIN core.tenant t ON t.id = k.tenant_id
WHERE (%(after)s::text IS NULL
       OR (k.created_at, k.id) < (SELECT created_at, id FROM core.api_key WHERE id = %(after)s))
  AND (%(id)s::text IS NULL OR k.id = %(id)s)
ORDER BY k.created_at DESC, k.id DESC LIMIT %(limit)s"""

SET_LIMITS = "UPDATE core.api_key SET requests_per_minute = %s, tokens_per_day = %s WHERE id = %s"

REVOKE = "UPDATE core.api_key SET revoked_at = COALESCE(revoked_at, now()) WHERE id = %s RETURNING id"

TENANT_BY_NAME = "SELECT * FROM core.tenant WHERE name = %s"

INSERT_TENANT = """
INSERT INTO core.tenant (name, max_live, max_running, weight) VALUES (%s, %s, %s, %s)
ON CONFLICT (name) DO NOTHING RETURNING *"""

LIST_TENANTS = """
SELECT * FROM core.tenant
WHERE (%(after)s::text IS NULL
       OR (created_at, name) < (SELECT created_at, name FROM core.tenant WHERE name = %(after)s))
ORDER BY created_at DESC, name DESC LIMIT %(limit)s"""

AUDIT = "INSERT INTO core.audit (tenant_id, actor, action, subject, data) VALUES (%s, %s, %s, %s, %s)"


def find_key(connection: Connection, digest: bytes) -> Row | None:
    """The living key with this digest, with what its tenant may do."""
    return connection.execute(FIND_KEY, (digest,)).fetchone()


def find_labeller(connection: Connection, digest: bytes) -> Row | None:
    """The labeller whose token has this digest, in the shape of a key, while the project lives."""
    return connection.execute(FIND_LABELLER, (digest,)).fetchone()


def default_tenant(connection: Connection) -> Row | None:
    """The default tenant in the shape of a key, for HELIU_AUTH=off."""
    return connection.execute(DEFAULT_TENANT).fetchone()


def take(connection: Connection, key_id: str, requests: int) -> tuple[int, float]:
    """Count `requests` in this minute's window; returns (counted in it so far, seconds until it ends)."""
    row = connection.execute(TAKE, {"key": key_id, "n": requests}).fetchone()
    assert row is not None
    return int(row["requests"]), max(0.0, float(row["left_s"]))


def forget_windows(connection: Connection) -> None:
    """Drop windows that no longer count."""
    connection.execute(FORGET_WINDOWS)


def tokens_today(connection: Connection, key_id: str) -> tuple[int, float]:
    """(tokens that the key has used since midnight UTC, seconds until the next midnight)."""
    row = connection.execute(TOKENS_TODAY, (key_id,)).fetchone()
    assert row is not None
    return int(row["tokens"]), float(row["left_s"])


def list_keys(connection: Connection, after: str | None, limit: int) -> list[Row]:
    """Keys of all tenants, newest first, revoked ones too; never the key itself."""
    return connection.execute(LIST_KEYS, {"after": after, "id": None, "limit": limit}).fetchall()


def get_key(connection: Connection, key_id: str) -> Row | None:
    return connection.execute(LIST_KEYS, {"after": None, "id": key_id, "limit": 1}).fetchone()


def set_limits(
    connection: Connection, key_id: str, requests_per_minute: int | None, tokens_per_day: int | None
) -> None:
    connection.execute(SET_LIMITS, (requests_per_minute, tokens_per_day, key_id))


def revoke(connection: Connection, key_id: str) -> bool:
    """True where there is such a key; again is harmless."""
    return connection.execute(REVOKE, (key_id,)).fetchone() is not None


def tenant_by_name(connection: Connection, name: str) -> Row | None:
    return connection.execute(TENANT_BY_NAME, (name,)).fetchone()


def insert_tenant(
    connection: Connection, name: str, max_live: int, max_running: int, weight: float
) -> Row | None:
    """The new tenant, or None where the name is taken."""
    return connection.execute(INSERT_TENANT, (name, max_live, max_running, weight)).fetchone()


def list_tenants(connection: Connection, after: str | None, limit: int) -> list[Row]:
    return connection.execute(LIST_TENANTS, {"after": after, "limit": limit}).fetchall()


def audit(
    connection: Connection, tenant: UUID, actor: str, action: str, subject: str, data: dict[str, Any]
) -> None:
    """Append what was done and by whom, in the transaction that did it."""
    connection.execute(AUDIT, (tenant, actor, action, subject, Jsonb(data)))
