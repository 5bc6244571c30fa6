"""`/v1/evals/{id}/runs`: measurements by an eval's criteria, item by item, and two of them side by side."""

from __future__ import annotations

import io
import json
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, TypeAdapter

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.evals import names, repository
from services.gateway.evals import shapes as eval_shapes
from services.gateway.jobs.metadata import Metadata
from services.gateway.jobs.submission import submit
from services.gateway.models import resolve
from services.gateway.pages import Page, PageDep, listing, unknown_cursor
from services.gateway.registry.evidence import check_run_unused
from shared import job_requests
from shared.contracts.eval_items import Config, FileContent, ItemsRef
from shared.contracts.evals import DataSource, RunEval
from shared.db import Connection, retrying
from shared.errors import Conflict, NotFound
from shared.jobs import Job, new_id
from shared.task.eval_check import check_data_source

router = APIRouter(tags=["evals"])

Order = Annotated[Literal["asc", "desc"], Query()]
RunStatus = Literal["queued", "in_progress", "completed", "canceled", "failed"]
ItemStatus = Literal["pass", "fail", "failed", "error", "errored"]
CONFIG: TypeAdapter[Config] = TypeAdapter(Config)
ENDED = frozenset({"completed", "canceled", "failed"})


class CreateRun(Body):
    data_source: DataSource = Field(
        description="Where the items come from, and which model answers them; 'jsonl' where the answers are given."
    )
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="What it is called; its id where none is given."
    )
    metadata: Metadata | None = Field(None, description="Up to sixteen labels of yours.")


EXAMPLE = {
    "name": "base-1m",
    "data_source": {
        "type": "completions",
        "model": "base-1m",
        "source": {"type": "file_id", "id": "file-0123456789abcdef01234567"},
        "input_messages": {
            "type": "template",
            "template": [{"role": "user", "content": "{{item.question}}"}],
        },
        "sampling_params": {"temperature": 0, "max_completion_tokens": 64},
    },
}


@router.post("/v1/evals/{eval_id}/runs", summary="Run an eval", **json_body(CreateRun, EXAMPLE))
def create(
    eval_id: str,
    gateway: GatewayDep,
    http: Request,
    request: Annotated[Incoming[CreateRun], Depends(incoming(CreateRun))],
) -> dict[str, Any]:
    """Answers are sampled as a batch on the inference workers, judged where a model judges, then graded."""
    body, tenant = request.body, request.caller.tenant
    source = names.as_asked(body.data_source)
    gateway.limiter.check_tokens(request.caller)
    with gateway.db.transaction(tenant) as connection:
        stored = names.eval_row(connection, tenant, eval_id)
    config = CONFIG.validate_python(stored["data_source_config"])
    check_data_source(config, source)
    given = _given(gateway, source.source) if isinstance(source.source, FileContent) else None
    run_id = new_id(RunEval.id_prefix)

    def make(connection: Connection) -> RunEval:
        row = names.eval_row(connection, tenant, eval_id, lock=True)
        asked, models, tasks = names.asked(connection, tenant, source)
        whole = RunEval.model_validate(
            {
                "eval_id": eval_id,
                "config": row["data_source_config"],
                "criteria": row["testing_criteria"],
                "metrics": row["metrics"],
                "slices": row["slices"],
                "cluster": row["cluster"],
                "items": given or names.items(connection, tenant, source, config),
                "data_source": names.as_stored(source, asked),
                "tasks": tasks,
                "registered": resolve.batch_registered(connection, tenant) if tasks else {},
                "pool": gateway.settings.pool,
            }
        )
        criteria, judges, encoder = names.judges(connection, tenant, whole.criteria)
        shown = names.as_shown(body.data_source)
        model = str(shown.get("model", ""))
        repository.add_run(
            connection, tenant, run_id, eval_id, name=body.name or run_id, model=model, source=shown
        )
        base = names.likelihood_base(connection, tenant, source, whole.metrics)
        found = {"criteria": criteria, "models": {**models, **judges}, "encoder": encoder, "base": base}
        return whole.model_copy(update=found)

    job = submit(gateway, request, RunEval, make, metadata=body.metadata, job_id=run_id)
    return _shown(gateway, http, request.caller.tenant, eval_id, job.id)


def _given(gateway: Gateway, source: FileContent) -> ItemsRef:
    """Items that came with the request, as a file's lines in the store."""
    lines = "".join(
        json.dumps(one.model_dump(mode="json", exclude_none=True), ensure_ascii=False) + "\n"
        for one in source.content
    )
    artifact, _ = gateway.artifacts.put(io.BytesIO(lines.encode()))
    return ItemsRef(kind="given", id="given", artifact=artifact)


def _shown(gateway: Gateway, http: Request, tenant: UUID, eval_id: str, run_id: str) -> dict[str, Any]:
    with gateway.db.transaction(tenant) as connection:
        row = names.run_row(connection, tenant, eval_id, run_id)
        criteria = names.eval_row(connection, tenant, eval_id)["testing_criteria"]
    return eval_shapes.run(row, criteria, eval_shapes.base(http))


@router.get("/v1/evals/{eval_id}/runs", summary="List runs")
def list_runs(
    eval_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    http: Request,
    page: PageDep,
    order: Order = "asc",
    status: Annotated[RunStatus | None, Query()] = None,
) -> dict[str, Any]:
    """Oldest first where no order is given, as OpenAI has it."""
    with gateway.db.transaction(caller.tenant) as connection:
        criteria = names.eval_row(connection, caller.tenant, eval_id)["testing_criteria"]
        if page.after is not None and not repository.run_existed(connection, eval_id, page.after):
            raise unknown_cursor(page.after)
        rows = repository.list_runs(
            connection,
            caller.tenant,
            eval_id,
            status=status,
            after=page.after,
            limit=page.limit + 1,
            order=order,
        )
    base = eval_shapes.base(http)
    return listing(
        [eval_shapes.run(row, criteria, base) for row in rows[: page.limit]], len(rows) > page.limit
    )


@router.get("/v1/evals/{eval_id}/runs/{run_id}", summary="One run")
def retrieve(
    eval_id: str, run_id: str, gateway: GatewayDep, caller: CallerDep, http: Request
) -> dict[str, Any]:
    """With its figures, each with its 95% interval, once it has ended."""
    return _shown(gateway, http, caller.tenant, eval_id, run_id)


@router.post("/v1/evals/{eval_id}/runs/{run_id}", summary="Cancel a run")
@router.post("/v1/evals/{eval_id}/runs/{run_id}/cancel", summary="Cancel a run")
def cancel(
    eval_id: str, run_id: str, gateway: GatewayDep, caller: CallerDep, http: Request
) -> dict[str, Any]:
    """With the batches that it has handed out. Items that are graded stay."""

    def once() -> Job:
        with gateway.db.transaction(caller.tenant) as connection:
            names.run_row(connection, caller.tenant, eval_id, run_id)
            return job_requests.request_cancel(connection, run_id)

    job = retrying(once, attempts=4)
    gateway.bell.ring(job.queue, None)
    return _shown(gateway, http, caller.tenant, eval_id, run_id)


@router.delete("/v1/evals/{eval_id}/runs/{run_id}", summary="Delete a run")
def delete(eval_id: str, run_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """With its items. Refused while it runs, or a decision of a registered model rests on it."""
    with gateway.db.transaction(caller.tenant) as connection:
        row = names.run_row(connection, caller.tenant, eval_id, run_id)
        if row["status"] not in ENDED:
            raise Conflict(f"the run {run_id} is {row['status']}; cancel it first", param="run_id")
        check_run_unused(connection, caller.tenant, eval_id, run_id)
        repository.delete_runs(connection, eval_id, run_id)
    return {"object": "eval.run.deleted", "deleted": True, "run_id": run_id}


@router.get("/v1/evals/{eval_id}/runs/{run_id}/output_items", summary="Items of a run")
def list_items(
    eval_id: str,
    run_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    page: PageDep,
    order: Order = "asc",
    status: Annotated[ItemStatus | None, Query(description="fail counts items with an error too")] = None,
) -> dict[str, Any]:
    """In the order of their source, with what each criterion made of them."""
    with gateway.db.transaction(caller.tenant) as connection:
        names.run_row(connection, caller.tenant, eval_id, run_id)
        rows = repository.list_items(
            connection,
            run_id,
            status=status,
            after=_after(run_id, page),
            limit=page.limit + 1,
            order=order,
        )
    shown = [eval_shapes.output_item(row, eval_id, run_id) for row in rows[: page.limit]]
    return listing(shown, len(rows) > page.limit)


def _after(run_id: str, page: Page) -> int | None:
    if page.after is None:
        return None
    number = eval_shapes.item_number(run_id, page.after)
    if number is None:
        raise unknown_cursor(page.after)
    return number


@router.get("/v1/evals/{eval_id}/runs/{run_id}/output_items/{output_item_id}", summary="One item of a run")
def retrieve_item(
    eval_id: str, run_id: str, output_item_id: str, gateway: GatewayDep, caller: CallerDep
) -> dict[str, Any]:
    number = eval_shapes.item_number(run_id, output_item_id)
    with gateway.db.transaction(caller.tenant) as connection:
        names.run_row(connection, caller.tenant, eval_id, run_id)
        row = repository.get_item(connection, run_id, number) if number is not None else None
    if row is None:
        raise NotFound(f"the run {run_id} has no item {output_item_id!r}", param="output_item_id")
    return eval_shapes.output_item(row, eval_id, run_id)
