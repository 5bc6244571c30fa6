"""`/v1/marking`: how generated answers are marked as such, of a tenant and of single tasks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from fastapi import Path as PathParameter
from pydantic import Field

from services.gateway import keys_repository
from services.gateway.adaptation import repository as tasks_repository
from services.gateway.answering import marking_repository as repository
from services.gateway.auth import Caller
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.shapes import unix
from shared.contracts.marking import Marking
from shared.db import Row
from shared.errors import NotFound

router = APIRouter(tags=["tasks"])

TaskName = Annotated[str, PathParameter(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class SetMarking(Body):
    """`visible` puts a label into the text, in its language, and metadata beside it; `metadata` puts them alone."""

    mode: Literal["off", "metadata", "visible"]
    place: Literal["start", "end"] = "end"
    language: Literal["auto", "zh", "en"] = "auto"
    producer: str = Field(default="", max_length=256)
    propagator: str = Field(default="", max_length=256)


EXAMPLE = {"mode": "visible", "place": "end", "language": "auto", "producer": "Example Ltd"}
Wanted = Annotated[Incoming[SetMarking], Depends(incoming(SetMarking))]


@router.get("/v1/marking", summary="How answers are marked")
def retrieve(gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Of the tenant, and of the tasks that have a marking of their own."""
    with gateway.db.transaction(caller.tenant) as connection:
        rows = repository.list_markings(connection, caller.tenant)
    default = next((row["spec"] for row in rows if not row["task"]), Marking().model_dump())
    tasks = {row["task"]: row["spec"] for row in rows if row["task"]}
    return {"object": "marking", **default, "tasks": tasks}


@router.put("/v1/marking", summary="Mark the answers of a tenant", **json_body(SetMarking, EXAMPLE))
def set_default(gateway: GatewayDep, request: Wanted) -> dict[str, Any]:
    """Of all models, and of tasks without a marking of their own; from the next answer on."""
    return _set(gateway, request, "")


@router.put(
    "/v1/tasks/{name}/marking", summary="Mark the answers of a task", **json_body(SetMarking, EXAMPLE)
)
def set_task(name: TaskName, gateway: GatewayDep, request: Wanted) -> dict[str, Any]:
    """In the place of the tenant's marking, for every version of the task."""
    return _set(gateway, request, name)


@router.delete("/v1/tasks/{name}/marking", summary="Mark a task as its tenant")
def remove_task(name: TaskName, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        if not repository.remove_marking(connection, caller.tenant, name):
            raise NotFound(f"the task {name!r} has no marking of its own", param="name")
        keys_repository.audit(connection, caller.tenant, _actor(caller), "marking_removed", name, {})
    return {"object": "marking", "task": name, "deleted": True}


def _set(gateway: Gateway, request: Incoming[SetMarking], task: str) -> dict[str, Any]:
    caller, marking = request.caller, Marking(**request.body.model_dump())
    with gateway.db.transaction(caller.tenant) as connection:
        if task and tasks_repository.get_task(connection, caller.tenant, task) is None:
            raise NotFound(f"no task {task!r}", param="name")
        row = repository.set_marking(connection, caller.tenant, task, marking, caller.key_id)
        # Whether answers were marked at a time is what an inspector asks.
        keys_repository.audit(
            connection, caller.tenant, _actor(caller), "marking_set", task or "tenant", marking.model_dump()
        )
    return _shape(row)


def _shape(row: Row) -> dict[str, Any]:
    return {
        "object": "marking",
        "task": row["task"] or None,
        **row["spec"],
        "updated_at": unix(row["updated_at"]),
    }


def _actor(caller: Caller) -> str:
    return caller.key_id or "local"
