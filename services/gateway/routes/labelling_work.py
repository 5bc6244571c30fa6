"""`/v1/labelling/projects/{project}/work`: what a person with a labelling token can do, and all of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from services.gateway.auth import Caller
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.docs import json_body
from services.gateway.labelling import repository as labelling_repository
from services.gateway.labelling import shapes as label_shapes
from services.gateway.labelling import work as label_work
from services.gateway.labelling import work_repository as label_work_repository
from services.gateway.labelling.work import Labeller
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.routes.labelling import BASE
from shared.contracts.labelling import ProjectSpec
from shared.db import Connection
from shared.errors import HeliuError, InvalidInput, NotFound

router = APIRouter(tags=["labelling"])

WORK = BASE + "/{project}/work"
MOST_HELD = 10
LONGEST_S = 86_400.0
Queue = Literal["label", "adjudication"]


class NextItems(Body):
    """`count` items at most are held at once: one to look at, and others that are there before they are asked for."""

    queue: Queue = "label"
    count: int = Field(1, ge=1, le=MOST_HELD)


class SendLabel(Body):
    """A `value` or a `skip`; `seconds` is how long it took. The same again changes nothing, another corrects it."""

    queue: Queue = "label"
    value: dict[str, Any] | None = None
    skip: bool = False
    seconds: float | None = Field(None, ge=0, le=LONGEST_S)


@router.get(WORK, summary="What there is to do")
def work(project: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """The project's question, and how far the labeller is; to a platform key the question alone."""
    with gateway.db.transaction(caller.tenant) as connection:
        if caller.project is None:
            row = labelling_repository.get_project(connection, caller.tenant, project)
            if row is None:
                raise _no_project(project)
            shape = label_shapes.work_project(row["id"], row["name"], row["spec"])
            return {"object": "labelling.work", "project": shape, "labeller": None, "progress": None}
        me = _labeller(connection, caller, project)
        return label_shapes.work(me, label_work_repository.own_progress(connection, me.project, me.id))


@router.post(WORK + "/next", summary="Get items to label", **json_body(NextItems, {"count": 3}))
def next_items(
    project: str, gateway: GatewayDep, request: Annotated[Incoming[NextItems], Depends(incoming(NextItems))]
) -> dict[str, Any]:
    """Those that the labeller holds first, so that a page that was reloaded goes on where it was."""
    caller, body = request.caller, request.body
    with gateway.db.transaction(caller.tenant) as connection:
        me = _labeller(connection, caller, project, lock=True)
        rows = label_work.next_items(connection, me, body.queue, body.count)
    return listing([label_shapes.work_item(row) for row in rows], False)


@router.post(
    WORK + "/items/{item_id}/labels",
    summary="Label, skip or correct an item",
    **json_body(SendLabel, {"value": {"label": "refund"}, "seconds": 2.5}),
)
def send_label(
    project: str,
    item_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[SendLabel], Depends(incoming(SendLabel))],
) -> dict[str, Any]:
    """Once this has answered, the label is stored; whoever hears no answer sends it again."""
    caller, body = request.caller, request.body
    with gateway.db.transaction(caller.tenant) as connection:
        me = _labeller(connection, caller, project)
        if (body.value is None) != body.skip:
            raise InvalidInput('give a "value", or "skip": true, and not both', param="value")
        taken = label_work.answer(connection, me, item_id, body.queue, body.value, body.seconds)
    return {"id": item_id, "object": "labelling.work.label", **taken}


@router.get(WORK + "/labels", summary="One's own labels")
def own_labels(project: str, gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first, skips too: what may be corrected. A platform key has none of its own."""
    with gateway.db.transaction(caller.tenant) as connection:
        if caller.project is None:
            if labelling_repository.get_project(connection, caller.tenant, project) is None:
                raise _no_project(project)
            return listing([], False)
        me = _labeller(connection, caller, project)
        if page.after and not label_work_repository.owned(connection, me.id, page.after):
            raise unknown_cursor(page.after)
        rows = label_work_repository.own_labels(connection, me.id, page.after, page.limit + 1)
    return listing([label_shapes.own_label(row) for row in rows[: page.limit]], len(rows) > page.limit)


def _labeller(connection: Connection, caller: Caller, project: str, *, lock: bool = False) -> Labeller:
    """Who labels. Raises NotFound for another tenant's project, `permission_denied` for a platform key."""
    if caller.project is None:
        if labelling_repository.get_project(connection, caller.tenant, project) is None:
            raise _no_project(project)
        raise HeliuError(
            "labels are given by people: send the token of a labeller of this project "
            f"(POST {BASE}/{project}/labellers makes one)",
            code="permission_denied",
        )
    assert caller.key_id is not None
    row = label_work_repository.me(connection, caller.key_id, project, lock=lock)
    if row is None:
        raise _no_project(project)
    return Labeller(
        id=row["id"],
        name=row["name"],
        tenant=caller.tenant,
        adjudicates=row["adjudicates"],
        project=row["project_id"],
        project_name=row["project_name"],
        spec=ProjectSpec.model_validate(row["spec"]),
    )


def _no_project(name: str) -> NotFound:
    return NotFound(f"no labelling project {name!r}", param="project")
