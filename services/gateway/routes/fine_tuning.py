"""`/v1/fine_tuning/jobs`: OpenAI's fine-tuning on models and data of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.jobs.metadata import Metadata, wanted_metadata
from services.gateway.jobs.pages import jobs_page
from services.gateway.jobs.submission import submit
from services.gateway.models import repository as models_repository
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.training import shapes as training_shapes
from services.gateway.training.estimates import that_fits
from services.gateway.training.first_rows import of_the_right_sort
from services.gateway.training.methods.base import Urgency
from services.gateway.training.methods.preferences import PreferenceBody
from services.gateway.training.methods.tune import TuneBody
from shared import job_requests, job_store
from shared.contracts.preferences import PreferenceParameters, TunePreferences
from shared.contracts.training import FineTune, FineTuneParameters
from shared.db import Connection, retrying
from shared.errors import InvalidInput
from shared.jobs import Job

router = APIRouter(tags=["fine-tuning"])

KINDS = (FineTune.kind, TunePreferences.kind)


class Supervised(Body):
    hyperparameters: FineTuneParameters | None = None


class Preferences(Body):
    hyperparameters: PreferenceParameters | None = None


class Method(Body):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Preferences | None = None
    reinforcement: dict[str, Any] | None = None


class CreateFineTuning(Urgency):
    """As OpenAI's, with `lora_r`, `max_steps` and more among the hyperparameters; `method.type` is `supervised` or
    `dpo`."""

    model: str = Field(min_length=1, max_length=256)
    training_file: str = Field(min_length=1, max_length=256)
    validation_file: str | None = Field(default=None, min_length=1, max_length=256)
    method: Method | None = None
    hyperparameters: FineTuneParameters | None = None
    suffix: str | None = Field(default=None, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    metadata: Metadata | None = None
    integrations: list[Any] | None = None


EXAMPLE = {
    "model": "base-1m",
    "training_file": "dsv-0123456789abcdef0123456789abcdef",
    "suffix": "service",
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
}


@router.post("/v1/fine_tuning/jobs", summary="Fine-tune a model", **json_body(CreateFineTuning, EXAMPLE))
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateFineTuning], Depends(incoming(CreateFineTuning))]
) -> dict[str, Any]:
    """`training_file` is a file with purpose `fine-tune` or a dataset version that passed its gate."""
    body, tenant = request.body, request.caller.tenant
    asked = _asked(body)
    gateway.limiter.check_tokens(request.caller)
    store = gateway.platform.artifacts
    job = submit(
        gateway,
        request,
        asked.kind,
        that_fits(
            gateway,
            tenant,
            asked.kind,
            of_the_right_sort(store, lambda connection: asked.contract(connection, tenant)),
        ),
        metadata=body.metadata,
        priority=body.priority,
        preemptible=body.may_be_preempted,
    )
    return training_shapes.fine_tuning_job(job)


def _asked(body: CreateFineTuning) -> TuneBody | PreferenceBody:
    """What `/v1/training/jobs` would be asked, from `method` or from the older `hyperparameters`."""
    if body.integrations:
        raise InvalidInput(
            "integrations are not served; leave them out", code="unsupported_parameter", param="integrations"
        )
    common: dict[str, Any] = {
        "model": body.model,
        "training_file": body.training_file,
        "validation_file": body.validation_file,
        "suffix": body.suffix,
        "seed": body.seed or 0,
    }
    method = body.method
    if method is None:
        parameters = body.hyperparameters or FineTuneParameters()
        return TuneBody(type="sft", hyperparameters=parameters, **common)
    if method.type == "reinforcement":
        raise InvalidInput(
            "method.type 'reinforcement' is not served; 'supervised' and 'dpo' are",
            code="unsupported_parameter",
            param="method.type",
        )
    for name in ("supervised", "dpo", "reinforcement"):
        if name != method.type and getattr(method, name) is not None:
            raise InvalidInput(
                f"method.{name} does not go with method.type {method.type!r}", param=f"method.{name}"
            )
    if body.hyperparameters is not None:
        raise InvalidInput(
            "give hyperparameters inside method or beside it, not both", param="hyperparameters"
        )
    if method.type == "dpo":
        wanted = (method.dpo.hyperparameters if method.dpo else None) or PreferenceParameters()
        return PreferenceBody(type="dpo", hyperparameters=wanted, **common)
    supervised = method.supervised
    parameters = (supervised.hyperparameters if supervised else None) or FineTuneParameters()
    return TuneBody(type="sft", hyperparameters=parameters, **common)


@router.get("/v1/fine_tuning/jobs", summary="List fine-tuning jobs")
def list_jobs(request: Request, gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first; `metadata[key]=value` narrows the list."""
    wanted = wanted_metadata(request.query_params)
    with gateway.db.transaction(caller.tenant) as connection:
        jobs, more = jobs_page(connection, caller, page, kinds=KINDS, metadata=wanted)
    return listing([training_shapes.fine_tuning_job(job) for job in jobs], more)


@router.get("/v1/fine_tuning/jobs/{job_id}", summary="One fine-tuning job")
def retrieve(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        return training_shapes.fine_tuning_job(job_store.get(connection, job_id, kinds=KINDS))


@router.post("/v1/fine_tuning/jobs/{job_id}/cancel", summary="Cancel a fine-tuning job")
def cancel(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    return training_shapes.fine_tuning_job(_ask(gateway, caller, job_id, job_requests.request_cancel))


@router.post("/v1/fine_tuning/jobs/{job_id}/pause", summary="Pause at the next checkpoint")
def pause(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    return training_shapes.fine_tuning_job(_ask(gateway, caller, job_id, job_requests.request_pause))


@router.post("/v1/fine_tuning/jobs/{job_id}/resume", summary="Resume from the last checkpoint")
def resume(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    job = _ask(gateway, caller, job_id, job_requests.resume)
    gateway.bell.ring(job.queue, None)
    return training_shapes.fine_tuning_job(job)


def _ask(gateway: Gateway, caller: CallerDep, job_id: str, verb: Callable[[Connection, str], Job]) -> Job:
    def once() -> Job:
        with gateway.db.transaction(caller.tenant) as connection:
            job_store.get(connection, job_id, kinds=KINDS)
            return verb(connection, job_id)

    return retrying(once, attempts=4)


@router.get("/v1/fine_tuning/jobs/{job_id}/events", summary="Events of a fine-tuning job")
def events(job_id: str, gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first, loss and accuracy among them (`type` metrics)."""
    before = _event_number(page.after) if page.after else None
    with gateway.db.transaction(caller.tenant) as connection:
        job_store.get(connection, job_id, kinds=KINDS)
        rows, more = job_store.latest_events(connection, job_id, before=before, limit=page.limit)
    return listing([training_shapes.fine_tuning_event(row) for row in rows], more)


def _event_number(cursor: str) -> int:
    digits = cursor.removeprefix("ftevent-")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 18:
        raise unknown_cursor(cursor)
    return int(digits)


@router.get("/v1/fine_tuning/jobs/{job_id}/checkpoints", summary="Checkpoints of a fine-tuning job")
def checkpoints(job_id: str, gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first."""
    with gateway.db.transaction(caller.tenant) as connection:
        job_store.get(connection, job_id, kinds=KINDS)
        if page.after and not models_repository.has_checkpoint(connection, job_id, page.after):
            raise unknown_cursor(page.after)
        rows = models_repository.list_checkpoints(connection, job_id, page.after, page.limit + 1)
    return listing([training_shapes.checkpoint(row) for row in rows[: page.limit]], len(rows) > page.limit)
