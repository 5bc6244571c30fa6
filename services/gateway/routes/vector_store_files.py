"""`/v1/vector_stores/{id}/files` and `/file_batches`: what a vector store holds, and how far each has come."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from pydantic import Field, model_validator

from services.gateway.auth import Caller
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.pages import listing, unknown_cursor
from services.gateway.routes.vector_stores import FileId, ring
from services.gateway.vector_stores import repository, retrieval
from services.gateway.vector_stores import shapes as vector_shapes
from services.gateway.vector_stores.files import Given, attach, end_jobs, store
from services.gateway.vector_stores.pages import VectorPage, VectorPageDep
from shared.contracts.retrieval import MAX_FILES, Attributes, ChunkingStrategy, sizes
from shared.db import Connection, Row
from shared.errors import Conflict, InvalidInput, NotFound
from shared.jobs import new_id

router = APIRouter(tags=["vector stores"])

State = Literal["in_progress", "completed", "failed", "cancelled"]
FILES = "/v1/vector_stores/{vector_store_id}/files"
BATCHES = "/v1/vector_stores/{vector_store_id}/file_batches"


class CreateFile(Body):
    file_id: FileId
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    def given(self, place: str) -> Given:
        return Given(self.file_id, sizes(self.chunking_strategy), self.attributes or {}, place)


class UpdateFile(Body):
    attributes: Attributes | None


class CreateBatch(Body):
    """`file_ids` with attributes and chunks that they share, or `files` with their own."""

    file_ids: list[FileId] | None = Field(default=None, min_length=1, max_length=MAX_FILES)
    files: list[CreateFile] | None = Field(default=None, min_length=1, max_length=MAX_FILES)
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> CreateBatch:
        if (self.file_ids is None) == (self.files is None):
            raise ValueError("give file_ids or files")
        return self

    def given(self) -> list[Given]:
        """Each file once."""
        if self.files is not None:
            found = [file.given(f"files[{place}].file_id") for place, file in enumerate(self.files)]
        else:
            shared = (sizes(self.chunking_strategy), self.attributes or {})
            found = [
                Given(id_, *shared, f"file_ids[{place}]") for place, id_ in enumerate(self.file_ids or [])
            ]
        return list({one.file_id: one for one in found}.values())


EXAMPLE = {"file_id": "file-0123456789abcdef01234567", "attributes": {"field": "service", "year": 2026}}


@router.post(FILES, summary="Put a file into a vector store", **json_body(CreateFile, EXAMPLE))
def create(
    vector_store_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[CreateFile], Depends(incoming(CreateFile))],
) -> dict[str, Any]:
    """Text, Markdown, JSON, JSONL, CSV, PDF or DOCX. What cannot be read is `failed`, with the reason."""
    _attach(gateway, request, vector_store_id, [request.body.given("file_id")])
    return vector_shapes.file(_file(gateway, request.caller, vector_store_id, request.body.file_id))


def _attach(
    gateway: Gateway, request: Incoming[Any], store_id: str, given: list[Given], batch: str | None = None
) -> None:
    caller = request.caller
    with gateway.db.transaction(caller.tenant) as connection:
        found = store(connection, caller, store_id, usable=True)
        if batch is not None:
            repository.add_batch(connection, caller.tenant, store_id, batch)
        jobs = attach(
            connection,
            caller,
            found,
            given,
            pool=gateway.settings.pool,
            traceparent=request.traceparent,
            batch=batch,
        )
    ring(gateway, request.traceparent, bool(jobs))


@router.get(FILES, summary="List the files of a vector store")
def list_files(
    vector_store_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    page: VectorPageDep,
    filter: State | None = None,
) -> dict[str, Any]:
    """Newest first, unless `order` is `asc`."""
    with gateway.db.transaction(caller.tenant) as connection:
        store(connection, caller, vector_store_id)
        return _listed(connection, vector_store_id, page, filter, None)


def _listed(
    connection: Connection, store_id: str, page: VectorPage, state: State | None, batch: str | None
) -> dict[str, Any]:
    if page.beyond and repository.file(connection, store_id, page.beyond) is None:
        raise unknown_cursor(page.beyond)
    rows = repository.files(
        connection,
        store_id,
        batch=batch,
        state=state,
        beyond=page.beyond,
        newest_first=page.reads_newest_first,
        limit=page.limit + 1,
    )
    shown, more = page.cut(rows)
    return listing([vector_shapes.file(row) for row in shown], more)


@router.get(FILES + "/{file_id}", summary="One file of a vector store")
def retrieve(vector_store_id: str, file_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    return vector_shapes.file(_file(gateway, caller, vector_store_id, file_id))


@router.post(
    FILES + "/{file_id}",
    summary="Change the attributes of a file",
    **json_body(UpdateFile, {"attributes": {"year": 2027}}),
)
def update(
    vector_store_id: str,
    file_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[UpdateFile], Depends(incoming(UpdateFile))],
) -> dict[str, Any]:
    """All of them; its index stays as it is."""
    caller = request.caller
    with gateway.db.transaction(caller.tenant) as connection:
        _row(connection, caller, vector_store_id, file_id)
        repository.keep_file(connection, vector_store_id, file_id, request.body.attributes or {}, None)
        return vector_shapes.file(_row(connection, caller, vector_store_id, file_id))


@router.delete(FILES + "/{file_id}", summary="Take a file out of a vector store")
def delete(vector_store_id: str, file_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """It stays among the files."""
    with gateway.db.transaction(caller.tenant) as connection:
        _row(connection, caller, vector_store_id, file_id)
        gone = repository.delete_file(connection, vector_store_id, file_id)
        end_jobs(connection, [gone["job_id"]] if gone else [])
    return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


@router.get(FILES + "/{file_id}/content", summary="The chunks of a file")
async def content(
    request: Request, vector_store_id: str, file_id: str, gateway: GatewayDep, caller: CallerDep
) -> dict[str, Any]:
    """In order, with their overlaps."""
    row = await to_thread.run_sync(_file, gateway, caller, vector_store_id, file_id)
    if row["state"] != "completed":
        raise Conflict(
            f"the file {file_id!r} is {row['state']}; only one that is completed has chunks", param="file_id"
        )
    return vector_shapes.contents(await retrieval.contents(request, gateway, vector_store_id, file_id))


@router.post(
    BATCHES,
    summary="Put many files into a vector store",
    **json_body(CreateBatch, {"file_ids": [EXAMPLE["file_id"]]}),
)
def create_batch(
    vector_store_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[CreateBatch], Depends(incoming(CreateBatch))],
) -> dict[str, Any]:
    batch = new_id("vsfb_")
    _attach(gateway, request, vector_store_id, request.body.given(), batch)
    return retrieve_batch(vector_store_id, batch, gateway, request.caller)


@router.get(BATCHES + "/{batch_id}", summary="One batch of files")
def retrieve_batch(
    vector_store_id: str, batch_id: str, gateway: GatewayDep, caller: CallerDep
) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        return vector_shapes.batch(_batch(connection, caller, vector_store_id, batch_id))


@router.post(BATCHES + "/{batch_id}/cancel", summary="Cancel a batch of files")
def cancel_batch(
    vector_store_id: str, batch_id: str, gateway: GatewayDep, caller: CallerDep
) -> dict[str, Any]:
    """Files that are indexed stay; those on their way are `cancelled`."""
    with gateway.db.transaction(caller.tenant) as connection:
        row = _batch(connection, caller, vector_store_id, batch_id)
        if row["cancelled_at"] is None and not row["in_progress"]:
            raise InvalidInput(
                f"the batch {batch_id!r} has ended; there is nothing to cancel", param="batch_id"
            )
        end_jobs(connection, repository.cancel_batch(connection, batch_id))
        return vector_shapes.batch(_batch(connection, caller, vector_store_id, batch_id))


@router.get(BATCHES + "/{batch_id}/files", summary="List the files of a batch")
def list_batch(
    vector_store_id: str,
    batch_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    page: VectorPageDep,
    filter: State | None = None,
) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        _batch(connection, caller, vector_store_id, batch_id)
        return _listed(connection, vector_store_id, page, filter, batch_id)


def _file(gateway: Gateway, caller: Caller, store_id: str, file_id: str) -> Row:
    with gateway.db.transaction(caller.tenant) as connection:
        return _row(connection, caller, store_id, file_id)


def _row(connection: Connection, caller: Caller, store_id: str, file_id: str) -> Row:
    store(connection, caller, store_id)
    row = repository.file(connection, store_id, file_id)
    if row is None:
        raise NotFound(f"the vector store {store_id!r} has no file {file_id[:80]!r}", param="file_id")
    return row


def _batch(connection: Connection, caller: Caller, store_id: str, batch_id: str) -> Row:
    store(connection, caller, store_id)
    row = repository.batch(connection, store_id, batch_id)
    if row is None:
        raise NotFound(f"the vector store {store_id!r} has no file batch {batch_id[:80]!r}", param="batch_id")
    return row
