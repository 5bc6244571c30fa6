"""SQL of what a registered model's moves rest on: eval runs and training data, decisions, waivers and requests."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from services.gateway.registry.repository import Move, checked
from shared.db import Connection, Row

# The newest run of an eval that was of one of these names of a model. Its items cannot change.
RUN = """
SELECT r.id, r.name, r.model, r.created_at, j.payload #>> '{items,id}' AS items_of,
    r.data_source #>> '{source,split}' AS split FROM training.eval_run r JOIN core.job j ON j.id = r.id
WHERE r.tenant_id = %(tenant)s AND r.eval_id = %(eval)s AND r.deleted_at IS NULL AND j.state = 'succeeded'
AND (%(run)s::text IS NULL OR r.id = %(run)s) AND (%(models)s::text[] IS NULL OR r.model = ANY(%(models)s))
ORDER BY r.created_at DESC, r.id DESC LIMIT 1"""

# Of each eval the newest.
RUNS = """
SELECT * FROM (
    SELECT DISTINCT ON (r.eval_id) r.id, r.eval_id, e.name AS eval_name, r.model, r.created_at
    FROM training.eval_run r JOIN core.job j ON j.id = r.id JOIN training.eval e ON e.id = r.eval_id
    WHERE r.tenant_id = %s AND r.deleted_at IS NULL AND j.state = 'succeeded' AND r.model = ANY(%s)
    ORDER BY r.eval_id, r.created_at DESC, r.id DESC) newest
ORDER BY created_at DESC LIMIT %s"""

EVAL = """
SELECT id, name, data_source_config, testing_criteria, deleted_at FROM training.eval WHERE tenant_id = %s AND id = %s"""

# A version may stand in several datasets; all have the same rows, and the newest verdict is asked.
DATA = """
SELECT v.id, d.name AS dataset, v.gate_passed, v.gate, v.report, v.rows, v.train_rows, v.validation_rows, v.job_id,
    v.created_at, v.artifact,
    EXISTS (SELECT 1 FROM data_governance.needs_rebuild n
            WHERE n.tenant_id = v.tenant_id AND n.kind = 'version' AND n.id = v.id) AS needs_rebuild
FROM data_governance.version v JOIN data_governance.dataset d ON d.id = v.dataset_id
WHERE v.tenant_id = %s AND v.id = %s ORDER BY v.created_at DESC LIMIT 1"""

# All that a model stands on, as far back as it is known: its base, what it began as, and who taught it. Each with what
# it learned from; nearest first.
ANCESTORS = """
WITH RECURSIVE up AS (
    SELECT %(model)s::text AS id, 0 AS far
    UNION
    SELECT way.id, up.far + 1 FROM up JOIN training.model m ON m.tenant_id = %(tenant)s AND m.id = up.id
        LEFT JOIN core.job j ON j.id = m.job_id
        LEFT JOIN core.job d ON d.id = j.parent_id AND d.kind = 'training.distill'
        CROSS JOIN LATERAL (VALUES (m.base_id), (m.info ->> 'started_from'), (d.payload ->> 'teacher')) AS way (id)
    WHERE way.id IS NOT NULL AND way.id <> up.id AND up.far < 50)
SELECT m.id AS model, m.dataset_version AS data, v.gate_passed, v.gate
FROM (SELECT id, min(far) AS far FROM up GROUP BY id) a
JOIN training.model m ON m.tenant_id = %(tenant)s AND m.id = a.id
LEFT JOIN LATERAL (SELECT gate_passed, gate FROM data_governance.version
    WHERE tenant_id = m.tenant_id AND id = m.dataset_version ORDER BY created_at DESC LIMIT 1) v ON true
WHERE m.dataset_version IS NOT NULL AND m.id <> %(model)s ORDER BY a.far, m.id"""

ERASED = """
SELECT erasure_id FROM data_governance.needs_rebuild WHERE tenant_id = %s AND kind = 'model' AND id = %s LIMIT 1"""

ADD_DECISION = """
INSERT INTO gateway.registry_decision (id, tenant_id, registry_id, version, against, gates, record, record_hash, checks,
    api_key_id, expires_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING *"""

DECISION = "SELECT * FROM gateway.registry_decision WHERE registry_id = %s AND id = %s"

DECISIONS = """
SELECT * FROM gateway.registry_decision WHERE registry_id = %(registry)s
AND (%(version)s::integer IS NULL OR version = %(version)s)
AND (%(after)s::text IS NULL
    OR (created_at, id) < (SELECT created_at, id FROM gateway.registry_decision WHERE id = %(after)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""

ADD_WAIVER = """
INSERT INTO gateway.registry_waiver (id, tenant_id, registry_id, version, check_name, reason, api_key_id, expires_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING *"""

WAIVERS = """
SELECT * FROM gateway.registry_waiver WHERE registry_id = %s AND version = %s AND expires_at > now()
ORDER BY created_at DESC, id DESC LIMIT 1000"""

ADD_REQUEST = """
INSERT INTO gateway.registry_request (id, tenant_id, registry_id, action, version, share, decision_id, settings,
    reason, api_key_id, expires_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""

REQUESTS = """
SELECT q.*, a.approved, a.api_key_id AS answered_by, a.reason AS answer_reason, a.created_at AS answered_at,
    q.expires_at <= now() AS expired
FROM gateway.registry_request q LEFT JOIN gateway.registry_answer a ON a.request_id = q.id
WHERE q.registry_id = %(registry)s AND (%(id)s::text IS NULL OR q.id = %(id)s)
AND (%(open)s::boolean IS NOT TRUE OR (a.request_id IS NULL AND q.expires_at > now()))
ORDER BY q.created_at DESC, q.id DESC LIMIT %(limit)s"""


def add_decision(
    connection: Connection,
    decision_id: str,
    tenant: UUID,
    registry_id: str,
    number: int,
    against: int | None,
    *,
    gates: dict[str, Any],
    record: dict[str, Any],
    record_hash: str,
    checks: list[dict[str, Any]],
    key: str | None,
    expires_at: datetime,
) -> Row:
    """The decision with its `verdict`, which the database makes of the checks.

    Raises Conflict (`decision_unfounded`) for one that passes where the database, which looks too, sees otherwise.
    """
    values = (decision_id, tenant, registry_id, number, against, Jsonb(gates), Jsonb(record), record_hash)
    return checked(connection, ADD_DECISION, (*values, Jsonb(checks), key, expires_at))


def decision(connection: Connection, registry_id: str, decision_id: str) -> Row | None:
    return connection.execute(DECISION, (registry_id, decision_id)).fetchone()


def decisions(
    connection: Connection, registry_id: str, number: int | None, after: str | None, limit: int
) -> list[Row]:
    """Newest first, of one version or of all."""
    values = {"registry": registry_id, "version": number, "after": after, "limit": limit}
    return connection.execute(DECISIONS, values).fetchall()


def add_waiver(
    connection: Connection,
    waiver_id: str,
    tenant: UUID,
    registry_id: str,
    number: int,
    check: str,
    reason: str,
    key: str | None,
    expires_at: datetime,
) -> Row:
    values = (waiver_id, tenant, registry_id, number, check, reason, key, expires_at)
    row = connection.execute(ADD_WAIVER, values).fetchone()
    assert row is not None
    return row


def waivers(connection: Connection, registry_id: str, number: int) -> list[Row]:
    """Those that have not expired, newest first."""
    return connection.execute(WAIVERS, (registry_id, number)).fetchall()


def add_request(
    connection: Connection,
    request_id: str,
    tenant: UUID,
    registry_id: str,
    wanted: Move,
    *,
    reason: str | None,
    key: str | None,
    expires_at: datetime,
) -> Row:
    """What waits for a second key."""
    settings = Jsonb(wanted.settings) if wanted.settings is not None else None
    what = (wanted.action, wanted.number, wanted.share, wanted.decision, settings)
    connection.execute(ADD_REQUEST, (request_id, tenant, registry_id, *what, reason, key, expires_at))
    row = request(connection, registry_id, request_id)
    assert row is not None
    return row


def request(connection: Connection, registry_id: str, request_id: str) -> Row | None:
    """With what was answered: `approved`, `answered_by`, `expired`."""
    values = {"registry": registry_id, "id": request_id, "open": False, "limit": 1}
    return connection.execute(REQUESTS, values).fetchone()


def requests(connection: Connection, registry_id: str, *, open_only: bool, limit: int) -> list[Row]:
    """Newest first."""
    values = {"registry": registry_id, "id": None, "open": open_only, "limit": limit}
    return connection.execute(REQUESTS, values).fetchall()


def run_of(
    connection: Connection,
    tenant: UUID,
    eval_id: str,
    *,
    models: list[str] | None = None,
    run_id: str | None = None,
) -> Row | None:
    """The newest run that succeeded: of this id, or of any of these names."""
    values = {"tenant": tenant, "eval": eval_id, "run": run_id, "models": models}
    return connection.execute(RUN, values).fetchone()


def runs_of(connection: Connection, tenant: UUID, models: list[str], limit: int) -> list[Row]:
    """The newest run that succeeded of each eval, of a model by any of these names."""
    return connection.execute(RUNS, (tenant, models, limit)).fetchall()


def eval_row(connection: Connection, tenant: UUID, eval_id: str) -> Row | None:
    """A deleted one too, with `deleted_at`."""
    return connection.execute(EVAL, (tenant, eval_id)).fetchone()


def data_of(connection: Connection, tenant: UUID, version_id: str) -> Row | None:
    """A dataset version with its gate and report."""
    return connection.execute(DATA, (tenant, version_id)).fetchone()


def ancestors(connection: Connection, tenant: UUID, model: str) -> list[Row]:
    """Models that this one stands on and that learned from something here: `model`, `data`, and of a dataset version
    `gate_passed` and `gate`. Nearest first."""
    return connection.execute(ANCESTORS, {"tenant": tenant, "model": model}).fetchall()


def is_erased(connection: Connection, tenant: UUID, model: str) -> bool:
    """Whether the model learned from rows that were erased since."""
    return connection.execute(ERASED, (tenant, model)).fetchone() is not None
