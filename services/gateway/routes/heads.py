"""`/v1/training/jobs`: heads that classify, measure or rank texts, on any model or from scratch."""

from __future__ import annotations

from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends
from pydantic import Field, model_validator

from services.gateway import repository_models, resolve, shapes
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.docs import json_body
from services.gateway.metadata import Metadata
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.submission import submit
from shared import job_store
from shared.contracts.encoders import TrainEncoder
from shared.contracts.heads import HeadChoice, HeadKind, HeadParameters, Method, TrainHead, check_choice
from shared.contracts.models import NAME
from shared.db import Connection
from shared.errors import NotFound

router = APIRouter(tags=["training"])


class CreateHead(Body):
    """`method` is `full`, `frozen` (the last layer alone) or `lora` on `model`, or `lstm` without one."""

    name: str = Field(pattern=NAME)
    head: HeadKind
    method: Method | None = None
    loss: str = Field("auto", min_length=1, max_length=64)
    model: str | None = Field(default=None, min_length=1, max_length=256)
    training_file: str = Field(min_length=1, max_length=256)
    validation_file: str | None = Field(default=None, min_length=1, max_length=256)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    hyperparameters: HeadParameters = HeadParameters()
    metadata: Metadata | None = None

    @property
    def choice(self) -> HeadChoice:
        return HeadChoice(head=self.head, method=self.method or "full", loss=self.loss)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_choice(self.choice, self.model is not None, self.hyperparameters)
        return self


KINDS = (TrainHead.kind, TrainEncoder.kind)
EXAMPLE = {
    "name": "intents",
    "head": "single_label",
    "model": "minilm",
    "training_file": "dsv-0123456789abcdef0123456789abcdef",
    "loss": "label_smoothing",
    "hyperparameters": {"n_epochs": 4},
}


@router.post(
    "/v1/training/jobs",
    summary="Train a classifier, a regression or a ranker",
    **json_body(CreateHead, EXAMPLE),
)
def create_head(
    gateway: GatewayDep, request: Annotated[Incoming[CreateHead], Depends(incoming(CreateHead))]
) -> dict[str, Any]:
    """The finished model is served under `name` by /v1/classifications or /v1/rerank; its figures on held-out rows,
    beside those of the majority class or a random order, stand in the job's result."""
    body, tenant = request.body, request.caller.tenant

    def make(connection: Connection) -> TrainHead:
        repository_models.check_free(connection, tenant, body.name)
        base = None
        if body.model is not None:
            base = resolve.trunk_ref(resolve.model_row(connection, tenant, body.model))
        validation = None
        if body.validation_file is not None:
            validation = resolve.data_ref(connection, tenant, body.validation_file, param="validation_file")
        return TrainHead(
            name=body.name,
            choice=body.choice,
            base=base,
            training=resolve.data_ref(connection, tenant, body.training_file, param="training_file"),
            validation=validation,
            seed=body.seed,
            hyperparameters=body.hyperparameters,
        )

    return shapes.job(submit(gateway, request, TrainHead, make, metadata=body.metadata))


@router.get("/v1/training/jobs", summary="List jobs that train heads and encoders")
def list_heads(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first. Events, cancel, pause and resume are those of /v1/jobs."""
    with gateway.db.transaction(caller.tenant) as connection:
        try:
            jobs, more = job_store.list_jobs(
                connection, caller.tenant, kinds=KINDS, after=page.after, limit=page.limit
            )
        except NotFound as exc:
            raise unknown_cursor(page.after or "") from exc
    return listing([shapes.job(job) for job in jobs], more)


@router.get("/v1/training/jobs/{job_id}", summary="One job that trains a head or an encoder")
def retrieve_head(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        job = job_store.get(connection, job_id, kinds=KINDS)
        return shapes.job(job, job_store.position(connection, job))
