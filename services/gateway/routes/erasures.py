"""`/v1/erasures`: a subject's rows found everywhere, buried, and what they went into flagged to be made anew."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends
from pydantic import Field, model_validator

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.docs import json_body
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs.submission import submit
from services.gateway.lineage import erasures_repository as repository
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.shapes import unix
from shared.contracts.data_governance import BuildVersion
from shared.contracts.erasure import EraseSubject, Subject, digest_of
from shared.contracts.lineage import MAX_ROWS
from shared.db import Connection, Row
from shared.errors import Conflict, NotFound
from shared.jobs import new_id

router = APIRouter(tags=["lineage"])


class CreateErasure(Body):
    """The subject by row ids, or by the exact value of a column of the source. A dry run unless it says otherwise."""

    row_ids: list[str] = Field(default=[], max_length=MAX_ROWS)
    column: str | None = Field(default=None, min_length=1, max_length=256)
    value: str | None = Field(default=None, min_length=1, max_length=4096)
    dry_run: bool = True

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.row_ids) == (self.column is not None):
            raise ValueError("give row_ids, or column and value; one of both")
        if (self.column is None) != (self.value is None):
            raise ValueError("column and value go together")
        if any(not 0 < len(row_id) <= 256 for row_id in self.row_ids):
            raise ValueError("row_ids are texts of 1 to 256 characters")
        return self


class Rebuild(Body):
    """Nothing is asked: all current versions that the erasure flagged."""


EXAMPLE = {"column": "customer_id", "value": "C-1024", "dry_run": True}


@router.post(
    "/v1/erasures", summary="Find a subject's rows, and bury them", **json_body(CreateErasure, EXAMPLE)
)
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateErasure], Depends(incoming(CreateErasure))]
) -> dict[str, Any]:
    """Answers with the job that looks through every version and file; its result lists rows, versions, models and
    files. Without `dry_run` the rows get tombstones, so that no version built later has them. The value itself is
    not kept."""
    body = request.body
    subject = Subject(
        row_ids=tuple(body.row_ids),
        column=body.column,
        value_sha256=digest_of(body.value) if body.value is not None else None,
    )
    contract = EraseSubject(erasure_id=new_id("erasure-"), subject=subject, dry_run=body.dry_run)
    job = submit(gateway, request, EraseSubject, lambda _: contract)
    return {**job_shapes.job(job), "erasure_id": job.payload["erasure_id"]}


@router.get("/v1/erasures", summary="List erasures")
def list_erasures(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first; dry runs are jobs alone and stand among those."""
    with gateway.db.transaction(caller.tenant) as connection:
        if page.after and repository.get(connection, caller.tenant, page.after) is None:
            raise unknown_cursor(page.after)
        rows = repository.list_erasures(connection, caller.tenant, page.after, page.limit + 1)
    return listing([_shape(row) for row in rows[: page.limit]], len(rows) > page.limit)


@router.get("/v1/erasures/{erasure_id}", summary="One erasure with what it found")
def retrieve(erasure_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        return _shape(_row(connection, caller, erasure_id))


@router.post(
    "/v1/erasures/{erasure_id}/rebuild",
    summary="Build anew what an erasure flagged",
    **json_body(Rebuild, {}),
)
def rebuild(
    erasure_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[Rebuild], Depends(incoming(Rebuild))],
) -> dict[str, Any]:
    """A build of each dataset whose current version holds erased rows, from the same file and recipe, without them.
    Models are trained anew by whoever trained them, on the new versions."""
    with gateway.db.transaction(request.caller.tenant) as connection:
        _row(connection, request.caller, erasure_id)
        rows = repository.to_rebuild(connection, request.caller.tenant, erasure_id)
    if not rows:
        raise Conflict(f"no dataset's current version holds rows of {erasure_id}; nothing is to be rebuilt")
    jobs = []
    for row in rows:

        def make(_: Connection, payload: dict[str, Any] = row["payload"]) -> BuildVersion:
            # The build itself leaves out whatever is erased when it begins.
            return BuildVersion.model_validate(payload)

        job = submit(gateway, _one_of(request, row["dataset_id"]), BuildVersion, make)
        jobs.append({**job_shapes.job(job), "dataset": row["dataset"]})
    return {"object": "list", "data": jobs, "has_more": False}


def _one_of(request: Incoming[Rebuild], dataset: str) -> Incoming[Rebuild]:
    """The part of a request that is about one dataset: a retry finds the job of each."""
    key = f"{request.idempotency_key}:{dataset}" if request.idempotency_key else None
    digest = hashlib.sha256(request.digest + dataset.encode()).digest()
    return replace(request, digest=digest, idempotency_key=key)


def _row(connection: Connection, caller: CallerDep, erasure_id: str) -> Row:
    row = repository.get(connection, caller.tenant, erasure_id)
    if row is None:
        raise NotFound(f"no erasure {erasure_id!r}; a dry run leaves none", param="erasure_id")
    return row


def _shape(row: Row) -> dict[str, Any]:
    told = {name: row[name] for name in ("id", "job_id", "subject")}
    return {**told, "object": "erasure", "created_at": unix(row["created_at"]), **row["found"]}
