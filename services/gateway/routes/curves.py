"""The curves of a training run, thinned for a plot, and its event file for TensorBoard."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse

from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.jobs import shapes as job_shapes
from services.gateway.training.curves import curves
from services.gateway.training.methods import KINDS
from shared import job_metrics, job_store
from shared.errors import Conflict, InvalidInput, NotFound
from shared.jobs import TERMINAL, Job, Status

router = APIRouter(tags=["training"])

MAX_METRICS = 64


@router.get("/v1/training/jobs/{job_id}/curves", summary="The curves of a training job")
def read(
    job_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    metrics: Annotated[
        str | None, Query(max_length=4096, description="Names, with commas between; all of them by default.")
    ] = None,
    points: Annotated[
        int, Query(ge=4, le=10_000, description="Most points of a metric; its peaks and dips stay.")
    ] = 500,
    after_step: Annotated[
        int | None, Query(ge=0, description="Only steps behind this one, to go on where a reader was.")
    ] = None,
) -> dict[str, Any]:
    """Of any training job, a fine-tuning job too, while it runs and afterwards; a point is [step, value, unix time].

    A run that goes on from a checkpoint tells the steps behind it again, with the same numbers: a reader whose
    `after_step` is over `last_step` reads anew from there."""
    names = _names(metrics)
    with gateway.db.transaction(caller.tenant) as connection:
        job = job_store.get(connection, job_id, kinds=KINDS)
        told = job_metrics.steps(connection, job_id, after=-1 if after_step is None else after_step)
        found, last = curves(told, points, names)
    return {
        "object": "training.curves",
        "job_id": job.id,
        "status": job.state.value,
        "last_step": last if last is not None else after_step,
        "total_steps": job.progress.get("total_steps"),
        "estimated_finish": job_shapes.estimated_finish(job),
        "data": [
            {
                "metric": name,
                "count": curve.count,
                "min": curve.low,
                "max": curve.high,
                "points": [[p.step, p.value, p.at] for p in curve.points],
            }
            for name, curve in found.items()
        ],
    }


def _names(metrics: str | None) -> frozenset[str] | None:
    if metrics is None:
        return None
    names = [name.strip() for name in metrics.split(",")]
    if not all(names) or len(names) > MAX_METRICS:
        raise InvalidInput(
            f"metrics must be up to {MAX_METRICS} names with commas between, got {metrics[:80]!r}",
            param="metrics",
        )
    return frozenset(names)


@router.get(
    "/v1/training/jobs/{job_id}/tensorboard",
    summary="TensorBoard's event file of a training job, in a zip",
    response_class=FileResponse,
)
def tensorboard(job_id: str, gateway: GatewayDep, caller: CallerDep) -> FileResponse:
    """There once the job has ended or is paused: each step once, in order, however often the run was interrupted."""
    job = _job(gateway, caller, job_id)
    artifact = (job.result or {}).get("tensorboard") or job.progress.get("tensorboard")
    if job.state not in TERMINAL and job.state is not Status.PAUSED:
        raise Conflict(
            f"{job_id} is {job.state.value}; its event file is made when it ends, and "
            f"/v1/training/jobs/{job_id}/curves has its curves now"
        )
    if artifact is None:
        raise NotFound(f"{job_id} told of no step, so there is no event file of it", param="job_id")
    path = gateway.artifacts.path(artifact)
    return FileResponse(path, media_type="application/zip", filename=f"{job_id}-tensorboard.zip")


def _job(gateway: Gateway, caller: CallerDep, job_id: str) -> Job:
    with gateway.db.transaction(caller.tenant) as connection:
        return job_store.get(connection, job_id, kinds=KINDS)
