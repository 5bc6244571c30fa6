"""`/v1/training/searches`: many trainings that differ in their parameters, of which the best one's model is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse
from pydantic import Field

from services.gateway.auth import Caller
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.jobs.metadata import Metadata
from services.gateway.jobs.pages import jobs_page
from services.gateway.jobs.submission import submit
from services.gateway.models import repository as models_repository
from services.gateway.pages import PageDep, listing
from services.gateway.searches import repository as searches_repository
from services.gateway.searches import shapes as search_shapes
from services.gateway.searches.objective import objective_of, trials_of
from services.gateway.searches.page import POLICY, render_search
from services.gateway.searches.space import dimensions
from services.gateway.training.estimates import that_fits
from services.gateway.training.first_rows import of_the_right_sort
from services.gateway.training.methods import CreateTraining
from shared import job_store
from shared.contracts.base import JobContract
from shared.contracts.models import NAME
from shared.contracts.searches import (
    MAX_DIMENSIONS,
    MAX_TRIALS,
    Direction,
    Parallel,
    Pruner,
    Range,
    RunSearch,
    Sampler,
)
from shared.db import Connection, Row
from shared.errors import HeliuError, InvalidInput
from shared.jobs import Job

router = APIRouter(tags=["training"])

KINDS = (RunSearch.kind,)
PAGE_HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}


class Objective(Body):
    """What makes one trial better than another."""

    metric: str = Field(min_length=1, max_length=64, description="Any that the job tells of itself.")
    direction: Direction | None = Field(default=None, description="Follows from the metric.")


class CreateSearch(Body):
    """`space` says what of `job` varies, by its dotted path: `hyperparameters.learning_rate`, `loss`, `model`."""

    job: CreateTraining = Field(description="A whole body of /v1/training/jobs, which the space varies.")
    space: dict[Annotated[str, Field(min_length=1, max_length=128)], Range] = Field(
        min_length=1, max_length=MAX_DIMENSIONS, description="What varies: a range or choices by path."
    )
    objective: Objective | None = Field(default=None, description="The job's usual figure without one.")
    trials: int | None = Field(
        default=None, ge=1, le=MAX_TRIALS, description="How many at most; a grid is tried whole without it."
    )
    parallel: Parallel = Field("auto", description="At once; `auto`: as many as workers of training live.")
    sampler: Sampler = Field("tpe", description="How parameters are drawn.")
    pruner: Pruner = Field("median", description="By what a trial is given up before its end.")
    pruner_startup_trials: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TRIALS,
        description="Of the median: none is given up before so many are complete.",
    )
    pruner_warmup: float = Field(
        0.2, ge=0, lt=1, description="No trial is given up in this first share of its steps."
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="The same seed and ends propose the same trials.")
    max_seconds: float | None = Field(
        default=None,
        ge=1,
        le=10**8,
        description="From the first trial on, pauses included; trials that run then are given up.",
    )
    name: str | None = Field(default=None, pattern=NAME, description="What the best model is served as.")
    keep: Literal["best"] = Field("best", description="The other trials' models are not kept.")
    metadata: Metadata | None = Field(default=None, description="Up to 16 of the caller's own labels.")


EXAMPLE = {
    "job": {
        "type": "head",
        "name": "intents",
        "head": "single_label",
        "model": "minilm",
        "training_file": "dsv-0123456789abcdef0123456789abcdef",
    },
    "space": {
        "hyperparameters.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
        "hyperparameters.n_epochs": {"type": "int", "low": 2, "high": 8},
        "loss": {"type": "categorical", "choices": ["cross_entropy", "focal"]},
    },
    "objective": {"metric": "valid_accuracy"},
    "trials": 12,
}


@router.post(
    "/v1/training/searches", summary="Search for hyperparameters", **json_body(CreateSearch, EXAMPLE)
)
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateSearch], Depends(incoming(CreateSearch))]
) -> dict[str, Any]:
    """Each trial is a training job of its own. The whole space is checked before the first: a trial that the job's
    schema would refuse is refused here, by its place. When all have ended the best one's model is served."""
    body, tenant = request.body, request.caller.tenant
    asked, store = body.job.root, gateway.platform.artifacts
    # As /v1/training/jobs would take it, before anything varies.
    as_given = that_fits(
        gateway, tenant, asked.kind, of_the_right_sort(store, lambda c: asked.contract(c, tenant))
    )
    job = submit(
        gateway,
        request,
        RunSearch,
        lambda connection: _contract(connection, tenant, body, _payload(connection, as_given), gateway),
        metadata=body.metadata,
        # Of the trials, which take after their search.
        priority=body.job.root.priority,
        preemptible=body.job.root.may_be_preempted,
    )
    return search_shapes.search(job, [])


def _contract(
    connection: Connection, tenant: UUID, body: CreateSearch, made: dict[str, Any], gateway: Gateway
) -> RunSearch:
    """The search for a job whose payload is `made`. Raises what is wrong with objective, trials, name or space."""
    asked = body.job.root
    metric, direction = objective_of(
        asked.kind.kind, made, body.objective.metric if body.objective else None, _direction(body)
    )
    trials = trials_of(body.space, body.sampler, body.trials)
    if body.pruner != "median" and body.pruner_startup_trials is not None:
        raise InvalidInput(
            f"pruner_startup_trials is of the median, and the pruner is {body.pruner!r}; leave it out",
            param="pruner_startup_trials",
        )
    if body.name is not None:
        if "parts" in made:
            raise InvalidInput(
                "the job makes several models, which are named after its own name; leave this one out",
                param="name",
            )
        models_repository.check_free(connection, tenant, body.name)
    job = asked.model_dump(mode="json", exclude_unset=True)
    space = dimensions(job, body.space, lambda one: one.contract(connection, tenant).dump())
    return RunSearch(
        name=body.name,
        asked=job,
        job_kind=asked.kind.kind,
        job_queue=asked.kind.queue_for(gateway.settings.pool),
        job=made,
        space=space,
        metric=metric,
        direction=direction,
        trials=trials,
        parallel=body.parallel,
        sampler=body.sampler,
        pruner=body.pruner,
        pruner_startup_trials=body.pruner_startup_trials or 4,
        pruner_warmup=body.pruner_warmup,
        seed=body.seed,
        max_seconds=body.max_seconds,
    )


def _direction(body: CreateSearch) -> Direction | None:
    return body.objective.direction if body.objective else None


def _payload(connection: Connection, make: Callable[[Connection], JobContract]) -> dict[str, Any]:
    """The job as it was given; a refusal names its place in this body."""
    try:
        return make(connection).dump()
    except HeliuError as exc:
        exc.param = f"job.{exc.param}" if exc.param else "job"
        raise


@router.get("/v1/training/searches", summary="List searches")
def list_searches(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first, without their trials. Events, cancel, pause and resume are those of /v1/jobs; a pause frees the
    workers of the trials that run, and they go on from their checkpoints."""
    with gateway.db.transaction(caller.tenant) as connection:
        jobs, more = jobs_page(connection, caller, page, kinds=KINDS)
        states = searches_repository.states(connection, [job.id for job in jobs])
    return listing([search_shapes.search(job, states[job.id]) for job in jobs], more)


@router.get("/v1/training/searches/{search_id}", summary="One search with its trials")
def retrieve(search_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Parameters, value, intermediate values and job of every trial."""
    job, rows = _found(gateway, caller, search_id)
    return search_shapes.search(job, [{**row, "trials": 1} for row in rows], rows)


@router.get("/v1/training/searches/{search_id}/history", summary="How the best value came about")
def history(search_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """The trials that have ended, in the order of their ends, each with the best value until then."""
    job, rows = _found(gateway, caller, search_id)
    return listing(search_shapes.history(job, rows), False, key=lambda row: str(row["number"]))


@router.get("/v1/training/searches/{search_id}/importance", summary="Which parameters matter")
def importance(search_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Each parameter's share in what makes a trial good, by PED-ANOVA over the complete trials; null with a `reason`
    where these are too few or all alike."""
    job, _ = _found(gateway, caller, search_id)
    return search_shapes.importance(job)


@router.get(
    "/v1/training/searches/{search_id}/report",
    summary="A search as one page for people",
    response_class=HTMLResponse,
)
def report(search_id: str, gateway: GatewayDep, caller: CallerDep) -> HTMLResponse:
    """History, curves, importance and slices as plots, without script."""
    job, rows = _found(gateway, caller, search_id)
    return HTMLResponse(render_search(job, rows), headers=PAGE_HEADERS)


def _found(gateway: Gateway, caller: Caller, search_id: str) -> tuple[Job, list[Row]]:
    with gateway.db.transaction(caller.tenant) as connection:
        job = job_store.get(connection, search_id, kinds=KINDS)
        return job, searches_repository.trials(connection, search_id)
