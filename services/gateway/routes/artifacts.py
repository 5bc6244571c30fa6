"""`/v1/artifacts/gc`: the operator's collection of what no row names any more."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from services.gateway.auth import operator_only
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import GatewayDep
from services.gateway.docs import json_body
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs.submission import submit
from shared.contracts.warehouse import CollectGarbage

router = APIRouter(tags=["operator"], dependencies=[Depends(operator_only)])


class Collect(Body):
    """What is younger than the grace is left alone: its row may still be on its way."""

    dry_run: bool = True
    grace_hours: float = Field(24.0, ge=1.0, le=24 * 365)


@router.post("/v1/artifacts/gc", summary="Remove what nothing names", **json_body(Collect, {"dry_run": True}))
def collect(
    gateway: GatewayDep, request: Annotated[Incoming[Collect], Depends(incoming(Collect))]
) -> dict[str, Any]:
    """Answers with the job. It removes versions that no retention keeps, then objects that no row of any tenant
    names; with `dry_run` it only counts them."""
    body = request.body
    contract = CollectGarbage(dry_run=body.dry_run, grace_hours=body.grace_hours)
    return job_shapes.job(submit(gateway, request, CollectGarbage, lambda _: contract))
