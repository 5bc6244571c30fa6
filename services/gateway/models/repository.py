"""SQL of served models and training checkpoints."""

from __future__ import annotations

from uuid import UUID

from shared.db import Connection, Row
from shared.errors import Conflict

GET = "SELECT * FROM training.model WHERE tenant_id = %s AND id = %s AND deleted_at IS NULL"

TAKEN = "SELECT deleted_at FROM training.model WHERE tenant_id = %s AND id = %s"

# Held until the transaction ends: whoever adds a use of it, and whoever deletes it, follow each other.
HOLD = "SELECT 1 FROM training.model WHERE tenant_id = %s AND id = %s AND deleted_at IS NULL FOR SHARE"

LIST = """
SELECT * FROM training.model WHERE tenant_id = %s AND deleted_at IS NULL
ORDER BY created_at DESC, id DESC LIMIT %s"""

BY_NAME = "SELECT * FROM training.model WHERE tenant_id = %s AND id = ANY(%s) AND deleted_at IS NULL"

NAMES = """
SELECT id FROM training.model WHERE tenant_id = %s AND deleted_at IS NULL ORDER BY created_at DESC LIMIT 200"""

DELETE = """
UPDATE training.model SET deleted_at = now() WHERE tenant_id = %s AND id = %s AND deleted_at IS NULL RETURNING id"""

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


def list_checkpoints(connection: Connection, job_id: str, after: str | None, limit: int) -> list[Row]:
    """Newest first."""
    return connection.execute(CHECKPOINTS, {"job": job_id, "after": after, "limit": limit}).fetchall()


def has_checkpoint(connection: Connection, job_id: str, checkpoint_id: str) -> bool:
    return connection.execute(CHECKPOINT, (job_id, checkpoint_id)).fetchone() is not None
