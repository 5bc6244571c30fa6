"""SQL of what needs a model: adapters, tasks, evals, gates, vector stores and jobs."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from shared.db import Connection, Row

# Held until the transaction ends: whoever adds a use of it, and whoever deletes it, follow each other.
LOCK = "SELECT 1 FROM training.model WHERE tenant_id = %s AND id = %s FOR UPDATE"

# By its own name and as a version of a registered one.
NAMES = """
SELECT 'registry:' || r.name || '@' || v.version AS name FROM gateway.registry_version v
JOIN gateway.registry r ON r.id = v.registry_id
WHERE v.tenant_id = %s AND v.model_id = %s AND r.deleted_at IS NULL"""

ADAPTERS = """
SELECT id AS name FROM training.model
WHERE tenant_id = %(tenant)s AND base_id = ANY(%(names)s) AND kind = 'adapter' AND deleted_at IS NULL
ORDER BY created_at DESC LIMIT %(limit)s"""

# A batch names every model that its rows might ask for until they have been read; its shards name those they do. Of a
# search every choice counts.
JOBS = """
SELECT id || ' (' || kind || ')' AS name FROM core.job
WHERE tenant_id = %(tenant)s AND state IN ('queued', 'leased', 'paused') AND (
    payload #>> '{base,model}' = %(model)s OR payload #>> '{base,base}' = %(model)s
    OR payload #>> '{model,model}' = %(model)s OR payload #>> '{model,name}' = %(model)s
    OR payload #>> '{call,model,name}' = %(model)s OR payload #>> '{encoder,name}' = %(model)s
    OR payload #>> '{job,base,model}' = %(model)s OR payload #>> '{job,base,base}' = %(model)s
    OR jsonb_path_exists(payload, '$.space[*].patches[*].** ? (@ == $name)',
                         jsonb_build_object('name', %(model)s::text))
    OR (payload -> 'models' ? %(model)s AND NOT (kind = 'inference.batch' AND progress ? 'phase')))
ORDER BY created_at LIMIT %(limit)s"""

# In the versions that their callers get now; earlier ones may be gone back to, and then fail by name.
TASKS = """
SELECT DISTINCT t.name FROM gateway.task t JOIN gateway.task_route r ON r.id = t.route_id
    CROSS JOIN LATERAL jsonb_array_elements(r.weights) AS routed
    JOIN gateway.task_version v ON v.task_id = t.id AND v.version = (routed ->> 0)::int
WHERE t.tenant_id = %(tenant)s AND t.deleted_at IS NULL AND v.spec ->> 'model' = ANY(%(names)s)
ORDER BY t.name LIMIT %(limit)s"""

EVALS = """
SELECT id AS name FROM training.eval WHERE tenant_id = %(tenant)s AND deleted_at IS NULL AND EXISTS (
    SELECT 1 FROM jsonb_array_elements(testing_criteria) AS one WHERE one ->> 'model' = ANY(%(names)s))
ORDER BY created_at DESC LIMIT %(limit)s"""

GATES = """
SELECT name FROM gateway.registry WHERE tenant_id = %(tenant)s AND deleted_at IS NULL
    AND gates ->> 'baseline_model' = ANY(%(names)s) ORDER BY name LIMIT %(limit)s"""

# Their queries are given to the encoder that their chunks were given to.
STORES = """
SELECT id AS name FROM data_governance.vector_store WHERE tenant_id = %(tenant)s AND deleted_at IS NULL
    AND encoder #>> '{model,name}' = %(model)s
    AND COALESCE(last_active_at + make_interval(days => expires_days) > now(), true)
ORDER BY created_at DESC LIMIT %(limit)s"""

USES = {
    "adapters": ADAPTERS,
    "tasks": TASKS,
    "graders of evals": EVALS,
    "gates of registered models": GATES,
    "vector stores": STORES,
    "jobs": JOBS,
}
# What may name a registered model without a version, which stands for the one in production.
OF_A_NAME = ("tasks", "graders of evals", "gates of registered models")


def lock(connection: Connection, tenant: UUID, model: str) -> None:
    """Wait for whoever holds it; nobody new does until the transaction ends."""
    connection.execute(LOCK, (tenant, model))


def names_of(connection: Connection, tenant: UUID, model: str) -> list[str]:
    """All that may be given for just this model."""
    return [model, *(row["name"] for row in connection.execute(NAMES, (tenant, model)).fetchall())]


def using(
    connection: Connection, what: str, tenant: UUID, model: str, names: Sequence[str], limit: int
) -> list[str]:
    """Those of one sort of USES that need the model by one of these names."""
    values = {"tenant": tenant, "model": model, "names": list(names), "limit": limit}
    rows: list[Row] = connection.execute(USES[what], values).fetchall()
    return [row["name"] for row in rows]
