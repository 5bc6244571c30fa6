"""`/v1/sources/{name}/syncs`: pulls of what changed, what they found, and the rows that they could not take."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request

from services.gateway.answering import questions
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.datasets.recipes import check_recipe
from services.gateway.docs import json_body
from services.gateway.jobs.submission import submit
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.routes.sources import find
from services.gateway.sources import repository as sources_repository
from services.gateway.sources import shapes as source_shapes
from shared.contracts.sources import BuildAfter, ReadRows, SyncSource
from shared.db import Connection
from shared.errors import Conflict, NotFound
from shared.jobs import Job

router = APIRouter(tags=["sources"])


class CreateSync(Body):
    """`full` reads everything; `build` makes a dataset version of the new state, as the source's own does."""

    full: bool = False
    build: BuildAfter | None = None


@router.post(
    "/v1/sources/{name}/syncs",
    summary="Sync a source",
    **json_body(CreateSync, {"build": {"dataset": "orders"}}),
)
def create(
    name: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[CreateSync], Depends(incoming(CreateSync))],
) -> dict[str, Any]:
    """Answers with the sync; its report tells what was read, and `file_id` is the state that came of it."""
    body = request.body
    if body.build is not None and body.build.recipe is not None:
        check_recipe(body.build.recipe, "build.recipe")

    def make(connection: Connection) -> SyncSource:
        row = find(connection, request.caller, name, lock=True)
        if (running := sources_repository.under_way(connection, row["id"])) is not None:
            raise Conflict(f"the sync {running} of {row['name']!r} has not ended; wait for it or cancel it")
        own = BuildAfter.model_validate(row["build"]) if row["build"] is not None else None
        return SyncSource(source_id=row["id"], source=row["name"], full=body.full, build=body.build or own)

    return source_shapes.sync(submit(gateway, request, SyncSource, make))


@router.get("/v1/sources/{name}/syncs", summary="Syncs of a source")
def list_syncs(name: str, gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first."""
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, name)
        if page.after and sources_repository.sync(connection, row["id"], page.after) is None:
            raise unknown_cursor(page.after)
        rows = sources_repository.syncs(connection, caller.tenant, row["id"], page.after, page.limit + 1)
    shown = [source_shapes.sync(Job.from_row(one)) for one in rows[: page.limit]]
    return listing(shown, len(rows) > page.limit)


@router.get("/v1/sources/{name}/syncs/{sync_id}", summary="One sync with its report")
def retrieve(name: str, sync_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, name)
        job = sources_repository.sync(connection, row["id"], sync_id)
    if job is None:
        raise NotFound(f"the source {name!r} has no sync {sync_id!r}", param="sync_id")
    return source_shapes.sync(Job.from_row(job))


@router.get("/v1/sources/{name}/quarantine", summary="Rows that do not fit")
async def quarantine(
    name: str,
    request: Request,
    gateway: GatewayDep,
    caller: CallerDep,
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> dict[str, Any]:
    """As they stand in the source, each with its key and the reason, in the order of keys."""

    def read() -> dict[str, Any] | None:
        with gateway.db.transaction(caller.tenant) as connection:
            held: dict[str, Any] | None = find(connection, caller, name)["state"].get("quarantine")
            return held

    held = await to_thread.run_sync(read)
    if held is None:
        return {"object": "list", "data": [], "has_more": False, "total": 0}
    call = ReadRows(artifact=held["artifact"], offset=offset, limit=limit)
    answer = await questions.answer(request, gateway, call)
    more = offset + len(answer["rows"]) < answer["total"]
    return {"object": "list", "data": answer["rows"], "has_more": more, "total": answer["total"]}
