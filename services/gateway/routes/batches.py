"""`/v1/batches`: a file of requests, answered in the background."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.docs import json_body
from services.gateway.jobs import batches_repository
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs.metadata import Metadata
from services.gateway.jobs.pages import jobs_page
from services.gateway.jobs.submission import submit
from services.gateway.models import resolve
from services.gateway.pages import PageDep, listing
from shared import job_requests, job_store
from shared.contracts.answers import CHAT
from shared.contracts.batches import Batch
from shared.contracts.inference import Endpoint
from shared.db import Connection, retrying
from shared.errors import InvalidInput
from shared.jobs import TERMINAL, Job

router = APIRouter(tags=["batches"])

KINDS = (Batch.kind,)
# Of "24h", the one completion window there is.
WINDOW = timedelta(hours=24)
MAX_INPUT_BYTES = 200 * 1024 * 1024


class CreateBatch(Body):
    input_file_id: str = Field(min_length=1, max_length=256)
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: dict[str, Any] | None = None


EXAMPLE = {
    "input_file_id": "file-0123456789abcdef01234567",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}


@router.post("/v1/batches", summary="Run a batch", **json_body(CreateBatch, EXAMPLE))
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateBatch], Depends(incoming(CreateBatch))]
) -> dict[str, Any]:
    """Every line of the file is checked before any is run; see `errors` of a batch that failed."""
    body, tenant = request.body, request.caller.tenant
    if body.output_expires_after is not None:
        raise InvalidInput(
            "output_expires_after is not served; leave it out and delete the files when they are no longer needed",
            code="unsupported_parameter",
            param="output_expires_after",
        )
    gateway.limiter.check_tokens(request.caller)

    def make(connection: Connection) -> Batch:
        row = resolve.file_row(connection, body.input_file_id, param="input_file_id", purpose="batch")
        if row["bytes"] > MAX_INPUT_BYTES:
            raise InvalidInput(
                f"the file has {row['bytes']} bytes; a batch takes {MAX_INPUT_BYTES} at most",
                param="input_file_id",
            )
        return Batch(
            input_file_id=row["id"],
            artifact=row["artifact"],
            endpoint=body.endpoint,
            completion_window=body.completion_window,
            models=resolve.batch_models(connection, tenant),
            tasks=resolve.batch_tasks(connection, tenant) if body.endpoint == CHAT else {},
            registered=resolve.batch_registered(connection, tenant),
            pool=gateway.settings.pool,
        )

    return job_shapes.batch(submit(gateway, request, Batch, make, metadata=body.metadata, window=WINDOW))


@router.get("/v1/batches", summary="List batches")
def list_batches(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first."""
    with gateway.db.transaction(caller.tenant) as connection:
        jobs, more = jobs_page(connection, caller, page, kinds=KINDS)
        shown = _with_counts(connection, jobs)
    return listing(shown, more)


@router.get("/v1/batches/{batch_id}", summary="One batch")
def retrieve(batch_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        return _with_counts(connection, [job_store.get(connection, batch_id, kinds=KINDS)])[0]


@router.post("/v1/batches/{batch_id}/cancel", summary="Cancel a batch")
def cancel(batch_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Rows that have been answered are kept and stand in the output file."""

    def once() -> tuple[Job, dict[str, Any]]:
        with gateway.db.transaction(caller.tenant) as connection:
            job_store.get(connection, batch_id, kinds=KINDS)
            job = job_requests.request_cancel(connection, batch_id)
            return job, _with_counts(connection, [job])[0]

    job, shown = retrying(once, attempts=4)
    gateway.bell.ring(job.queue, None)
    return shown


def _with_counts(connection: Connection, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Batches with the rows that are answered so far: the job itself learns their number at its end."""
    running = [job.id for job in jobs if job.state not in TERMINAL]
    counts = batches_repository.answered_rows(connection, running) if running else {}
    shown = [job_shapes.batch(job) for job in jobs]
    for batch in shown:
        batch["request_counts"] |= counts.get(batch["id"], {})
    return shown
