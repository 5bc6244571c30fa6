"""`/v1/pretraining/jobs` and `/v1/evaluations`: what OpenAI has no route for. Both answer with a job."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from services.gateway import repository_models, resolve, shapes
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.docs import json_body
from services.gateway.metadata import Metadata
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.submission import submit
from shared import job_store
from shared.contracts.training import Evaluate, Pretrain, PretrainParameters
from shared.db import Connection
from shared.errors import NotFound

router = APIRouter(tags=["training"])


class CreatePretraining(Body):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    training_file: str = Field(min_length=1, max_length=256)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    hyperparameters: PretrainParameters = PretrainParameters()
    metadata: Metadata | None = None


class CreateEvaluation(Body):
    model: str = Field(min_length=1, max_length=256)
    dataset_version: str = Field(min_length=1, max_length=256)
    limit: int = Field(200, ge=1, le=100_000)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    metadata: Metadata | None = None


VERSION = "dsv-0123456789abcdef0123456789abcdef"


@router.post(
    "/v1/pretraining/jobs",
    summary="Train a base model from scratch",
    **json_body(CreatePretraining, {"name": "base-1m", "training_file": VERSION, "seed": 1}),
)
def create_pretraining(
    gateway: GatewayDep, request: Annotated[Incoming[CreatePretraining], Depends(incoming(CreatePretraining))]
) -> dict[str, Any]:
    """Tokenizer included; the finished model is served under `name`."""
    body, tenant = request.body, request.caller.tenant

    def make(connection: Connection) -> Pretrain:
        repository_models.check_free(connection, tenant, body.name)
        return Pretrain(
            name=body.name,
            data=resolve.version_ref(connection, tenant, body.training_file, param="training_file"),
            seed=body.seed,
            hyperparameters=body.hyperparameters,
        )

    return shapes.job(submit(gateway, request, Pretrain, make, metadata=body.metadata))


@router.post(
    "/v1/evaluations",
    summary="Score a model on held-out conversations",
    **json_body(CreateEvaluation, {"model": "base-1m", "dataset_version": VERSION, "limit": 200}),
)
def create_evaluation(
    gateway: GatewayDep, request: Annotated[Incoming[CreateEvaluation], Depends(incoming(CreateEvaluation))]
) -> dict[str, Any]:
    """Greedy answers to the validation split of the version; the scores stand in the job's result."""
    body, tenant = request.body, request.caller.tenant

    def make(connection: Connection) -> Evaluate:
        return Evaluate(
            model=resolve.base_ref(resolve.model_row(connection, tenant, body.model)),
            data=resolve.version_ref(connection, tenant, body.dataset_version, param="dataset_version"),
            limit=body.limit,
            seed=body.seed,
        )

    return shapes.job(submit(gateway, request, Evaluate, make, metadata=body.metadata))


@router.get("/v1/pretraining/jobs", summary="List pretraining jobs")
def list_pretraining(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    return _list(gateway, caller, page, Pretrain.kind)


@router.get("/v1/evaluations", summary="List evaluations")
def list_evaluations(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    return _list(gateway, caller, page, Evaluate.kind)


@router.get("/v1/pretraining/jobs/{job_id}", summary="One pretraining job")
def retrieve_pretraining(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    return _get(gateway, caller, job_id, Pretrain.kind)


@router.get("/v1/evaluations/{job_id}", summary="One evaluation")
def retrieve_evaluation(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    return _get(gateway, caller, job_id, Evaluate.kind)


def _list(gateway: GatewayDep, caller: CallerDep, page: PageDep, kind: str) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        try:
            jobs, more = job_store.list_jobs(
                connection, caller.tenant, kinds=[kind], after=page.after, limit=page.limit
            )
        except NotFound as exc:
            raise unknown_cursor(page.after or "") from exc
    return listing([shapes.job(job) for job in jobs], more)


def _get(gateway: GatewayDep, caller: CallerDep, job_id: str, kind: str) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        job = job_store.get(connection, job_id, kinds=[kind])
        return shapes.job(job, job_store.position(connection, job))
