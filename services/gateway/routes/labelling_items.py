"""Items of a labelling project with all that was said of them, and how far people agree. Their owner's side."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request

from services.gateway.answering import questions
from services.gateway.auth import Caller
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.labelling import repository as labelling_repository
from services.gateway.labelling import shapes as label_shapes
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.routes.labelling import BASE, find
from shared.contracts.label_values import check_value
from shared.contracts.labelling import LabelAgreement, ProjectSpec
from shared.db import Connection, Row
from shared.errors import NotFound

router = APIRouter(tags=["labelling"])


class SetGold(Body):
    """The right answer of an item, as a labeller would send it."""

    value: dict[str, Any]


State = Literal["open", "adjudication", "done", "gold"]


@router.get(BASE + "/{project}/items", summary="Items of a project with their labels")
def list_items(
    project: str,
    gateway: GatewayDep,
    caller: CallerDep,
    page: PageDep,
    state: Annotated[State | None, Query()] = None,
) -> dict[str, Any]:
    """In the order of the source."""
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, project)
        if page.after and labelling_repository.get_item(connection, row["id"], page.after) is None:
            raise unknown_cursor(page.after)
        rows = labelling_repository.items(
            connection, row["id"], state=state, after=page.after, limit=page.limit + 1
        )
        shown = rows[: page.limit]
        labels = labelling_repository.labels_of(connection, [one["id"] for one in shown])
    found = [
        label_shapes.item(one, [label for label in labels if label["item_id"] == one["id"]]) for one in shown
    ]
    return listing(found, len(rows) > page.limit)


@router.get(BASE + "/{project}/items/{item_id}", summary="One item with its labels")
def retrieve_item(project: str, item_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        item = _item(connection, find(connection, caller, project), item_id)
        return label_shapes.item(item, labelling_repository.labels_of(connection, [item_id]))


@router.get(BASE + "/{project}/items/{item_id}/history", summary="Everything that was said of an item")
def item_history(
    project: str, item_id: str, gateway: GatewayDep, caller: CallerDep, page: PageDep
) -> dict[str, Any]:
    """The oldest first. Nothing of it is ever changed or taken away."""
    after = int(page.after) if page.after and page.after.isdecimal() and len(page.after) < 19 else None
    if page.after and after is None:
        raise unknown_cursor(page.after)
    with gateway.db.transaction(caller.tenant) as connection:
        _item(connection, find(connection, caller, project), item_id)
        rows = labelling_repository.history(connection, item_id, after, page.limit + 1)
    return listing([label_shapes.event(one) for one in rows[: page.limit]], len(rows) > page.limit)


@router.post(
    BASE + "/{project}/items/{item_id}/gold",
    summary="Say what is right for an item",
    **json_body(SetGold, {"value": {"label": "refund"}}),
)
def set_gold(
    project: str,
    item_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[SetGold], Depends(incoming(SetGold))],
) -> dict[str, Any]:
    """It measures labellers from then on, who see no difference."""
    caller = request.caller
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, project)
        item = _item(connection, row, item_id)
        value = check_value(ProjectSpec.model_validate(row["spec"]), item["data"], request.body.value)
        labelling_repository.set_gold(connection, row["id"], item_id, value)
    return retrieve_item(project, item_id, gateway, caller)


@router.get(BASE + "/{project}/agreement", summary="How far the labellers agree")
async def agreement(request: Request, project: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Cohen's kappa of two, Krippendorff's alpha of more or with gaps, F1 of spans; with each pair, and gold."""
    row = await to_thread.run_sync(_found, gateway, caller, project)
    found = await questions.answer(request, gateway, LabelAgreement(project_id=row["id"]))
    return {"object": "labelling.agreement", "project_id": row["id"], **found}


def _found(gateway: Gateway, caller: Caller, name: str) -> Row:
    with gateway.db.transaction(caller.tenant) as connection:
        return find(connection, caller, name)


def _item(connection: Connection, project: Row, item_id: str) -> Row:
    row = labelling_repository.get_item(connection, project["id"], item_id)
    if row is None:
        raise NotFound(f"the project has no item {item_id!r}", param="item_id")
    return row
