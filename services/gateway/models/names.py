"""Names that are called as models and stand for one: registered models and tasks, as `/v1/models` tells them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.gateway.adaptation import repository as tasks_repository
from services.gateway.adaptation import store as task_store
from services.gateway.models import repository as models_repository
from services.gateway.models import shapes as model_shapes
from services.gateway.registry import releases
from services.gateway.registry import repository as registry_repository
from services.gateway.shapes import Shape, unix
from shared.contracts import task
from shared.contracts.model_registry import PREFIX, WHOLE, registered_name
from shared.db import Connection, Row
from shared.errors import NotFound
from shared.task.bind import task_name

MOST_NAMES = 1000
# What a name whose model is gone says nothing of.
OF_A_MODEL = ("base", "job_id", "dataset_version")


@dataclass(frozen=True)
class Routed:
    """A version of a name: its share of the callers, and the model that answers for it, as that is named."""

    version: int
    share: float
    model: str


@dataclass(frozen=True)
class Named:
    """A name that answers. Of `routed` the first is what is in production, and of a task what most callers get."""

    id: str
    kind: str
    created_at: datetime
    routed: tuple[Routed, ...]


def answering(connection: Connection, tenant: UUID) -> list[Named]:
    """Registered models with a version in production, and tasks."""
    registered = registry_repository.answering(connection, tenant, MOST_NAMES)
    tasks = tasks_repository.called(connection, tenant, MOST_NAMES)
    return [*(_registered(row) for row in registered), *(_task(row) for row in tasks)]


def named(connection: Connection, tenant: UUID, name: str) -> Named | None:
    """What `registry:NAME` or `task:NAME` stands for, or a version of it; None for a model's own name.

    Raises NotFound (`model_not_found`) for a name that is not there, or that does not answer.
    """
    code, param = "model_not_found", "model"
    asked = registered_name(name)
    if asked is not None:
        found = releases.registered(connection, tenant, asked[0], param=param, code=code)
        if asked[1] is not None:
            row = releases.version(connection, found, asked[1], param=param, code=code)
            only = (Routed(row["version"], 1.0, row["model_id"]),)
            return Named(name, "registered_model", row["created_at"], only)
        rows = registry_repository.answering(connection, tenant, 1, name=asked[0])
        if not rows:
            raise NotFound(f"{name} has no version in production yet; promote one", code=code, param=param)
        return _registered(rows[0])
    of_task = task_name(name)
    if of_task is None:
        return None
    found = task_store.task(connection, tenant, of_task[0], param=param, code=code)
    if of_task[1] is not None:
        row = task_store.version(connection, found, of_task[1], param=param, code=code)
        return Named(name, "task", row["created_at"], (Routed(row["version"], 1.0, row["spec"]["model"]),))
    return _task(tasks_repository.called(connection, tenant, 1, name=of_task[0])[0])


def shown(connection: Connection, tenant: UUID, found: Sequence[Named], owner: str) -> list[Shape]:
    """As models: what is told of one beside its name is that of the model behind the first of `routed`."""
    behind = {
        model: model_behind(connection, tenant, model) for model in {one.routed[0].model for one in found}
    }
    rows = models_repository.models(connection, tenant, sorted(set(behind.values())))
    return [_shape(one, rows.get(behind[one.routed[0].model]), owner) for one in found]


def model_behind(connection: Connection, tenant: UUID, name: str) -> str:
    """The model's own name, of what a task's version names, which may be a registered one."""
    if registered_name(name) is None:
        return name
    try:
        found = named(connection, tenant, name)
    except NotFound:
        return name
    return found.routed[0].model if found is not None else name


def _registered(row: Row) -> Named:
    shared = row["share"] / WHOLE
    routed = [Routed(row["production"], 1 - shared, row["model"])]
    if row["canary"] is not None:
        routed.append(Routed(row["canary"], shared, row["canary_model"]))
    return Named(PREFIX + row["name"], "registered_model", row["created_at"], tuple(routed))


def _task(row: Row) -> Named:
    whole = sum(weight for _, weight, _ in row["routed"])
    routed = [Routed(version, weight / whole, model) for version, weight, model in row["routed"]]
    routed.sort(key=lambda one: (-one.share, one.version))
    return Named(task.PREFIX + row["name"], "task", row["created_at"], tuple(routed))


def _shape(one: Named, model: Row | None, owner: str) -> Shape:
    told = model_shapes.model(model, owner) if model is not None else dict.fromkeys(OF_A_MODEL)
    return {
        **told,
        "id": one.id,
        "object": "model",
        "created": unix(one.created_at),
        "owned_by": owner,
        "kind": one.kind,
        "model_kind": model["kind"] if model is not None else None,
        "info": model["info"] if model is not None else {},
        "version": one.routed[0].version,
        "model": one.routed[0].model,
        "versions": [
            {"version": routed.version, "share": round(routed.share, 6), "model": routed.model}
            for routed in one.routed
        ],
    }
