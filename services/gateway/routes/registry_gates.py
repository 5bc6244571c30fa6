"""`/v1/registry/NAME/...`: the gate of a version, the decisions that it led to, and what is let through by name."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.docs import json_body
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.registry import approvals as registry_approvals
from services.gateway.registry import decisions as registry_gate
from services.gateway.registry import decisions_repository as repository
from services.gateway.registry import shapes as registry_shapes
from services.gateway.registry.releases import registered, version

router = APIRouter(tags=["registry"])

RunId = Annotated[str | None, Field(default=None, min_length=1, max_length=256)]


class Gate(Body):
    """Eval runs to look at; without them the newest that succeeded of each model."""

    candidate_run: RunId
    champion_run: RunId
    baseline_run: RunId


class Waive(Body):
    check: str = Field(min_length=1, max_length=200, description="as a decision names it")
    reason: str = Field(min_length=1, max_length=2000)
    days: float = Field(default=7, gt=0, le=90, description="until it expires")


@router.post(
    "/v1/registry/{name}/versions/{number}/gate",
    summary="Ask the gate of a version",
    **json_body(Gate, {}),
)
def gate(
    name: str,
    number: int,
    gateway: GatewayDep,
    request: Annotated[Incoming[Gate], Depends(incoming(Gate))],
) -> dict[str, Any]:
    """A decision: each check with its figures, the verdict, and the record of what it was made of, kept for good. It
    may be acted on until it expires, or what is in production changes."""
    body = request.body
    runs = registry_gate.Runs(body.candidate_run, body.champion_run, body.baseline_run)
    made = registry_gate.evaluate(gateway.db, request.caller, name, number, runs)
    return registry_shapes.decision(name, made)


@router.get("/v1/registry/{name}/decisions", summary="List the decisions of a registered model")
def list_decisions(
    name: str,
    gateway: GatewayDep,
    caller: CallerDep,
    page: PageDep,
    number: Annotated[int | None, Query(alias="version", ge=1, le=1_000_000)] = None,
) -> dict[str, Any]:
    """Newest first, without their records."""
    with gateway.db.transaction(caller.tenant) as connection:
        found = registered(connection, caller.tenant, name)
        if page.after and repository.decision(connection, found["id"], page.after) is None:
            raise unknown_cursor(page.after)
        rows = repository.decisions(connection, found["id"], number, page.after, page.limit + 1)
    shown = [registry_shapes.decision(name, row, full=False) for row in rows[: page.limit]]
    return listing(shown, len(rows) > page.limit)


@router.get("/v1/registry/{name}/decisions/{decision_id}", summary="One decision")
def retrieve_decision(
    name: str, decision_id: str, gateway: GatewayDep, caller: CallerDep, replay: bool = False
) -> dict[str, Any]:
    """With `replay`, made again of the same items and facts: `same` says whether it comes out the same, `intact`
    whether the record is as it was written."""
    with gateway.db.transaction(caller.tenant) as connection:
        found = registered(connection, caller.tenant, name)
        shape = registry_shapes.decision(name, registry_gate.decision(connection, found, decision_id))
    if not replay:
        return shape
    return {**shape, "replay": registry_gate.replay(gateway.db, caller, name, decision_id)}


@router.post(
    "/v1/registry/{name}/versions/{number}/waivers",
    summary="Let one check of a version fail",
    **json_body(Waive, {"check": "slice:language=zh", "reason": "40 items; looked at by hand", "days": 3}),
)
def waive(
    name: str,
    number: int,
    gateway: GatewayDep,
    request: Annotated[Incoming[Waive], Depends(incoming(Waive))],
) -> dict[str, Any]:
    """Another key may promote in spite of it until it expires; whoever waives does not. That trainer and engine agree,
    that both runs had the same items, leakage and erasure cannot be waived."""
    body = request.body
    with gateway.db.transaction(request.caller.tenant) as connection:
        made = registry_approvals.waive(
            connection, request.caller, name, number, body.check, body.reason, body.days
        )
    return registry_shapes.waiver(name, made)


@router.get("/v1/registry/{name}/versions/{number}/waivers", summary="List the waivers of a version")
def list_waivers(name: str, number: int, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Those that have not expired, newest first."""
    with gateway.db.transaction(caller.tenant) as connection:
        found = registered(connection, caller.tenant, name)
        version(connection, found, number)
        rows = repository.waivers(connection, found["id"], number)
    return listing([registry_shapes.waiver(name, row) for row in rows], False)
