"""`/v1/training/jobs`: every way of training, one schema by `type`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from services.gateway.bodies import Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.docs import json_body
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs.pages import jobs_page
from services.gateway.jobs.submission import submit
from services.gateway.pages import PageDep, listing
from services.gateway.training.estimates import that_fits
from services.gateway.training.first_rows import of_the_right_sort
from services.gateway.training.methods import KINDS, CreateTraining
from shared import job_store

router = APIRouter(tags=["training"])

EXAMPLE = {
    "type": "head",
    "name": "intents",
    "head": "single_label",
    "model": "minilm",
    "training_file": "dsv-0123456789abcdef0123456789abcdef",
    "loss": "label_smoothing",
    "hyperparameters": {"n_epochs": 4},
}


@router.post("/v1/training/jobs", summary="Train a model", **json_body(CreateTraining, EXAMPLE))
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateTraining], Depends(incoming(CreateTraining))]
) -> dict[str, Any]:
    """Answers with a job, or refuses what no worker of the pool can hold (`does_not_fit`); the finished model is served
    under its name at once, and the figures on held-out rows stand in the job's result."""
    body, tenant = request.body.root, request.caller.tenant
    if body.asks_models:
        gateway.limiter.check_tokens(request.caller)
    return job_shapes.job(
        submit(
            gateway,
            request,
            body.kind,
            that_fits(
                gateway,
                tenant,
                body.kind,
                of_the_right_sort(
                    gateway.platform.artifacts, lambda connection: body.contract(connection, tenant)
                ),
            ),
            metadata=body.metadata,
            priority=body.priority,
            preemptible=body.may_be_preempted,
        )
    )


@router.get("/v1/training/jobs", summary="List training jobs")
def list_training(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first, fine-tuning among them. Events, cancel, pause and resume are those of /v1/jobs."""
    with gateway.db.transaction(caller.tenant) as connection:
        jobs, more = jobs_page(connection, caller, page, kinds=KINDS)
    return listing([job_shapes.job(job) for job in jobs], more)


@router.get("/v1/training/jobs/{job_id}", summary="One training job")
def retrieve(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        job = job_store.get(connection, job_id, kinds=KINDS)
        return job_shapes.job(job, job_store.position(connection, job))
