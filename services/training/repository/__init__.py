"""SQL of models and training checkpoints."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection
from shared.errors import Conflict

ADD_MODEL = """
INSERT INTO training.model (tenant_id, id, kind, base_id, artifact, base_artifact, job_id, dataset_version, info)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, id) DO NOTHING"""

MODEL_JOB = "SELECT job_id FROM training.model WHERE tenant_id = %s AND id = %s"

ADD_TO_INFO = "UPDATE training.model SET info = info || %s WHERE tenant_id = %s AND id = %s AND job_id = %s"

ADD_CHECKPOINT = """
INSERT INTO training.checkpoint (id, tenant_id, job_id, step, epoch, artifact, model_id, metrics)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (job_id, step) DO UPDATE SET artifact = EXCLUDED.artifact, metrics = EXCLUDED.metrics,
    epoch = EXCLUDED.epoch"""


def add_model(
    connection: Connection,
    tenant: UUID,
    model_id: str,
    *,
    artifact: str,
    job_id: str,
    dataset_version: str,
    info: dict[str, Any],
    base_id: str | None = None,
    base_artifact: str | None = None,
    kind: str | None = None,
) -> None:
    """Register a model, by default an adapter where `base_artifact` is given, else a base.

    Raises Conflict for a name that is taken.
    """
    kind = kind or ("base" if base_artifact is None else "adapter")
    connection.execute(
        ADD_MODEL,
        (tenant, model_id, kind, base_id, artifact, base_artifact, job_id, dataset_version, Jsonb(info)),
    )
    row = connection.execute(MODEL_JOB, (tenant, model_id)).fetchone()
    assert row is not None
    if row["job_id"] != job_id:
        raise Conflict(
            f"a model {model_id!r} exists already; choose another name", code="model_exists", param="name"
        )


def add_to_info(
    connection: Connection, tenant: UUID, model_id: str, job_id: str, info: dict[str, Any]
) -> None:
    """What became known of a job's model after it was registered, over what stands there by the same names."""
    connection.execute(ADD_TO_INFO, (Jsonb(info), tenant, model_id, job_id))


def is_taken(connection: Connection, tenant: UUID, model_id: str, job_id: str) -> bool:
    """Whether another job's model has or had this name."""
    row = connection.execute(MODEL_JOB, (tenant, model_id)).fetchone()
    return row is not None and row["job_id"] != job_id


def add_checkpoint(
    connection: Connection,
    checkpoint_id: str,
    tenant: UUID,
    job_id: str,
    *,
    step: int,
    epoch: int,
    artifact: str,
    model_id: str,
    metrics: dict[str, Any],
) -> None:
    """Store a checkpoint; the same step again (after a resume) replaces what it holds and keeps its id."""
    connection.execute(
        ADD_CHECKPOINT, (checkpoint_id, tenant, job_id, step, epoch, artifact, model_id, Jsonb(metrics))
    )


def set_checkpoint(connection: Connection, job_id: str, step: int, artifact: str) -> None:
    """Point the job at its last whole checkpoint; the caller holds the fence."""
    pointer = {"checkpoint": {"step": step, "artifact": artifact}}
    connection.execute(
        "UPDATE core.job SET progress = progress || %s WHERE id = %s", (Jsonb(pointer), job_id)
    )
