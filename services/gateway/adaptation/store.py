"""What may happen to a task: made, given versions, routed, rolled back, deleted. Works in the caller's transaction."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from services.gateway.adaptation import repository
from services.gateway.models import resolve
from services.gateway.vector_stores import repository as vector_stores_repository
from shared.contracts.answers import CHAT
from shared.contracts.task import TaskSpec
from shared.db import Connection, Row
from shared.errors import Conflict, InvalidInput, NotFound
from shared.jobs import new_id
from shared.task.bind import TaskVersion
from shared.task.split import choose

MOST_TASKS = 1000
MOST_VERSIONS = 1000

Weights = list[tuple[int, int]]


def create(
    connection: Connection,
    tenant: UUID,
    key: str | None,
    name: str,
    description: str | None,
    spec: TaskSpec,
    note: str | None,
) -> Row:
    """A task whose version 1 all its callers get. Raises Conflict for a name that is taken."""
    _check_model(connection, tenant, spec)
    if repository.count_tasks(connection, tenant) >= MOST_TASKS:
        raise InvalidInput(f"a tenant may have {MOST_TASKS} tasks; delete one first", param="name")
    task_id = new_id("task-")
    if not repository.insert_task(connection, task_id, tenant, name, description):
        raise Conflict(
            f"there is a task {name!r} already; add a version to it, or delete it first",
            code="already_exists",
            param="name",
        )
    repository.add_version(connection, tenant, task_id, 1, _dump(spec), note, key)
    repository.add_route(connection, tenant, task_id, [(1, 1)], None, key)
    return task(connection, tenant, name)


def add_version(
    connection: Connection,
    tenant: UUID,
    key: str | None,
    name: str,
    spec: TaskSpec,
    note: str | None,
    *,
    activate: bool,
) -> tuple[Row, Row]:
    """(task, version). What the latest version says already is not made again: a retried request adds nothing."""
    found = task(connection, tenant, name, lock=True)
    _check_model(connection, tenant, spec)
    latest = version(connection, found, found["latest"])
    if latest["spec"] != _dump(spec) or latest["note"] != note:
        if found["latest"] >= MOST_VERSIONS:
            raise InvalidInput(f"a task may have {MOST_VERSIONS} versions; make another task", param="name")
        number = found["latest"] + 1
        latest = repository.add_version(connection, tenant, found["id"], number, _dump(spec), note, key)
    if activate:
        _route(connection, tenant, key, found, [(latest["version"], 1)])
    return task(connection, tenant, name), latest


def route(connection: Connection, tenant: UUID, key: str | None, name: str, weights: Weights) -> Row:
    """Send the task's callers to these versions by weight; a weight of 0 is as good as none."""
    found = task(connection, tenant, name, lock=True)
    for number, _ in weights:
        _check_runs(connection, tenant, found, number)
    _route(connection, tenant, key, found, sorted(pair for pair in weights if pair[1] > 0))
    return task(connection, tenant, name)


def roll_back(connection: Connection, tenant: UUID, key: str | None, name: str) -> Row:
    """Route as before the newest change that still holds; once more goes one further back."""
    found = task(connection, tenant, name, lock=True)
    before = repository.get_route(connection, found["back_id"]) if found["back_id"] is not None else None
    if before is None:
        raise Conflict(f"the task {name!r} has nothing to roll back to: it was never routed otherwise")
    for number, _ in pairs(before["weights"]):
        _check_runs(connection, tenant, found, number)
    repository.add_route(connection, tenant, found["id"], before["weights"], before["back_id"], key)
    return task(connection, tenant, name)


def delete(connection: Connection, tenant: UUID, name: str) -> None:
    """The name is free at once; batches that were accepted before still know their versions."""
    repository.delete_task(connection, task(connection, tenant, name, lock=True)["id"])


def task(
    connection: Connection,
    tenant: UUID,
    name: str,
    *,
    lock: bool = False,
    param: str = "name",
    code: str | None = None,
) -> Row:
    """The tenant's task; raises NotFound with a near name."""
    find = repository.lock_task if lock else repository.get_task
    row = find(connection, tenant, name)
    if row is None:
        near = difflib.get_close_matches(name, repository.task_names(connection, tenant), 1)
        hint = f"; did you mean {near[0]!r}?" if near else "; GET /v1/tasks lists those that do"
        raise NotFound(f"the task {name[:80]!r} does not exist{hint}", code=code, param=param)
    return row


def version(
    connection: Connection, found: Row, number: int, *, param: str = "version", code: str | None = None
) -> Row:
    """A version of a task; raises NotFound that says which there are."""
    row = repository.get_version(connection, found["id"], number) if 1 <= number <= found["latest"] else None
    if row is None:
        raise NotFound(
            f"the task {found['name']!r} has no version {number}; it has 1 to {found['latest']}",
            code=code,
            param=param,
        )
    return row


def for_call(connection: Connection, tenant: UUID, name: str, number: int | None, key: str) -> TaskVersion:
    """The version that this caller gets. Raises NotFound (`model_not_found`), as for a model."""
    found = task(connection, tenant, name, param="model", code="model_not_found")
    chosen = number if number is not None else choose(found["id"], pairs(found["weights"]), key)
    row = version(connection, found, chosen, param="model", code="model_not_found")
    return TaskVersion(found["id"], name, chosen, TaskSpec.model_validate(row["spec"]))


def pairs(weights: Sequence[Sequence[int]]) -> Weights:
    """As stored -> [(version, weight), ...]."""
    return [(int(number), int(weight)) for number, weight in weights]


def _check_model(connection: Connection, tenant: UUID, spec: TaskSpec) -> None:
    row = resolve.kept_row(connection, tenant, spec.model, "spec.model")
    try:
        resolve.served(row, CHAT)
    except InvalidInput as exc:
        raise InvalidInput(exc.message, code=exc.code, param="spec.model") from exc
    asked = spec.retrieval
    if asked is not None and not vector_stores_repository.lock(connection, tenant, asked.vector_store):
        raise NotFound(f"no vector store {asked.vector_store[:80]!r}", param="spec.retrieval.vector_store")


def _check_runs(connection: Connection, tenant: UUID, found: Row, number: int) -> None:
    """A version that nobody gets does not keep its model from being deleted."""
    model = version(connection, found, number)["spec"]["model"]
    try:
        resolve.model_row(connection, tenant, model)
    except NotFound as exc:
        raise Conflict(
            f"version {number} of {found['name']!r} runs on the model {model!r}, which is there no more; add a version "
            "on another",
            param="version",
        ) from exc


def _route(connection: Connection, tenant: UUID, key: str | None, found: Row, weights: Weights) -> None:
    if pairs(found["weights"]) != weights:
        repository.add_route(connection, tenant, found["id"], weights, found["route_id"], key)


def _dump(spec: TaskSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_defaults=True)
