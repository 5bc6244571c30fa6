"""`/v1/jobs`: any durable work, whatever route it came by: state, place in the line, events, cancel, replay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from services.gateway.answering import sse
from services.gateway.auth import Caller
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import EVENTS, json_body
from services.gateway.errors import error_object
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs.metadata import Metadata, wanted_metadata
from services.gateway.jobs.pages import jobs_page
from services.gateway.jobs.submission import submit
from services.gateway.pages import PageDep, listing
from shared import job_requests, job_store
from shared.contracts.core import Noop
from shared.db import Connection, retrying
from shared.errors import HeliuError, InvalidInput, Unavailable
from shared.jobs import TERMINAL, Job, Status

router = APIRouter(tags=["jobs"])

POLL_S = 0.3
COMMENT_S = 15.0
AT_ONCE = 500


class CreateNoop(Body):
    """Only with HELIU_TEST_FAULTS: a job that sleeps, for tests and benchmarks."""

    kind: Literal["noop"]
    seconds: float = Field(0.0, ge=0, le=600)
    steps: int = Field(0, ge=0, le=10_000)
    outcome: Literal["succeed", "fail", "raise", "crash"] = "succeed"
    metadata: Metadata | None = None


@router.post(
    "/v1/jobs", summary="Submit a no-op job", **json_body(CreateNoop, {"kind": "noop", "seconds": 0.1})
)
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateNoop], Depends(incoming(CreateNoop))]
) -> dict[str, Any]:
    """Real work has routes of its own: datasets, fine_tuning, pretraining, evaluations, batches."""
    body = request.body
    if not gateway.settings.test_faults:
        raise HeliuError(
            "no-op jobs are for tests; start the gateway with HELIU_TEST_FAULTS=on",
            code="permission_denied",
            param="kind",
        )
    contract = Noop(seconds=body.seconds, steps=body.steps, outcome=body.outcome)
    return job_shapes.job(submit(gateway, request, Noop, lambda _: contract, metadata=body.metadata))


@router.get("/v1/jobs", summary="List jobs")
def list_jobs(
    request: Request,
    gateway: GatewayDep,
    caller: CallerDep,
    page: PageDep,
    kind: Annotated[str | None, Query(max_length=64)] = None,
    status: Annotated[Status | None, Query()] = None,
    parts: bool = False,
) -> dict[str, Any]:
    """Newest first; `parts` shows the shards of batches too."""
    with gateway.db.transaction(caller.tenant) as connection:
        jobs, more = jobs_page(
            connection,
            caller,
            page,
            kinds=[kind] if kind else None,
            states=[status.value] if status else None,
            parts=parts,
            metadata=wanted_metadata(request.query_params),
        )
    return listing([job_shapes.job(job) for job in jobs], more)


@router.get("/v1/jobs/{job_id}", summary="One job")
def retrieve(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """`position` is how many of the tenant's own jobs go before it."""
    with gateway.db.transaction(caller.tenant) as connection:
        job = job_store.get(connection, job_id)
        return job_shapes.job(job, job_store.position(connection, job))


@router.post("/v1/jobs/{job_id}/cancel", summary="Cancel a job")
def cancel(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """A waiting job ends at once, a running one at its next step."""
    return _ask(gateway, caller, job_id, job_requests.request_cancel)


@router.post("/v1/jobs/{job_id}/pause", summary="Pause a job")
def pause(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """A waiting job pauses at once, a running one at its next checkpoint."""
    return _ask(gateway, caller, job_id, job_requests.request_pause)


@router.post("/v1/jobs/{job_id}/resume", summary="Resume a paused job")
def resume(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    return _ask(gateway, caller, job_id, job_requests.resume, ring=True)


@router.post("/v1/jobs/{job_id}/replay", summary="Queue a dead job again")
def replay(job_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Its attempts and crashes are forgotten."""
    return _ask(gateway, caller, job_id, job_requests.replay, ring=True)


def _ask(
    gateway: Gateway,
    caller: Caller,
    job_id: str,
    verb: Callable[[Connection, str], Job],
    *,
    ring: bool = False,
) -> dict[str, Any]:
    def once() -> Job:
        with gateway.db.transaction(caller.tenant) as connection:
            return verb(connection, job_id)

    job = retrying(once, attempts=4)
    if ring or job.progress.get("finalize_on_cancel"):
        gateway.bell.ring(job.queue, None)
    return job_shapes.job(job)


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="Events of a job, as a list or as a stream",
    response_model=None,
    responses=EVENTS,
)
async def events(
    request: Request,
    job_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    page: PageDep,
    stream: bool = False,
    order: Literal["asc", "desc"] = "asc",
) -> Response:
    """Oldest first, or with `order=desc` newest first. With `Accept: text/event-stream` or `?stream=true` it goes on
    until the job has ended; `Last-Event-ID` goes on where a stream broke off."""
    streamed = stream or "text/event-stream" in request.headers.get("accept", "")
    last = request.headers.get("last-event-id") if streamed else None
    after = _number(last, "Last-Event-ID") if last else _number(page.after, "after") if page.after else 0
    if order == "desc" and not streamed:
        found = await to_thread.run_sync(_read_latest, gateway, caller, job_id, after, page.limit)
        return JSONResponse(listing(*found))
    rows, _ = await to_thread.run_sync(_read, gateway, caller, job_id, after, page.limit + 1)
    if streamed:
        key = request.headers.get("authorization")
        return sse.EventStream(_follow(gateway, caller, key, job_id, after, request.state.trace_id))
    shown = [job_shapes.job_event(row) for row in rows[: page.limit]]
    return JSONResponse(listing(shown, len(rows) > page.limit))


def _number(cursor: str, param: str) -> int:
    if not cursor.isascii() or not cursor.isdecimal() or len(cursor) > 18:
        raise InvalidInput(f"{param} must be the id of an event, got {cursor[:80]!r}", param=param)
    return int(cursor)


def _read(
    gateway: Gateway, caller: Caller, job_id: str, after: int, limit: int
) -> tuple[list[dict[str, Any]], bool]:
    """(events after `after`, whether the job had ended before they were read)."""
    with gateway.db.transaction(caller.tenant) as connection:
        ended = job_store.get(connection, job_id).state in TERMINAL
        return job_store.list_events(connection, job_id, after=after, limit=limit), ended


def _read_latest(
    gateway: Gateway, caller: Caller, job_id: str, before: int, limit: int
) -> tuple[list[dict[str, Any]], bool]:
    """(events before `before`, or the newest where it is 0; whether there are more)."""
    with gateway.db.transaction(caller.tenant) as connection:
        job_store.get(connection, job_id)
        rows, more = job_store.latest_events(connection, job_id, before=before or None, limit=limit)
    return [job_shapes.job_event(row) for row in rows], more


async def _follow(
    gateway: Gateway, caller: Caller, key: str | None, job_id: str, after: int, trace_id: str
) -> AsyncIterator[bytes]:
    """Events as they are written, and the end of the stream with the end of the job, or of its watcher's key."""

    def look() -> tuple[list[dict[str, Any]], bool]:
        gateway.authenticator.check(key)
        return _read(gateway, caller, job_id, after, AT_ONCE)

    spoken = time.monotonic()
    while not gateway.closing.is_set():
        try:
            rows, ended = await to_thread.run_sync(look)
        except Unavailable:
            # A watcher waits out a restart of Postgres; its place in the events is not lost.
            rows, ended = [], False
        except HeliuError as exc:
            yield sse.event({"error": error_object(exc, trace_id)}, name="error")
            return
        for row in rows:
            after, spoken = row["id"], time.monotonic()
            yield sse.event(job_shapes.job_event(row), id_=str(row["id"]), name=row["type"])
        if len(rows) == AT_ONCE:
            continue
        if ended:
            return
        if time.monotonic() - spoken > COMMENT_S:
            spoken = time.monotonic()
            yield sse.COMMENT
        await asyncio.sleep(POLL_S)
