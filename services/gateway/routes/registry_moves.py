"""`/v1/registry/NAME/...`: stages, promotion, canary, roll-back; what waits for a second key, and what it says."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from pydantic import Field

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.pages import listing
from services.gateway.registry import approvals as registry_approvals
from services.gateway.registry import decisions as registry_gate
from services.gateway.registry import decisions_repository as decisions
from services.gateway.registry import shapes as registry_shapes
from services.gateway.registry import store as registry_store
from services.gateway.registry.checks import reasons
from services.gateway.registry.releases import registered, version
from services.gateway.registry.repository import Move
from services.gateway.routes.registry import Reason, answer
from shared.contracts.model_registry import LEGAL
from shared.errors import Conflict, InvalidInput

router = APIRouter(tags=["registry"])

MOST_REQUESTS = 1000


class Moved(Body):
    reason: Reason


class Promotion(Body):
    decision: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="a decision of the gate for this version against what is in production; made now without one",
    )
    reason: Reason


class Canary(Promotion):
    share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="of the callers, in steps of 0.0001; that of the canary's rule without it",
    )


class RollBack(Body):
    from_version: int | None = Field(
        default=None, ge=1, description="roll back only if this version is in production"
    )
    reason: Reason


@router.post(
    "/v1/registry/{name}/versions/{number}/stage",
    summary="Put a version up for promotion",
    response_model=None,
    **json_body(Moved, {"reason": "the July data"}),
)
def stage(
    name: str,
    number: int,
    gateway: GatewayDep,
    request: Annotated[Incoming[Moved], Depends(incoming(Moved))],
) -> Response:
    """candidate or archived -> staging. It answers nobody but by its number."""
    return _moved(gateway, request, name, Move("stage", number))


@router.post(
    "/v1/registry/{name}/versions/{number}/archive",
    summary="Put a version away",
    response_model=None,
    **json_body(Moved, {"reason": "superseded"}),
)
def archive(
    name: str,
    number: int,
    gateway: GatewayDep,
    request: Annotated[Incoming[Moved], Depends(incoming(Moved))],
) -> Response:
    """candidate or staging -> archived; its model may be deleted then. What is in production is followed by a
    promotion or a roll-back."""
    return _moved(gateway, request, name, Move("archive", number))


@router.post(
    "/v1/registry/{name}/versions/{number}/promote",
    summary="Put a version into production",
    response_model=None,
    **json_body(Promotion, {"reason": "better on every slice"}),
)
def promote(
    name: str,
    number: int,
    gateway: GatewayDep,
    request: Annotated[Incoming[Promotion], Depends(incoming(Promotion))],
) -> Response:
    """staging -> production, by a passed decision of its gate; from the next request on it answers all callers. 202
    where a second key has to approve, 409 `promotion_blocked` with the reasons where the gate holds it back."""
    decision = _decision(gateway, request, name, number, "promote")
    return _moved(gateway, request, name, Move("promote", number, decision=decision))


@router.post(
    "/v1/registry/{name}/versions/{number}/canary",
    summary="Give a version a share of the callers",
    response_model=None,
    **json_body(Canary, {"share": 0.05}),
)
def canary(
    name: str,
    number: int,
    gateway: GatewayDep,
    request: Annotated[Incoming[Canary], Depends(incoming(Canary))],
) -> Response:
    """Beside what is in production, behind the same gate. The same `user` always gets the same version. With a
    `canary_rule` it loses its share by itself (`model.canary_stopped`), within about a minute of what breaks that."""
    share = registry_store.parts_of(_share(gateway, request, name))
    decision = _decision(gateway, request, name, number, "canary")
    return _moved(gateway, request, name, Move("canary", number, share, decision))


@router.delete("/v1/registry/{name}/canary", summary="End the canary", response_model=None)
def end_canary(name: str, gateway: GatewayDep, caller: CallerDep) -> Response:
    """All callers get production again; the version stays in staging."""
    with gateway.db.transaction(caller.tenant) as connection:
        found = registered(connection, caller.tenant, name)
        registry_store.move(connection, caller, found, Move("end_canary"))
        return answer(registered(connection, caller.tenant, name), None)


@router.post(
    "/v1/registry/{name}/rollback",
    summary="Go back to the version before",
    **json_body(RollBack, {"reason": "complaints about refunds"}),
)
def roll_back(
    name: str, gateway: GatewayDep, request: Annotated[Incoming[RollBack], Depends(incoming(RollBack))]
) -> dict[str, Any]:
    """From the next request on; a canary ends too. Once more goes one further back. Needs no gate and no second key:
    the version has passed its own."""
    body = request.body
    with gateway.db.transaction(request.caller.tenant) as connection:
        found, _ = registry_store.roll_back(connection, request.caller, name, body.from_version, body.reason)
    return registry_shapes.registered(found)


@router.get("/v1/registry/{name}/requests", summary="What waits, or waited, for a second key")
def list_requests(name: str, gateway: GatewayDep, caller: CallerDep, open: bool = False) -> dict[str, Any]:
    """Newest first; with `open`, those that can be answered yet."""
    with gateway.db.transaction(caller.tenant) as connection:
        found = registered(connection, caller.tenant, name)
        rows = decisions.requests(connection, found["id"], open_only=open, limit=MOST_REQUESTS)
    return listing([registry_shapes.request(name, row) for row in rows], False)


@router.post(
    "/v1/registry/{name}/requests/{request_id}/approve",
    summary="Approve what another key asked for",
    **json_body(Moved, {}),
)
def approve(
    name: str,
    request_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[Moved], Depends(incoming(Moved))],
) -> dict[str, Any]:
    """It happens now, if the decision that it stands on still holds. Whoever asked cannot approve."""
    with gateway.db.transaction(request.caller.tenant) as connection:
        found, _ = registry_approvals.approve(connection, request.caller, name, request_id)
    return registry_shapes.registered(found)


@router.post(
    "/v1/registry/{name}/requests/{request_id}/reject",
    summary="Refuse, or take back, what was asked for",
    **json_body(Moved, {"reason": "wait for the new eval"}),
)
def reject(
    name: str,
    request_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[Moved], Depends(incoming(Moved))],
) -> dict[str, Any]:
    with gateway.db.transaction(request.caller.tenant) as connection:
        row = registry_approvals.reject(connection, request.caller, name, request_id, request.body.reason)
    return registry_shapes.request(name, row)


def _share(gateway: Gateway, request: Incoming[Canary], name: str) -> float:
    if request.body.share is not None:
        return request.body.share
    with gateway.db.transaction(request.caller.tenant) as connection:
        rule = registered(connection, request.caller.tenant, name)["canary_rule"] or {}
    if "share" not in rule:
        raise InvalidInput(
            "say which share of the callers it gets, such as 0.05; the rule of its canaries has none",
            code="missing_required_parameter",
            param="share",
        )
    return float(rule["share"])


def _moved(gateway: Gateway, request: Incoming[Any], name: str, wanted: Move) -> Response:
    caller = request.caller
    with gateway.db.transaction(caller.tenant) as connection:
        found = registered(connection, caller.tenant, name)
        asked = registry_store.move(connection, caller, found, wanted, request.body.reason)
        return answer(registered(connection, caller.tenant, name), asked)


def _decision(gateway: Gateway, request: Incoming[Any], name: str, number: int, action: Any) -> str:
    """The decision to act on: the given one, or one made now. Raises Conflict where it is not passed."""
    caller = request.caller
    with gateway.db.transaction(caller.tenant) as connection:
        found = registered(connection, caller.tenant, name)
        row = version(connection, found, number)
        if (action, row["stage"]) not in LEGAL:
            hint = "; stage it first" if row["stage"] in ("candidate", "archived") else ""
            raise Conflict(
                f"version {number} is {row['stage']}{hint}", code="illegal_transition", param="version"
            )
        given = request.body.decision
        made = registry_gate.decision(connection, found, given) if given is not None else None
    if made is None:
        made = registry_gate.evaluate(gateway.db, caller, name, number, registry_gate.Runs())
    if made["verdict"] != "passed":
        with gateway.db.transaction(caller.tenant) as connection:
            blocked = registry_store.blocked(connection, caller, name, made, reasons(made["checks"]))
        raise blocked
    return str(made["id"])
