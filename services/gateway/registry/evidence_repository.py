"""SQL of what gates and their decisions rest on: which registered models an eval, a run or a file is needed by."""

from __future__ import annotations

from uuid import UUID

from shared.db import Connection, Row

# Held until the transaction ends: whoever names it in a gate, and whoever deletes it, follow each other.
HOLD_EVAL = "SELECT 1 FROM training.eval WHERE tenant_id = %s AND id = %s AND deleted_at IS NULL FOR SHARE"

# Whoever decides by a run holds it.
LOCK_RUNS = """
SELECT id FROM training.eval_run WHERE tenant_id = %(tenant)s AND eval_id = %(eval)s AND deleted_at IS NULL
    AND (%(run)s::text IS NULL OR id = %(run)s) ORDER BY id FOR UPDATE"""

GATED = """
SELECT name FROM gateway.registry WHERE tenant_id = %s AND deleted_at IS NULL AND gates ->> 'eval_id' = %s
ORDER BY name LIMIT %s"""

DECIDED = """
SELECT r.name, d.version, d.id, role.value ->> 'id' AS run_id FROM gateway.registry_decision d
JOIN gateway.registry r ON r.id = d.registry_id AND r.deleted_at IS NULL
CROSS JOIN LATERAL jsonb_each(d.record -> 'runs') AS role
WHERE d.tenant_id = %s AND role.value ->> 'id' = ANY(%s) ORDER BY d.created_at DESC, d.id DESC LIMIT 1"""

# Both models of a gate are asked the same items.
ITEMS_OF = """
SELECT DISTINCT r.name, t.eval_id FROM core.job j JOIN training.eval_run t ON t.id = j.id AND t.deleted_at IS NULL
JOIN gateway.registry r ON r.tenant_id = j.tenant_id AND r.gates ->> 'eval_id' = t.eval_id AND r.deleted_at IS NULL
WHERE j.tenant_id = %s AND j.kind = 'eval.run' AND j.payload #>> '{items,id}' = %s ORDER BY r.name LIMIT %s"""


def hold_eval(connection: Connection, tenant: UUID, eval_id: str) -> bool:
    """Keep the eval from being deleted until the transaction ends; False where it is gone."""
    return connection.execute(HOLD_EVAL, (tenant, eval_id)).fetchone() is not None


def lock_runs(connection: Connection, tenant: UUID, eval_id: str, run_id: str | None) -> list[str]:
    """Ids of one run or all of an eval; nobody new decides by them until the transaction ends."""
    values = {"tenant": tenant, "eval": eval_id, "run": run_id}
    return [row["id"] for row in connection.execute(LOCK_RUNS, values).fetchall()]


def gated_by(connection: Connection, tenant: UUID, eval_id: str, limit: int) -> list[str]:
    """Names of the registered models whose gates name the eval."""
    return [row["name"] for row in connection.execute(GATED, (tenant, eval_id, limit)).fetchall()]


def decided_by(connection: Connection, tenant: UUID, run_ids: list[str]) -> Row | None:
    """The newest decision of a registered model that rests on one of these runs: `id`, `name`, `version`, `run_id`."""
    return connection.execute(DECIDED, (tenant, run_ids)).fetchone()


def gates_with_items_of(connection: Connection, tenant: UUID, file_id: str, limit: int) -> list[Row]:
    """`name` and `eval_id` of the registered models whose eval has runs with the items of this file."""
    return connection.execute(ITEMS_OF, (tenant, file_id, limit)).fetchall()
