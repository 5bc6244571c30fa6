"""SQL of served models and training checkpoints."""

from __future__ import annotations

from uuid import UUID

from shared.db import Connection, Row
from shared.errors import Conflict

GET = "SELECT * FROM training.model WHERE tenant_id = %s AND id = %s AND deleted_at IS NULL"

TAKEN = "SELECT deleted_at FROM training.model WHERE tenant_id = %s AND id = %s"

# Held until the transaction ends: whoever adds a use of it, and whoever deletes it, follow each other.
HOLD = "SELECT 1 FROM training.model WHERE tenant_id = %s AND id = %s AND deleted_at IS NULL FOR SHARE"
LOCK = "SELECT 1 FROM training.model WHERE tenant_id = %s AND id = %s FOR UPDATE"

LIST = """
SELECT * FROM training.model WHERE tenant_id = %s AND deleted_at IS NULL
ORDER BY created_at DESC, id DESC LIMIT %s"""

BY_NAME = "SELECT * FROM training.model WHERE tenant_id = %s AND id = ANY(%s) AND deleted_at IS NULL"

NAMES = """
SELECT id FROM training.model WHERE tenant_id = %s AND deleted_at IS NULL ORDER BY created_at DESC LIMIT 200"""

DELETE = """
UPDATE training.model SET deleted_at = now() WHERE tenant_id = %s AND id = %s AND deleted_at IS NULL RETURNING id"""

ADAPTERS_OF = """
SELECT id FROM training.model WHERE tenant_id = %s AND base_id = %s AND kind = 'adapter' AND deleted_at IS NULL
ORDER BY created_at DESC LIMIT %s"""

# A batch names every model that its rows might ask for until they have been read; its shards name those they do.
JOBS_WITH = """
SELECT id, kind FROM core.job WHERE tenant_id = %(tenant)s AND state IN ('queued', 'leased', 'paused') AND (
    payload #>> '{base,model}' = %(name)s OR payload #>> '{base,base}' = %(name)s
    OR payload #>> '{model,model}' = %(name)s
    OR payload #>> '{call,model,name}' = %(name)s OR payload #>> '{job,base,model}' = %(name)s
    OR (payload -> 'models' ? %(name)s AND NOT (kind = 'inference.batch' AND progress ? 'phase')))
ORDER BY created_at LIMIT %(limit)s"""

# In the versions that their callers get now; earlier ones may be gone back to, and then fail by name.
TASKS_WITH = """
SELECT DISTINCT t.name FROM gateway.task t JOIN gateway.task_route r ON r.id = t.route_id
    CROSS JOIN LATERAL jsonb_array_elements(r.weights) AS routed
    JOIN gateway.task_version v ON v.task_id = t.id AND v.version = (routed ->> 0)::int
WHERE t.tenant_id = %s AND t.deleted_at IS NULL AND v.spec ->> 'model' = %s ORDER BY t.name LIMIT %s"""

CHECKPOINTS = """
SELECT * FROM training.checkpoint WHERE job_id = %(job)s
  AND (%(after)s::text IS NULL OR step < (SELECT step FROM training.checkpoint WHERE id = %(after)s))
ORDER BY step DESC LIMIT %(limit)s"""

CHECKPOINT = "SELECT 1 FROM training.checkpoint WHERE job_id = %s AND id = %s"


def get_model(connection: Connection, tenant: UUID, name: str) -> Row | None:
    return connection.execute(GET, (tenant, name)).fetchone()


def hold(connection: Connection, tenant: UUID, name: str) -> bool:
    """Keep the model from being deleted until the transaction ends; False where it is gone."""
    return connection.execute(HOLD, (tenant, name)).fetchone() is not None


def lock(connection: Connection, tenant: UUID, name: str) -> None:
    """Wait for whoever holds it; nobody new does until the transaction ends."""
    connection.execute(LOCK, (tenant, name))


def name_taken(connection: Connection, tenant: UUID, name: str) -> str | None:
    """`exists`, `deleted` or None: the name of a deleted model stays its own, as in usage and in jobs."""
    row = connection.execute(TAKEN, (tenant, name)).fetchone()
    if row is None:
        return None
    return "exists" if row["deleted_at"] is None else "deleted"


def check_free(connection: Connection, tenant: UUID, name: str) -> None:
    """Raise Conflict for a name that a model has or had."""
    taken = name_taken(connection, tenant, name)
    if taken is not None:
        said = "exists already" if taken == "exists" else "existed and was deleted"
        raise Conflict(f"a model {name!r} {said}; choose another name", code="model_exists", param="name")


def list_models(connection: Connection, tenant: UUID, limit: int) -> list[Row]:
    """Newest first."""
    return connection.execute(LIST, (tenant, limit)).fetchall()


def models(connection: Connection, tenant: UUID, names: list[str]) -> dict[str, Row]:
    """Those of these names that there are, by name."""
    return {row["id"]: row for row in connection.execute(BY_NAME, (tenant, names)).fetchall()}


def model_names(connection: Connection, tenant: UUID) -> list[str]:
    """Names to look a mistyped one up in."""
    return [row["id"] for row in connection.execute(NAMES, (tenant,)).fetchall()]


def delete_model(connection: Connection, tenant: UUID, name: str) -> bool:
    return connection.execute(DELETE, (tenant, name)).fetchone() is not None


def adapters_of(connection: Connection, tenant: UUID, name: str, limit: int) -> list[str]:
    """Names of the adapters that stand on this base, newest first."""
    return [row["id"] for row in connection.execute(ADAPTERS_OF, (tenant, name, limit)).fetchall()]


def jobs_with(connection: Connection, tenant: UUID, name: str, limit: int) -> list[Row]:
    """`id` and `kind` of the jobs that have not ended and were given this model, oldest first."""
    return connection.execute(JOBS_WITH, {"tenant": tenant, "name": name, "limit": limit}).fetchall()


def tasks_with(connection: Connection, tenant: UUID, name: str, limit: int) -> list[str]:
    """Names of the tasks that are answered by this model now."""
    return [row["name"] for row in connection.execute(TASKS_WITH, (tenant, name, limit)).fetchall()]


def list_checkpoints(connection: Connection, job_id: str, after: str | None, limit: int) -> list[Row]:
    """Newest first."""
    return connection.execute(CHECKPOINTS, {"job": job_id, "after": after, "limit": limit}).fetchall()


def has_checkpoint(connection: Connection, job_id: str, checkpoint_id: str) -> bool:
    return connection.execute(CHECKPOINT, (job_id, checkpoint_id)).fetchone() is not None
