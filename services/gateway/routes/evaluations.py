"""`/v1/evaluations`: a model's answers to a dataset version's held-out conversations, scored."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.docs import json_body
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs.metadata import Metadata
from services.gateway.jobs.pages import jobs_page
from services.gateway.jobs.submission import submit
from services.gateway.models import resolve
from services.gateway.pages import PageDep, listing
from shared import job_store
from shared.contracts.training import Evaluate
from shared.db import Connection

router = APIRouter(tags=["evaluation"])

KINDS = (Evaluate.kind,)


class CreateEvaluation(Body):
    model: str = Field(min_length=1, max_length=256)
    dataset_version: str = Field(min_length=1, max_length=256)
    limit: int = Field(200, ge=1, le=100_000)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    metadata: Metadata | None = None


EXAMPLE = {"model": "base-1m", "dataset_version": "dsv-0123456789abcdef0123456789abcdef", "limit": 200}


@router.post(
    "/v1/evaluations",
    summary="Score a model on held-out conversations",
    **json_body(CreateEvaluation, EXAMPLE),
)
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateEvaluation], Depends(incoming(CreateEvaluation))]
) -> dict[str, Any]:
    """Greedy answers to the validation split of the version; the scores stand in the job's result."""
    body, tenant = request.body, request.caller.tenant

    def make(connection: Connection) -> Evaluate:
        return Evaluate(
            model=resolve.base_ref(resolve.model_row(connection, tenant, body.model)),
            data=resolve.version_ref(connection, tenant, body.dataset_version, param="dataset_version"),
            limit=body.limit,
            seed=body.seed,
        )

    return job_shapes.job(submit(gateway, request, Evaluate, make, metadata=body.metadata))


@router.get("/v1/evaluations", summary="List evaluations")
def list_evaluations(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        jobs, more = jobs_page(connection, caller, page, kinds=KINDS)
    return listing([job_shapes.job(job) for job in jobs], more)


@router.get("/v1/evaluations/{job_id}", summary="One evaluation")
def retrieve(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        job = job_store.get(connection, job_id, kinds=KINDS)
        return job_shapes.job(job, job_store.position(connection, job))
