"""What runs of an eval say: one as a report, two of them side by side."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from services.gateway.context import CallerDep, GatewayDep
from services.gateway.evals import names, repository
from services.gateway.evals import shapes as eval_shapes
from services.gateway.evals.compare import MIN_ITEMS, compare
from services.gateway.evals.page import POLICY, render_run
from shared.db import Connection
from shared.errors import Conflict, InvalidInput

router = APIRouter(tags=["evals"])


@router.get("/v1/evals/{eval_id}/compare", summary="Two runs side by side")
def compare_runs(
    eval_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    run: Annotated[
        list[str], Query(max_length=64, description="twice: what is held against, then what is held")
    ],
    min_items: Annotated[int, Query(ge=2, le=50_000)] = MIN_ITEMS,
) -> dict[str, Any]:
    """The second run minus the first on the items that both have: paired bootstrap and McNemar's exact test, overall,
    by criterion and by slice. Under `min_items` the verdict is `inconclusive`."""
    if len(run) != 2 or run[0] == run[1]:
        raise InvalidInput(f"give two runs, run=A&run=B, got {len(set(run))}", param="run")
    with gateway.db.transaction(caller.tenant) as connection:
        shown = [_completed(connection, caller.tenant, eval_id, one) for one in run]
        a, b = (repository.scores(connection, one) for one in run)
    return {"object": "eval.comparison", "eval_id": eval_id, "runs": shown, **compare(a, b, min_items)}


def _completed(connection: Connection, tenant: UUID, eval_id: str, run_id: str) -> dict[str, Any]:
    row = names.run_row(connection, tenant, eval_id, run_id, "run")
    if row["status"] != "completed":
        raise Conflict(f"the run {run_id} is {row['status']}; only completed runs compare", param="run")
    return {"id": row["id"], "name": row["name"], "model": row["model"]}


REPORT_HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "private, no-cache",
}


@router.get(
    "/v1/evals/{eval_id}/runs/{run_id}/report",
    summary="The report of a run",
    response_model=None,
    responses={200: {"content": {"text/html": {}}}},
)
def report(
    eval_id: str,
    run_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    http: Request,
    format: Annotated[Literal["json", "html"], Query()] = "json",
) -> dict[str, Any] | HTMLResponse:
    """Figures, slices and failed items; `html` is one page for people, without script."""
    with gateway.db.transaction(caller.tenant) as connection:
        stored = names.eval_row(connection, caller.tenant, eval_id)
        row = names.run_row(connection, caller.tenant, eval_id, run_id)
        failed = repository.list_items(connection, run_id, status="fail", after=None, limit=20, order="asc")
    shown = eval_shapes.run(row, stored["testing_criteria"], eval_shapes.base(http))
    items = [eval_shapes.output_item(one, eval_id, run_id) for one in failed]
    if format == "json":
        return {"object": "eval.report", "eval": eval_shapes.eval_(stored), "run": shown, "failed": items}
    return HTMLResponse(render_run(stored["name"], shown, items), headers=REPORT_HEADERS)
