"""`/v1/training/estimates`: what a training job would take, before it is submitted."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from services.gateway.bodies import Incoming, incoming
from services.gateway.context import GatewayDep
from services.gateway.docs import json_body
from services.gateway.routes.training import EXAMPLE
from services.gateway.training.distilling import trained_by
from services.gateway.training.estimates import estimate
from services.gateway.training.methods import CreateTraining
from services.gateway.training.places import places_of

router = APIRouter(tags=["training"])


@router.post(
    "/v1/training/estimates",
    summary="Memory, steps and time of a training job",
    **json_body(CreateTraining, EXAMPLE),
)
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateTraining], Depends(incoming(CreateTraining))]
) -> dict[str, Any]:
    """Takes what /v1/training/jobs takes, and submits nothing. `basis` says what each figure goes by; what is not
    known is null. `seconds` of a distillation are those of its student's training and of all answers, which are also
    told as `answering_seconds`. `fits` is whether some worker of the pool can hold the run; `would_fit` what could be
    changed."""
    body, tenant = request.body.root, request.caller.tenant
    with gateway.db.transaction(tenant) as connection:
        contract = body.contract(connection, tenant)
    queue = trained_by(contract).queue_for(gateway.settings.pool)
    places = places_of(gateway.db, queue)
    with gateway.db.transaction(tenant) as connection:
        return estimate(connection, tenant, gateway.artifacts, contract, queue, places)
