"""`/v1/models`: what can be asked, by name; bringing one in, and taking one away."""

from __future__ import annotations

from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends
from pydantic import Field, model_validator

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs.metadata import Metadata
from services.gateway.jobs.submission import submit
from services.gateway.models import names, upstreams_repository
from services.gateway.models import repository as models_repository
from services.gateway.models import shapes as model_shapes
from services.gateway.models.decoding import decoding_of
from services.gateway.models.resolve import model_row
from services.gateway.models.uses import check_unused
from services.gateway.pages import listing
from services.gateway.uploads import blobs_repository
from shared.contracts.model_registry import registered_name
from shared.contracts.models import (
    ADAPTER_CONFIG,
    HUB_ID,
    MAX_FILES,
    NAME,
    REVISION,
    BaseModelRef,
    ImportModel,
    Kind,
    ModelFile,
    check_paths,
)
from shared.db import Connection, Row
from shared.errors import HeliuError, InvalidInput
from shared.task.bind import task_name

router = APIRouter(tags=["models"])

MOST = 10_000


class CreateModel(Body):
    """From `files` that were sent to /v1/blobs, or from the operator's hub by `hub_id`."""

    name: str = Field(pattern=NAME)
    kind: Kind | None = None
    base: str | None = Field(default=None, min_length=1, max_length=256)
    files: list[ModelFile] = Field(default=[], max_length=MAX_FILES)
    hub_id: str | None = Field(default=None, pattern=HUB_ID)
    revision: str = Field("main", pattern=REVISION)
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.files) == bool(self.hub_id):
            raise ValueError("give files or hub_id, one of both")
        return self


EXAMPLE = {"name": "qwen2.5-0.5b", "hub_id": "Qwen/Qwen2.5-0.5B-Instruct", "revision": "main"}


@router.post("/v1/models", summary="Bring in a model", **json_body(CreateModel, EXAMPLE))
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateModel], Depends(incoming(CreateModel))]
) -> dict[str, Any]:
    """Answers with a job. It fetches and checks the model; when it succeeds, the model is served as `name`."""
    body, tenant = request.body, request.caller.tenant
    _check_source(gateway, body)

    def make(connection: Connection) -> ImportModel:
        models_repository.check_free(connection, tenant, body.name)
        _check_sent(blobs_repository.held(connection, tenant, {f.object for f in body.files}), body.files)
        return ImportModel(
            name=body.name,
            model_kind=body.kind,
            base=_base(connection, request.caller, body.base) if body.base is not None else None,
            files=tuple(body.files),
            hub_id=body.hub_id,
            revision=body.revision,
        )

    return job_shapes.job(submit(gateway, request, ImportModel, make, metadata=body.metadata))


def _check_source(gateway: Gateway, body: CreateModel) -> None:
    if body.hub_id is not None:
        if not gateway.settings.hub_url:
            raise HeliuError(
                "this platform imports from no hub; add the model from a folder, or have the operator set "
                "HELIU_HUB_URL",
                code="hub_disabled",
                param="hub_id",
            )
        return
    check_paths([file.path for file in body.files], "files")
    total, limit = sum(file.bytes for file in body.files), gateway.settings.max_model_bytes
    if total > limit:
        raise HeliuError(
            f"the files have {total} bytes together, over the limit of {limit} (HELIU_MAX_MODEL_BYTES)",
            code="file_too_large",
            param="files",
        )
    adapter = body.kind == "adapter" or (
        body.kind is None and any(f.path == ADAPTER_CONFIG for f in body.files)
    )
    if adapter and body.base is None:
        raise InvalidInput(
            "an adapter needs the name of the base that it was trained on",
            code="missing_required_parameter",
            param="base",
        )


def _check_sent(held: dict[str, int], files: list[ModelFile]) -> None:
    for file in files:
        if held.get(file.object) != file.bytes:
            known = f"has {held[file.object]} bytes" if file.object in held else "was not sent"
            raise InvalidInput(
                f"{file.path!r}: the object {file.object} of {file.bytes} bytes {known}; "
                "PUT it to /v1/blobs first",
                code="blob_missing",
                param="files",
            )


def _base(connection: Connection, caller: CallerDep, name: str) -> BaseModelRef:
    row = model_row(connection, caller.tenant, name, "base")
    if row["kind"] != "base":
        raise InvalidInput(f"{name!r} is of kind {row['kind']!r}; an adapter stands on a base", param="base")
    return BaseModelRef(model=row["id"], artifact=row["artifact"])


@router.get("/v1/models", summary="List models")
def list_models(gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """All that may be given as `model`, newest first: the tenant's models, `registry:NAME` of registered models that
    answer, and `task:NAME`. This list has no pages, as OpenAI's has none."""
    with gateway.db.transaction(caller.tenant) as connection:
        rows = models_repository.list_models(connection, caller.tenant, MOST)
        named = names.answering(connection, caller.tenant)
        shown = names.shown(connection, caller.tenant, named, caller.tenant_name)
    shown += [model_shapes.model(row, caller.tenant_name) for row in rows]
    return listing(sorted(shown, key=lambda one: one["created"], reverse=True), False)


@router.get("/v1/models/{model}", summary="One model")
def retrieve(model: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """`info` tells what it is: architecture, parameters, context length, and where it came from. A registered name and
    a task tell which `versions` of theirs answer, and the `model` of the one in production, or that most callers get.
    `decoding` are the settings that the model has by itself, where a request does not say."""
    with gateway.db.transaction(caller.tenant) as connection:
        named = names.named(connection, caller.tenant, model)
        row: Row | None
        if named is None:
            row = model_row(connection, caller.tenant, model)
            shown = model_shapes.model(row, caller.tenant_name)
        else:
            (shown,) = names.shown(connection, caller.tenant, [named], caller.tenant_name)
            behind = names.model_behind(connection, caller.tenant, named.routed[0].model)
            row = models_repository.get_model(connection, caller.tenant, behind)
    return shown | {"decoding": decoding_of(gateway.artifacts, row) if row is not None else None}


@router.delete("/v1/models/{model}", summary="Delete a model")
def delete(model: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Refused while adapters, tasks, registered versions and their gates, graders of evals, vector stores or unfinished
    jobs need it. Else the name is gone; answers being made end as they began."""
    if registered_name(model) is not None:
        raise InvalidInput(
            f"{model!r} is a registered name; DELETE /v1/registry/NAME takes that away", param="model"
        )
    if task_name(model) is not None:
        raise InvalidInput(f"{model!r} is a task; DELETE /v1/tasks/NAME takes that away", param="model")
    with gateway.db.transaction(caller.tenant) as connection:
        row = model_row(connection, caller.tenant, model)
        if row["kind"] == "upstream" and not caller.is_operator:
            raise HeliuError(
                f"the model {model!r} stands on another server; only an operator takes it away",
                code="permission_denied",
                param="model",
            )
        check_unused(connection, caller.tenant, model)
        models_repository.delete_model(connection, caller.tenant, model)
        upstreams_repository.delete(connection, caller.tenant, model)
    return {"id": model, "object": "model", "deleted": True}
