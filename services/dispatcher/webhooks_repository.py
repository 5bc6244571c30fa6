"""SQL of outgoing webhooks: the claim of a due delivery and the two ends of an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from shared.db import Connection

CLAIM = """
UPDATE core.webhook_delivery d SET attempts = attempts + 1, next_at = now() + %(lease)s
FROM core.webhook_endpoint e
WHERE e.id = d.endpoint_id AND d.id = (
    SELECT id FROM core.webhook_delivery
    WHERE delivered_at IS NULL AND failed_at IS NULL AND next_at <= now()
      AND endpoint_id <> ALL(%(endpoints)s) AND tenant_id <> ALL(%(tenants)s)
    ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING d.id, d.tenant_id, d.endpoint_id, d.body, d.attempts, e.url, e.secret, e.deleted_at IS NOT NULL AS deleted"""

DELIVERED = """
UPDATE core.webhook_delivery SET delivered_at = now(), last_error = NULL
WHERE id = %s AND delivered_at IS NULL"""

# The number of the attempt fences: a late answer of an older attempt does not overwrite a newer one.
FAILED = """
UPDATE core.webhook_delivery SET last_error = %(error)s, next_at = now() + COALESCE(%(pause)s, interval '0'),
    failed_at = CASE WHEN %(pause)s::interval IS NULL THEN now() END
WHERE id = %(id)s AND attempts = %(attempt)s AND delivered_at IS NULL"""


@dataclass(frozen=True)
class Delivery:
    """One claimed attempt; `attempts` counts it already."""

    id: str
    tenant_id: UUID
    endpoint_id: str
    body: str
    attempts: int
    url: str
    secret: str
    deleted: bool


def claim(
    connection: Connection, lease: timedelta, *, endpoints: Sequence[str], tenants: Sequence[UUID]
) -> Delivery | None:
    """Take the delivery that is due longest, of none of these endpoints and tenants; None when there is none."""
    values = {"lease": lease, "endpoints": list(endpoints), "tenants": list(tenants)}
    row = connection.execute(CLAIM, values).fetchone()
    return Delivery(**row) if row is not None else None


def delivered(connection: Connection, delivery: Delivery) -> None:
    """The receiver has it."""
    connection.execute(DELIVERED, (delivery.id,))


def failed(connection: Connection, delivery: Delivery, error: str, pause: timedelta | None) -> None:
    """Try again after `pause`, or never with None."""
    values = {"id": delivery.id, "attempt": delivery.attempts, "error": error[:500], "pause": pause}
    connection.execute(FAILED, values)
