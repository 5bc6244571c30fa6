"""`/v1/tasks`: named, versioned bundles of model, prompt, settings and guards; called as `model="task:NAME"`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field, field_validator

from services.gateway.adaptation import ready
from services.gateway.adaptation import repository as tasks_repository
from services.gateway.adaptation import store as task_store
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.docs import json_body
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.shapes import unix
from shared.contracts.task import MAX_WEIGHT, NAME, TaskSpec
from shared.db import Row
from shared.errors import InvalidInput
from shared.task.check import check
from shared.task.diff import diff

router = APIRouter(tags=["tasks"])

MOST_SPLIT = 20
SPEC = {
    "model": "base-1m",
    "prompt": "Is this review good or bad? {{ text }}",
    "variables": {"text": {"type": "string", "max_length": 2000}},
    "decoding": {"temperature": 0, "max_tokens": 4},
    "structured_outputs": {"choice": ["good", "bad"]},
    "guards": {"input": {"pii": {"action": "mask"}}},
}
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]


class CreateTask(Body):
    name: str
    description: str | None = Field(default=None, max_length=1000)
    note: str | None = Field(default=None, max_length=1000)
    spec: TaskSpec

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("a name has 1 to 64 of a-z, 0-9, - and _, and begins with a letter or digit")
        return value


class CreateVersion(Body):
    spec: TaskSpec
    note: str | None = Field(default=None, max_length=1000)
    activate: bool = False


class Activate(Body):
    version: Number


class Split(Body):
    weights: dict[str, Annotated[int, Field(ge=0, le=MAX_WEIGHT)]] = Field(
        min_length=1, max_length=MOST_SPLIT
    )


@router.post("/v1/tasks", summary="Make a task", **json_body(CreateTask, {"name": "reviews", "spec": SPEC}))
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateTask], Depends(incoming(CreateTask))]
) -> dict[str, Any]:
    """Its version 1 is what `task:NAME` means at once. Template, patterns and schema are checked before."""
    body, caller = request.body, request.caller
    check(body.spec)
    with gateway.db.transaction(caller.tenant) as connection:
        made = task_store.create(
            connection, caller.tenant, caller.key_id, body.name, body.description, body.spec, body.note
        )
    return _task(made)


@router.get("/v1/tasks", summary="List tasks")
def list_tasks(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first."""
    with gateway.db.transaction(caller.tenant) as connection:
        if page.after and not tasks_repository.task_existed(connection, page.after):
            raise unknown_cursor(page.after)
        rows = tasks_repository.list_tasks(connection, caller.tenant, page.after, page.limit + 1)
    return listing([_task(row) for row in rows[: page.limit]], len(rows) > page.limit)


@router.get("/v1/ready_tasks", summary="List the tasks that ship with the platform")
def list_ready() -> dict[str, Any]:
    """Each as a body for `POST /v1/tasks`; only `spec.model` is to be put in."""
    return listing(ready.tasks(), False, key=lambda row: str(row["name"]))


@router.get("/v1/tasks/{name}", summary="One task")
def retrieve(name: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        return _task(task_store.task(connection, caller.tenant, name))


@router.delete("/v1/tasks/{name}", summary="Delete a task")
def delete(name: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """The name is gone at once; answers and batches that were accepted end as they began."""
    with gateway.db.transaction(caller.tenant) as connection:
        task_store.delete(connection, caller.tenant, name)
    return {"id": name, "object": "task", "deleted": True}


@router.post("/v1/tasks/{name}/versions", summary="Add a version", **json_body(CreateVersion, {"spec": SPEC}))
def create_version(
    name: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[CreateVersion], Depends(incoming(CreateVersion))],
) -> dict[str, Any]:
    """Nobody gets it before it is activated or given a share. Versions never change."""
    body, caller = request.body, request.caller
    check(body.spec)
    with gateway.db.transaction(caller.tenant) as connection:
        task, row = task_store.add_version(
            connection, caller.tenant, caller.key_id, name, body.spec, body.note, activate=body.activate
        )
    return _version(task, row)


@router.get("/v1/tasks/{name}/versions", summary="List the versions of a task")
def list_versions(name: str, gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first, each with its share of the callers and what it has answered so far."""
    after = page.after.removeprefix(f"{name}@") if page.after else None
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 9):
        raise unknown_cursor(page.after or "")
    with gateway.db.transaction(caller.tenant) as connection:
        task = task_store.task(connection, caller.tenant, name)
        number = int(after) if after else None
        if number is not None and not 1 <= number <= task["latest"]:
            raise unknown_cursor(page.after or "")
        rows = tasks_repository.list_versions(connection, task["id"], number, page.limit + 1)
        used = tasks_repository.usage_by_version(connection, caller.tenant, task)
    shown = [{**_version(task, row), "usage": _usage(used.get(row["version"]))} for row in rows[: page.limit]]
    return listing(shown, len(rows) > page.limit)


@router.get("/v1/tasks/{name}/versions/{version}", summary="One version of a task")
def retrieve_version(name: str, version: int, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        task = task_store.task(connection, caller.tenant, name)
        return _version(task, task_store.version(connection, task, version))


@router.get("/v1/tasks/{name}/diff", summary="What is different between two versions")
def difference(
    name: str,
    gateway: GatewayDep,
    caller: CallerDep,
    before: Annotated[int | None, Query(alias="from", ge=1, description="the version before `to`")] = None,
    after: Annotated[int | None, Query(alias="to", ge=1, description="the latest version")] = None,
) -> dict[str, Any]:
    """By place in the spec; texts of several lines with a unified diff."""
    with gateway.db.transaction(caller.tenant) as connection:
        task = task_store.task(connection, caller.tenant, name)
        new = task_store.version(connection, task, after or task["latest"], param="to")
        old = task_store.version(connection, task, before or max(1, new["version"] - 1), param="from")
    changes = diff(old["spec"], new["spec"])
    versions = {"from": old["version"], "to": new["version"]}
    return {"object": "task.diff", "task": name, **versions, "changes": changes}


@router.post(
    "/v1/tasks/{name}/activate",
    summary="Send all callers to a version",
    **json_body(Activate, {"version": 2}),
)
def activate(
    name: str, gateway: GatewayDep, request: Annotated[Incoming[Activate], Depends(incoming(Activate))]
) -> dict[str, Any]:
    caller = request.caller
    with gateway.db.transaction(caller.tenant) as connection:
        return _task(
            task_store.route(connection, caller.tenant, caller.key_id, name, [(request.body.version, 1)])
        )


@router.post(
    "/v1/tasks/{name}/split",
    summary="Share the callers between versions",
    **json_body(Split, {"weights": {"1": 90, "2": 10}}),
)
def split(
    name: str, gateway: GatewayDep, request: Annotated[Incoming[Split], Depends(incoming(Split))]
) -> dict[str, Any]:
    """By weight. The same `user` always gets the same version; without one, each request is shared by itself."""
    caller, weights = request.caller, _weights(request.body.weights)
    with gateway.db.transaction(caller.tenant) as connection:
        return _task(task_store.route(connection, caller.tenant, caller.key_id, name, weights))


@router.post("/v1/tasks/{name}/rollback", summary="Route as before")
def roll_back(name: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Undoes the newest activation or split; once more goes one further back."""
    with gateway.db.transaction(caller.tenant) as connection:
        return _task(task_store.roll_back(connection, caller.tenant, caller.key_id, name))


def _weights(given: dict[str, int]) -> list[tuple[int, int]]:
    found = []
    for text, weight in given.items():
        if not (text.isascii() and text.isdigit() and 0 < len(text) < 9 and str(int(text)) == text):
            raise InvalidInput(
                f"weights has the key {text[:80]!r}; a key is the number of a version", param="weights"
            )
        found.append((int(text), weight))
    if not any(weight for _, weight in found):
        raise InvalidInput("weights are all 0; at least one version must get callers", param="weights")
    return found


def _task(row: Row) -> dict[str, Any]:
    weights = task_store.pairs(row["weights"])
    return {
        "id": row["id"],
        "object": "task",
        "name": row["name"],
        "model": f"task:{row['name']}",
        "description": row["description"],
        "created_at": unix(row["created_at"]),
        "latest_version": row["latest"],
        "active_version": weights[0][0] if len(weights) == 1 else None,
        "weights": {str(number): weight for number, weight in weights},
        "routed_at": unix(row["routed_at"]),
    }


def _version(task: Row, row: Row) -> dict[str, Any]:
    weights = dict(task_store.pairs(task["weights"]))
    share = weights.get(row["version"], 0) / sum(weights.values())
    return {
        "id": f"{task['name']}@{row['version']}",
        "object": "task.version",
        "task": task["name"],
        "version": row["version"],
        "model": f"task:{task['name']}@{row['version']}",
        "created_at": unix(row["created_at"]),
        "created_by": row["api_key_id"],
        "note": row["note"],
        "share": round(share, 6),
        "spec": row["spec"],
    }


def _usage(row: Row | None) -> dict[str, Any]:
    names = ("requests", "errors", "refused", "prompt_tokens", "completion_tokens", "seconds")
    return {name: row[name] if row is not None else 0 for name in names}
