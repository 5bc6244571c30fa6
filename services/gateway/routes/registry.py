"""`/v1/registry`: registered models, called as `model="registry:NAME"`; their versions, history and cards."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse, Response
from pydantic import Field, field_validator

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.docs import json_body
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.registry import card as model_card
from services.gateway.registry import repository
from services.gateway.registry import shapes as registry_shapes
from services.gateway.registry import store as registry_store
from services.gateway.registry.cards import card_of, gather
from services.gateway.registry.releases import registered, version
from shared.contracts.model_registry import NAME, Approval, CanaryRule, GateRules
from shared.db import Row

router = APIRouter(tags=["registry"])

GATES = {"eval_id": "eval_0123456789ab", "margin": 0.02, "slice_margin": 0.05, "min_items": 200}
RULE = {
    "share": 0.05,
    "stop_when": {"error_rate_above": 0.05, "latency_p95_above_ms": 4000},
    "min_requests": 50,
}
Reason = Annotated[str | None, Field(default=None, min_length=1, max_length=2000)]
Format = Annotated[Literal["json", "md"], Query(description="JSON, or Markdown to read")]


class CreateRegistered(Body):
    name: str
    description: str | None = Field(default=None, max_length=2000)
    gates: GateRules = GateRules()
    approval: Approval = Field("none", description="`required`: a promotion or canary waits for a second key")
    canary_rule: CanaryRule | None = Field(
        default=None, description="when a canary loses its share by itself"
    )

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("a name has 1 to 64 of a-z, 0-9, - and _, and begins with a letter or digit")
        return value


class ChangeRegistered(Body):
    description: str | None = Field(default=None, max_length=2000)
    gates: GateRules | None = None
    approval: Approval | None = None
    canary_rule: CanaryRule | None = Field(default=None, description="null takes it away")
    reason: Reason


class AddVersion(Body):
    model: str = Field(min_length=1, max_length=256)
    note: str | None = Field(default=None, max_length=2000)


@router.post(
    "/v1/registry",
    summary="Register a name",
    **json_body(
        CreateRegistered, {"name": "service", "gates": GATES, "approval": "none", "canary_rule": RULE}
    ),
)
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateRegistered], Depends(incoming(CreateRegistered))]
) -> dict[str, Any]:
    """A name that answers once a version is in production. `gates` are what a version must show before."""
    body, caller = request.body, request.caller
    with gateway.db.transaction(caller.tenant) as connection:
        made = registry_store.create(
            connection, caller, body.name, body.description, body.gates, body.approval, body.canary_rule
        )
    return registry_shapes.registered(made)


@router.get("/v1/registry", summary="List registered models")
def list_registered(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first."""
    with gateway.db.transaction(caller.tenant) as connection:
        if page.after and not repository.existed(connection, page.after):
            raise unknown_cursor(page.after)
        rows = repository.list_all(connection, caller.tenant, page.after, page.limit + 1)
    shown = [registry_shapes.registered(row) for row in rows[: page.limit]]
    return listing(shown, len(rows) > page.limit)


@router.get("/v1/registry/{name}", summary="One registered model")
def retrieve(name: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        return registry_shapes.registered(registered(connection, caller.tenant, name))


@router.post(
    "/v1/registry/{name}",
    summary="Change description, gates, approval or the canary's rule",
    response_model=None,
    **json_body(ChangeRegistered, {"gates": GATES}),
)
def change(
    name: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[ChangeRegistered], Depends(incoming(ChangeRegistered))],
) -> Response:
    """What is left out stays. Where approval is required it is so for this too: 202 with the request that waits."""
    body, caller = request.body, request.caller
    with gateway.db.transaction(caller.tenant) as connection:
        row, asked = registry_store.change(
            connection,
            caller,
            name,
            description=body.description,
            gates=body.gates,
            approval=body.approval,
            canary_rule=(body.canary_rule,) if "canary_rule" in body.model_fields_set else None,
            reason=body.reason,
        )
    return answer(row, asked)


def answer(row: Row, asked: Row | None) -> Response:
    """The registered model as it is now; or what waits for a second key."""
    if asked is not None:
        return JSONResponse(registry_shapes.request(row["name"], asked), status_code=202)
    return JSONResponse(registry_shapes.registered(row))


@router.delete("/v1/registry/{name}", summary="Delete a registered model")
def delete(name: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """The name answers no more; its models stay. Refused while tasks, graders of evals or other gates name it, and
    where approval is required: by a new one of the same name a key alone would go round that."""
    with gateway.db.transaction(caller.tenant) as connection:
        registry_store.delete(connection, caller, name)
    return {"id": name, "object": "registered_model", "deleted": True}


@router.post(
    "/v1/registry/{name}/versions",
    summary="Add a version",
    **json_body(AddVersion, {"model": "ft:base-1m:heliu:0123abcd", "note": "trained on the July data"}),
)
def add_version(
    name: str, gateway: GatewayDep, request: Annotated[Incoming[AddVersion], Depends(incoming(AddVersion))]
) -> dict[str, Any]:
    """A model of any kind becomes a candidate, called as `registry:NAME@VERSION` alone until it is promoted."""
    with gateway.db.transaction(request.caller.tenant) as connection:
        found, row = registry_store.add(
            connection, request.caller, name, request.body.model, request.body.note
        )
    return registry_shapes.version(found, row)


@router.get("/v1/registry/{name}/versions", summary="List the versions of a registered model")
def list_versions(name: str, gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first, each with its stage, its share of the callers and what it has answered so far."""
    number = _number(page.after.removeprefix(f"{name}@"), page.after) if page.after else None
    with gateway.db.transaction(caller.tenant) as connection:
        found = registered(connection, caller.tenant, name)
        rows = repository.versions(connection, found["id"], number, page.limit + 1)
        used = repository.usage_by_version(connection, caller.tenant, found)
    shown = [registry_shapes.version(found, row, used.get(row["version"])) for row in rows[: page.limit]]
    return listing(shown, len(rows) > page.limit)


@router.get("/v1/registry/{name}/versions/{number}", summary="One version of a registered model")
def retrieve_version(name: str, number: int, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        found = registered(connection, caller.tenant, name)
        row = version(connection, found, number)
        used = repository.usage_by_version(connection, caller.tenant, found)
    return registry_shapes.version(found, row, used.get(number))


@router.get("/v1/registry/{name}/history", summary="Who answered, and who changed that")
def history(name: str, gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first; nothing of it is ever changed. Each says who answers from then on, by which decision."""
    after = _number(page.after, page.after) if page.after else None
    with gateway.db.transaction(caller.tenant) as connection:
        found = registered(connection, caller.tenant, name)
        rows = repository.events(connection, found["id"], after, page.limit + 1)
    shown = [registry_shapes.event(name, row) for row in rows[: page.limit]]
    return listing(shown, len(rows) > page.limit)


@router.get(
    "/v1/registry/{name}/versions/{number}/card", summary="The model card of a version", response_model=None
)
def version_card(
    name: str, number: int, gateway: GatewayDep, caller: CallerDep, format: Format = "json"
) -> Response:
    """What it is, what it learned from, how it was made and tested, and the history of its stages."""
    with gateway.db.transaction(caller.tenant) as connection:
        found = registered(connection, caller.tenant, name)
        row = version(connection, found, number)
        gathered = gather(connection, caller.tenant, row["model_id"], (found, row))
    return shown_card(card_of(gathered, gateway.artifacts), format)


@router.get("/v1/models/{model}/card", summary="The model card of a model", response_model=None)
def card(model: str, gateway: GatewayDep, caller: CallerDep, format: Format = "json") -> Response:
    """The same of any model, without a stage; a registered name is its version in production."""
    with gateway.db.transaction(caller.tenant) as connection:
        gathered = gather(connection, caller.tenant, model, None)
    return shown_card(card_of(gathered, gateway.artifacts), format)


def shown_card(card: dict[str, Any], format_: str) -> Response:
    if format_ == "json":
        return JSONResponse(card)
    # As an attachment's type: no browser takes what stands in a card for a page.
    return Response(model_card.markdown(card), media_type="text/markdown; charset=utf-8")


def _number(text: str, cursor: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise unknown_cursor(cursor)
    return int(text)
