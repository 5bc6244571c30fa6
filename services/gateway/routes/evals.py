"""`/v1/evals`: criteria that runs measure by, as the openai client speaks of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.evals import repository
from services.gateway.evals import shapes as eval_shapes
from services.gateway.evals.names import check_judges, eval_row
from services.gateway.jobs.metadata import Metadata
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.registry.evidence import check_eval_unused
from shared.contracts.eval_items import Config
from shared.contracts.evals import MAX_METRICS, MAX_SLICES, Metric
from shared.contracts.graders import MAX_CRITERIA, Criterion, PythonGrader
from shared.errors import Conflict, InvalidInput
from shared.jobs import new_id
from shared.task.eval_check import check_eval

router = APIRouter(tags=["evals"])

EvalName = Annotated[str, Field(min_length=1, max_length=256)]
SliceName = Annotated[str, Field(min_length=1, max_length=256)]


class CreateEval(Body):
    data_source_config: Config = Field(
        description="The JSON schema of an item, and whether there are samples of a model beside it; or `logs` or "
        "`stored_completions`, with metadata, for chats that were stored with `store`."
    )
    testing_criteria: list[Criterion] = Field(
        min_length=1,
        max_length=MAX_CRITERIA,
        description="Graders; an item passes where all do. Templates use {{item.x}} and {{sample.output_text}}.",
    )
    name: EvalName | None = Field(None, description="What it is called; its id where none is given.")
    metadata: Metadata | None = Field(None, description="Up to sixteen labels of yours.")
    metrics: list[Metric] | None = Field(
        None, max_length=MAX_METRICS, description="Figures over all items of a run, each with its interval."
    )
    slices: list[SliceName] | None = Field(
        None,
        max_length=MAX_SLICES,
        description="Fields of the item that figures are split by, beside language, label and source.",
    )
    cluster: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="A field, item.NAME, whose equal values belong together: a conversation, a document.",
    )


class UpdateEval(Body):
    name: EvalName | None = Field(None, description="Its new name.")
    metadata: Metadata | None = Field(None, description="Labels in the place of those there are.")


EXAMPLE = {
    "name": "refunds",
    "data_source_config": {
        "type": "custom",
        "item_schema": {
            "type": "object",
            "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
            "required": ["question", "answer"],
        },
        "include_sample_schema": True,
    },
    "testing_criteria": [
        {
            "type": "string_check",
            "name": "exact",
            "input": "{{sample.output_text}}",
            "reference": "{{item.answer}}",
            "operation": "eq",
        }
    ],
}


@router.post("/v1/evals", summary="Make an eval", **json_body(CreateEval, EXAMPLE))
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateEval], Depends(incoming(CreateEval))]
) -> dict[str, Any]:
    """Everything that can be wrong with it is told here, and not when it runs."""
    body, tenant = request.body, request.caller.tenant
    config = body.data_source_config
    check_python(gateway, body.testing_criteria)
    check_eval(config, body.testing_criteria, body.metrics or [], body.slices or [], body.cluster)
    eval_id = new_id("eval_")
    values = {
        "name": body.name or eval_id,
        "config": config.model_dump(mode="json"),
        "criteria": [one.model_dump(mode="json", exclude_none=True) for one in body.testing_criteria],
        "metrics": [one.model_dump(mode="json", exclude_none=True) for one in body.metrics or []],
        "slices": body.slices or [],
        "cluster": body.cluster,
        "metadata": body.metadata or {},
    }
    with gateway.db.transaction(tenant) as connection:
        check_judges(connection, tenant, body.testing_criteria)
        return eval_shapes.eval_(repository.insert_eval(connection, tenant, eval_id, values))


def check_python(gateway: Gateway, criteria: list[Criterion]) -> None:
    """Raise InvalidInput for graders that the operator does not let run."""
    for index, criterion in enumerate(criteria):
        if isinstance(criterion, PythonGrader) and not gateway.settings.eval_python:
            place = f"testing_criteria[{index}].type"
            raise InvalidInput(
                f"{place} is 'python', which is off on this platform; its operator turns it on with "
                "HELIU_EVAL_PYTHON=on, or use another grader",
                code="python_not_allowed",
                param=place,
            )


@router.get("/v1/evals", summary="List evals")
def list_evals(
    gateway: GatewayDep,
    caller: CallerDep,
    page: PageDep,
    order: Annotated[Literal["asc", "desc"], Query()] = "asc",
    order_by: Annotated[Literal["created_at", "updated_at"], Query()] = "created_at",
) -> dict[str, Any]:
    """Oldest first where no order is given, as OpenAI has it."""
    with gateway.db.transaction(caller.tenant) as connection:
        if page.after is not None and not repository.eval_existed(connection, page.after):
            raise unknown_cursor(page.after)
        rows = repository.list_evals(
            connection, caller.tenant, after=page.after, limit=page.limit + 1, order=order, by=order_by
        )
    return listing([eval_shapes.eval_(row) for row in rows[: page.limit]], len(rows) > page.limit)


@router.get("/v1/evals/{eval_id}", summary="One eval")
def retrieve(eval_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        return eval_shapes.eval_(eval_row(connection, caller.tenant, eval_id))


@router.post(
    "/v1/evals/{eval_id}", summary="Rename an eval", **json_body(UpdateEval, {"name": "refunds, 2026"})
)
def update(
    eval_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[UpdateEval], Depends(incoming(UpdateEval))],
) -> dict[str, Any]:
    """Name and labels alone: what is measured stays what it is, or its runs could not be compared."""
    tenant = request.caller.tenant
    with gateway.db.transaction(tenant) as connection:
        eval_row(connection, tenant, eval_id)
        row = repository.update_eval(connection, tenant, eval_id, request.body.name, request.body.metadata)
    assert row is not None
    return eval_shapes.eval_(row)


@router.delete("/v1/evals/{eval_id}", summary="Delete an eval")
def delete(eval_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """With its runs and their items. Refused while one of them runs, a registered model's gates name it, or a decision
    rests on a run of it."""
    with gateway.db.transaction(caller.tenant) as connection:
        eval_row(connection, caller.tenant, eval_id, lock=True)
        running = repository.open_runs(connection, eval_id)
        if running:
            raise Conflict(f"the run {running[0]} has not ended; cancel it first", param="eval_id")
        check_eval_unused(connection, caller.tenant, eval_id)
        repository.delete_eval(connection, eval_id)
    return {"object": "eval.deleted", "deleted": True, "eval_id": eval_id}
