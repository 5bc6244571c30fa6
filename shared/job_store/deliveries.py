"""The outbox of webhooks, filled in the transaction that a delivery tells of."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from shared.db import Connection
from shared.webhooks import event_body

ENDPOINTS = """
SELECT id FROM core.webhook_endpoint WHERE tenant_id = %s AND %s = ANY(events) AND deleted_at IS NULL"""

DELIVER = "INSERT INTO core.webhook_delivery (id, tenant_id, endpoint_id, body) VALUES (%s, %s, %s, %s)"


def enqueue_webhooks(connection: Connection, tenant: UUID, type_: str, data: dict[str, Any]) -> None:
    """One delivery for each of the tenant's endpoints that wants this type of event."""
    for endpoint in connection.execute(ENDPOINTS, (tenant, type_)).fetchall():
        event_id, body = event_body(type_, data)
        connection.execute(DELIVER, (event_id, tenant, endpoint["id"], body))
