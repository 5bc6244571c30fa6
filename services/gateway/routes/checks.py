"""`/v1/checks`: files held against each other, and the records of several made one."""

from __future__ import annotations

from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends
from pydantic import Field, model_validator

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.datasets.recipes import check_recipe
from services.gateway.docs import json_body
from services.gateway.jobs.pages import jobs_page
from services.gateway.jobs.submission import submit
from services.gateway.models import resolve
from services.gateway.pages import PageDep, listing
from services.gateway.shapes import unix
from services.gateway.sources import repository as sources_repository
from shared import job_store
from shared.contracts.consistency import CheckConsistency, CheckInput, Checks
from shared.contracts.sources import BuildAfter
from shared.db import Connection
from shared.errors import InvalidInput, NotFound
from shared.jobs import Job

router = APIRouter(tags=["checks"])


class GivenInput(Body):
    """A file, or the state of a source as it is now."""

    name: str = Field(min_length=1, max_length=128, pattern=r"^[^\x00]+$")
    file_id: str | None = Field(default=None, max_length=256)
    source: str | None = Field(default=None, max_length=256)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file_id is None) == (self.source is None):
            raise ValueError("an input has a file_id or a source")
        return self


class CreateCheck(Body):
    """`name` is what the files are called that come of it; `build` makes a dataset version of the merged file."""

    name: str = Field("check", min_length=1, max_length=64, pattern=r"^[^\s/\x00-\x1f\x7f]+$")
    inputs: list[GivenInput] = Field(min_length=1, max_length=16)
    checks: Checks
    build: BuildAfter | None = None


EXAMPLE = {
    "inputs": [
        {"name": "crm", "source": "crm"},
        {"name": "shop", "file_id": "file-0123456789abcdef01234567"},
    ],
    "checks": {
        "keys": [{"input": "crm", "columns": ["id"]}],
        "references": [{"input": "shop", "columns": ["customer"], "to": "crm", "to_columns": ["id"]}],
        "entities": {
            "match": [{"kind": "phone", "columns": {"crm": "phone", "shop": "mobile"}}],
            "values": {"city": {"crm": "city", "shop": "town"}},
            "rule": "priority",
            "priority": ["crm", "shop"],
        },
    },
}


@router.post("/v1/checks", summary="Check the consistency of files", **json_body(CreateCheck, EXAMPLE))
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateCheck], Depends(incoming(CreateCheck))]
) -> dict[str, Any]:
    """Answers with the check; its report tells what breaks which rule, and `file_id` has one row a thing."""
    body = request.body
    names = [one.name for one in body.inputs]
    if len(set(names)) != len(names):
        raise InvalidInput("each input has a name of its own", param="inputs")
    if missing := sorted(body.checks.inputs() - set(names)):
        raise InvalidInput(f"checks name the input {missing[0]!r}, which is not given", param="checks")
    if body.build is not None and body.checks.entities is None:
        raise InvalidInput("a version is built of merged records; give checks.entities", param="build")
    if body.build is not None and body.build.recipe is not None:
        check_recipe(body.build.recipe, "build.recipe")

    def make(connection: Connection) -> CheckConsistency:
        found = [_resolved(connection, request, index, one) for index, one in enumerate(body.inputs)]
        return CheckConsistency(name=body.name, inputs=tuple(found), checks=body.checks, build=body.build)

    return _shape(submit(gateway, request, CheckConsistency, make))


@router.get("/v1/checks", summary="List checks")
def list_checks(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first."""
    with gateway.db.transaction(caller.tenant) as connection:
        jobs, more = jobs_page(connection, caller, page, kinds=[CheckConsistency.kind])
    return listing([_shape(job) for job in jobs], more)


@router.get("/v1/checks/{check_id}", summary="One check with its report")
def retrieve(check_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        return _shape(job_store.get(connection, check_id, kinds=[CheckConsistency.kind]))


def _resolved(
    connection: Connection, request: Incoming[CreateCheck], index: int, given: GivenInput
) -> CheckInput:
    where, file_id = f"inputs[{index}]", given.file_id
    if file_id is None:
        assert given.source is not None
        source = sources_repository.find(connection, request.caller.tenant, given.source)
        if source is None:
            raise NotFound(f"no source {given.source!r}", param=f"{where}.source")
        held = source["state"].get("snapshot")
        if held is None:
            raise InvalidInput(
                f"the source {given.source!r} has not been synced yet", param=f"{where}.source"
            )
        return CheckInput(
            name=given.name, file_id=held["file_id"], artifact=held["artifact"], filename=held["filename"]
        )
    row = resolve.file_row(connection, file_id, param=f"{where}.file_id")
    return CheckInput(name=given.name, file_id=row["id"], artifact=row["artifact"], filename=row["filename"])


def _shape(job: Job) -> dict[str, Any]:
    result = job.result or {}
    return {
        "id": job.id,
        "object": "check",
        "name": job.payload["name"],
        "status": job.state.value,
        "inputs": [{"name": one["name"], "file_id": one["file_id"]} for one in job.payload["inputs"]],
        "created_at": unix(job.created_at),
        "finished_at": unix(job.finished_at),
        "ok": result.get("ok"),
        "report": result.get("report"),
        "file_id": result.get("file_id"),
        "conflicts_file_id": result.get("conflicts_file_id"),
        "build": result.get("build"),
        "error": job.error,
        "trace_id": job.trace_id,
    }
