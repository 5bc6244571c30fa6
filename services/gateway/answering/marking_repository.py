"""SQL of how answers are marked."""

from __future__ import annotations

from uuid import UUID

from psycopg.types.json import Jsonb

from shared.contracts.marking import Marking
from shared.db import Connection, Row

# The task's own where it has one, else the tenant's, which stands under the empty name.
FOR = """
SELECT spec FROM gateway.marking WHERE tenant_id = %s AND task IN (%s, '') ORDER BY task DESC LIMIT 1"""

LIST = "SELECT task, spec, updated_at FROM gateway.marking WHERE tenant_id = %s ORDER BY task"

SET = """
INSERT INTO gateway.marking (tenant_id, task, spec, api_key_id) VALUES (%s, %s, %s, %s)
ON CONFLICT (tenant_id, task) DO UPDATE SET spec = EXCLUDED.spec, api_key_id = EXCLUDED.api_key_id, updated_at = now()
RETURNING task, spec, updated_at"""

REMOVE = "DELETE FROM gateway.marking WHERE tenant_id = %s AND task = %s RETURNING task"


def marking_for(connection: Connection, tenant: UUID, task: str | None) -> Marking | None:
    """How the answer of a task, or of a model, is marked; None where it is not."""
    row = connection.execute(FOR, (tenant, task or "")).fetchone()
    found = Marking.model_validate(row["spec"]) if row is not None else None
    return found if found is not None and found.mode != "off" else None


def list_markings(connection: Connection, tenant: UUID) -> list[Row]:
    """The tenant's own first, then those of tasks by name."""
    return connection.execute(LIST, (tenant,)).fetchall()


def set_marking(connection: Connection, tenant: UUID, task: str, marking: Marking, key: str | None) -> Row:
    spec = Jsonb(marking.model_dump(mode="json"))
    row = connection.execute(SET, (tenant, task, spec, key)).fetchone()
    assert row is not None
    return row


def remove_marking(connection: Connection, tenant: UUID, task: str) -> bool:
    return connection.execute(REMOVE, (tenant, task)).fetchone() is not None
