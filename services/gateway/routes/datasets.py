"""`/v1/datasets`: from an upload to a governed, immutable version, and its report."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import Field

from services.gateway.answering import questions
from services.gateway.auth import Caller
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.datasets import repository as datasets_repository
from services.gateway.datasets import shapes as dataset_shapes
from services.gateway.datasets.recipes import check_recipe
from services.gateway.datasets.report_page import POLICY, render_report
from services.gateway.docs import json_body
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs.metadata import Metadata
from services.gateway.jobs.submission import submit
from services.gateway.models import resolve
from services.gateway.pages import PageDep, listing, unknown_cursor
from shared.contracts.data_governance import MOST_SOURCES, BuildSource, BuildVersion, PreviewRows
from shared.db import Connection, Row
from shared.errors import InvalidInput, NotFound

router = APIRouter(tags=["datasets"])

MOST_VERSIONS = 100
REPORT_HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "private, no-cache",
}


FileId = Annotated[str, Field(min_length=1, max_length=256)]


class CreateVersion(Body):
    """`name` makes the dataset at its first use; without a `recipe` one is inferred from the first rows.

    Of several files (`file_ids`, in place of `file_id`) the rows follow each other; the recipe's `inputs` may map each
    by its file name.
    """

    name: str = Field(
        min_length=1, max_length=128, pattern=r"^[^\s/\x00-\x1f\x7f]([^/\x00-\x1f\x7f]*[^\s/\x00-\x1f\x7f])?$"
    )
    file_id: FileId | None = None
    file_ids: list[FileId] | None = Field(default=None, min_length=1, max_length=MOST_SOURCES)
    recipe: dict[str, Any] | None = None
    metadata: Metadata | None = None

    def files(self) -> list[tuple[str, str]]:
        """(place in the body, id) of each file, in order. Raises InvalidInput."""
        if (self.file_id is None) == (self.file_ids is None):
            raise InvalidInput("give either `file_id` or `file_ids`", param="file_id")
        if self.file_id is not None:
            return [("file_id", self.file_id)]
        named = list(self.file_ids or ())
        twice = next((at for at, one in enumerate(named) if one in named[:at]), None)
        if twice is not None:
            raise InvalidInput(f"{named[twice]!r} is given twice; keep one", param=f"file_ids[{twice}]")
        return [(f"file_ids[{at}]", one) for at, one in enumerate(named)]


EXAMPLE = {
    "name": "service-dialogues",
    "file_id": "file-0123456789abcdef01234567",
    "recipe": {"version": 1, "steps": [{"op": "normalize_text"}, {"op": "mask_pii"}]},
}


@router.post(
    "/v1/datasets", summary="Govern an upload into a dataset version", **json_body(CreateVersion, EXAMPLE)
)
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateVersion], Depends(incoming(CreateVersion))]
) -> dict[str, Any]:
    """Answers with the job that builds the version; its result names the version and the gate's verdict."""
    body, tenant = request.body, request.caller.tenant
    if body.name in (".", ".."):
        raise InvalidInput(f"{body.name!r} is not a name for a dataset", param="name")
    if body.recipe is not None:
        check_recipe(body.recipe)

    named = body.files()

    def make(connection: Connection) -> BuildVersion:
        files = [resolve.file_row(connection, one, param=place) for place, one in named]
        dataset = datasets_repository.ensure_dataset(connection, tenant, body.name)
        return BuildVersion(
            dataset_id=dataset["id"],
            dataset_name=body.name,
            file_id=files[0]["id"],
            artifact=files[0]["artifact"],
            filename=files[0]["filename"],
            others=[
                BuildSource(file_id=file["id"], artifact=file["artifact"], name=file["filename"])
                for file in files[1:]
            ],
            recipe=body.recipe,
        )

    job = submit(gateway, request, BuildVersion, make, metadata=body.metadata)
    return {
        **job_shapes.job(job),
        "dataset": job.payload["dataset_name"],
        "dataset_id": job.payload["dataset_id"],
    }


@router.get("/v1/datasets", summary="List datasets")
def list_datasets(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first."""
    with gateway.db.transaction(caller.tenant) as connection:
        if page.after and not datasets_repository.dataset_existed(connection, page.after):
            raise unknown_cursor(page.after)
        rows = datasets_repository.list_datasets(connection, caller.tenant, page.after, page.limit + 1)
    return listing([dataset_shapes.dataset(row) for row in rows[: page.limit]], len(rows) > page.limit)


@router.get("/v1/datasets/{name}", summary="One dataset with its versions")
def retrieve(name: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """By name or id; versions newest first, at most 100."""
    with gateway.db.transaction(caller.tenant) as connection:
        dataset = _dataset(connection, caller, name)
        versions = datasets_repository.versions(
            connection, caller.tenant, dataset_id=dataset["id"], limit=MOST_VERSIONS
        )
    return {
        **dataset_shapes.dataset(dataset),
        "versions": [dataset_shapes.dataset_version(row) for row in versions],
    }


@router.get("/v1/datasets/{name}/versions", summary="Versions of a dataset")
def list_versions(name: str, gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first."""
    with gateway.db.transaction(caller.tenant) as connection:
        dataset = _dataset(connection, caller, name)
        if page.after:
            last = datasets_repository.versions(
                connection, caller.tenant, dataset_id=dataset["id"], version_id=page.after, limit=1
            )
            if not last:
                raise unknown_cursor(page.after)
        rows = datasets_repository.versions(
            connection, caller.tenant, dataset_id=dataset["id"], after=page.after, limit=page.limit + 1
        )
    return listing(
        [dataset_shapes.dataset_version(row) for row in rows[: page.limit]], len(rows) > page.limit
    )


@router.get("/v1/datasets/{name}/versions/{version_id}", summary="One version with report and gate")
def retrieve_version(name: str, version_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    return dataset_shapes.dataset_version(_version(gateway, caller, name, version_id), full=True)


@router.get(
    "/v1/datasets/{name}/versions/{version_id}/report",
    summary="The quality report of a version",
    response_model=None,
    responses={200: {"content": {"text/html": {}}}},
)
def report(
    name: str,
    version_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    format: Annotated[Literal["json", "html"], Query()] = "json",
) -> dict[str, Any] | HTMLResponse:
    """With the gate's verdict and the drift from the version before; `html` is one page for people, without script."""
    row = _version(gateway, caller, name, version_id)
    if format == "json":
        told = {key: row[key] for key in ("dataset", "gate", "report", "drift")}
        return {"object": "dataset.report", "version_id": row["id"], **told}
    with gateway.db.transaction(caller.tenant) as connection:
        filenames = datasets_repository.filenames(connection, caller.tenant, row["job_id"])
    return HTMLResponse(render_report(row, filenames), headers=REPORT_HEADERS)


@router.get("/v1/datasets/{name}/versions/{version_id}/rows", summary="Some rows of a version")
async def rows(
    request: Request,
    name: str,
    version_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    split: Annotated[Literal["train", "validation"] | None, Query()] = None,
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 20,
) -> dict[str, Any]:
    """In stored order. A worker of data governance reads them while the client waits."""
    row = await to_thread.run_sync(_version, gateway, caller, name, version_id)
    call = PreviewRows(artifact=row["artifact"], split=split, offset=offset, limit=limit)
    return await _read(request, gateway, call)


@router.get(
    "/v1/datasets/{name}/versions/{version_id}/bad_rows",
    summary="Every row of the source that could not be read",
)
async def bad_rows(
    request: Request,
    name: str,
    version_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> dict[str, Any]:
    """In the order of the source, with line, byte offset, code and reason; the report lists the first 200 only."""
    row = await to_thread.run_sync(_version, gateway, caller, name, version_id)
    call = PreviewRows(artifact=row["artifact"], part="bad_rows", offset=offset, limit=limit)
    return await _read(request, gateway, call)


async def _read(request: Request, gateway: Gateway, call: PreviewRows) -> dict[str, Any]:
    """A page of rows from a worker of data governance."""
    answer = await questions.answer(request, gateway, call)
    found: list[dict[str, Any]] = answer["rows"]
    more = call.offset + len(found) < answer["total"]
    return {"object": "list", "data": found, "has_more": more, "total": answer["total"]}


def _version(gateway: Gateway, caller: Caller, name: str, version_id: str) -> Row:
    with gateway.db.transaction(caller.tenant) as connection:
        dataset = _dataset(connection, caller, name)
        found = datasets_repository.versions(
            connection, caller.tenant, dataset_id=dataset["id"], version_id=version_id, limit=1
        )
    if not found:
        raise NotFound(f"dataset {name!r} has no version {version_id!r}", param="version_id")
    return found[0]


def _dataset(connection: Connection, caller: CallerDep, name: str) -> Row:
    row = datasets_repository.get_dataset(connection, caller.tenant, name)
    if row is None:
        raise NotFound(f"no dataset {name!r}", param="name")
    return row
