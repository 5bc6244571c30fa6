"""`/v1/vector_stores`: files that are found again by words and by meaning, as the openai client speaks of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, model_validator

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.jobs.metadata import Metadata
from services.gateway.models import resolve
from services.gateway.pages import listing, unknown_cursor
from services.gateway.vector_stores import repository, retrieval
from services.gateway.vector_stores import shapes as vector_shapes
from services.gateway.vector_stores.files import Given, attach, check_unused, end_jobs, store
from services.gateway.vector_stores.pages import VectorPage, VectorPageDep
from shared.contracts.embeddings import EMBEDDINGS
from shared.contracts.retrieval import (
    MAX_FILES,
    MAX_QUERIES,
    MAX_QUERY,
    MAX_RESULTS,
    ChunkingStrategy,
    Filter,
    IndexFile,
    check_filter,
    sizes,
)
from shared.db import Connection, Row
from shared.errors import InvalidInput
from shared.jobs import new_id

router = APIRouter(tags=["vector stores"])

FileId = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[str, Field(max_length=256)]
QueryText = Annotated[str, Field(min_length=1, max_length=MAX_QUERY)]


class ExpiresAfter(Body):
    anchor: Literal["last_active_at"]
    days: int = Field(ge=1, le=365)


class CreateStore(Body):
    """`embedding_model` is ours: the encoder that chunks and queries are given to. Without one, words alone count."""

    name: Name | None = None
    description: str | None = Field(default=None, max_length=1024)
    file_ids: list[FileId] | None = Field(default=None, max_length=MAX_FILES)
    chunking_strategy: ChunkingStrategy | None = None
    expires_after: ExpiresAfter | None = None
    metadata: Metadata | None = None
    embedding_model: str | None = Field(default=None, min_length=1, max_length=256)


class UpdateStore(Body):
    """What is left out stays; an `expires_after` of null takes it away."""

    name: Name | None = None
    expires_after: ExpiresAfter | None = None
    metadata: Metadata | None = None


class RankingOptions(Body):
    """All rankers are the one there is; `score_threshold` is of the score that results have."""

    ranker: Literal["none", "auto", "default-2024-11-15"] | None = None
    score_threshold: float | None = Field(default=None, ge=0, le=1)


class Search(Body):
    query: QueryText | Annotated[list[QueryText], Field(min_length=1, max_length=MAX_QUERIES)]
    filters: Filter | None = None
    max_num_results: int = Field(10, ge=1, le=MAX_RESULTS)
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = None

    @model_validator(mode="after")
    def _served(self) -> Search:
        if self.rewrite_query:
            raise InvalidInput(
                "rewrite_query is not served: a query is searched for as it is; leave it out",
                code="unsupported_parameter",
                param="rewrite_query",
            )
        if self.filters is not None:
            check_filter(self.filters)
        return self


EXAMPLE = {"name": "handbook", "file_ids": ["file-0123456789abcdef01234567"], "embedding_model": "zh-encoder"}
SEARCH = {
    "query": "退的钱什么时候到账",
    "max_num_results": 5,
    "filters": {"type": "eq", "key": "field", "value": "service"},
}


@router.post("/v1/vector_stores", summary="Make a vector store", **json_body(CreateStore, EXAMPLE))
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateStore], Depends(incoming(CreateStore))]
) -> dict[str, Any]:
    """Its files are indexed one by one by workers; the store is `completed` when none is on its way."""
    body, caller = request.body, request.caller
    values = {
        "id": new_id("vs_"),
        "tenant": caller.tenant,
        "name": body.name or "",
        "description": body.description,
        "metadata": body.metadata or {},
        "expires_days": body.expires_after.days if body.expires_after else None,
    }
    with gateway.db.transaction(caller.tenant) as connection:
        encoder = _encoder(connection, caller, body.embedding_model)
        repository.insert(connection, {**values, "encoder": encoder})
        found = store(connection, caller, str(values["id"]))
        given = [
            Given(file, sizes(body.chunking_strategy), place=f"file_ids[{place}]")
            for place, file in enumerate(dict.fromkeys(body.file_ids or []))
        ]
        attach(connection, caller, found, given, pool=gateway.settings.pool, traceparent=request.traceparent)
        found = store(connection, caller, str(values["id"]))
    ring(gateway, request.traceparent, bool(given))
    return vector_shapes.store(found)


def _encoder(connection: Connection, caller: CallerDep, name: str | None) -> dict[str, Any] | None:
    if name is None:
        return None
    row = resolve.kept_row(connection, caller.tenant, name, "embedding_model")
    try:
        ref = resolve.served(row, EMBEDDINGS)
    except InvalidInput as exc:
        raise InvalidInput(exc.message, code=exc.code, param="embedding_model") from exc
    return {"model": ref.model_dump(mode="json"), "context": row["info"].get("context_length")}


def ring(gateway: Gateway, traceparent: str, waits: bool) -> None:
    """Wake a worker for files that were just put in."""
    if waits:
        gateway.bell.ring(IndexFile.queue_for(gateway.settings.pool), traceparent)


@router.get("/v1/vector_stores", summary="List vector stores")
def list_stores(gateway: GatewayDep, caller: CallerDep, page: VectorPageDep) -> dict[str, Any]:
    """Newest first, unless `order` is `asc`."""
    with gateway.db.transaction(caller.tenant) as connection:
        _check_cursor(connection, page)
        rows = repository.listed(
            connection,
            caller.tenant,
            beyond=page.beyond,
            newest_first=page.reads_newest_first,
            limit=page.limit + 1,
        )
    shown, more = page.cut(rows)
    return listing([vector_shapes.store(row) for row in shown], more)


def _check_cursor(connection: Connection, page: VectorPage) -> None:
    if page.beyond and not repository.existed(connection, page.beyond):
        raise unknown_cursor(page.beyond)


@router.get("/v1/vector_stores/{vector_store_id}", summary="One vector store")
def retrieve(vector_store_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        return vector_shapes.store(store(connection, caller, vector_store_id))


@router.post(
    "/v1/vector_stores/{vector_store_id}",
    summary="Change a vector store",
    **json_body(UpdateStore, {"name": "handbook 2026"}),
)
def update(
    vector_store_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[UpdateStore], Depends(incoming(UpdateStore))],
) -> dict[str, Any]:
    body, caller = request.body, request.caller
    with gateway.db.transaction(caller.tenant) as connection:
        row = store(connection, caller, vector_store_id)
        days: int | None = row["expires_days"]
        if "expires_after" in body.model_fields_set:
            days = body.expires_after.days if body.expires_after else None
        repository.update(
            connection,
            vector_store_id,
            body.name if body.name is not None else row["name"],
            (body.metadata or {}) if "metadata" in body.model_fields_set else row["metadata"],
            days,
        )
        return vector_shapes.store(store(connection, caller, vector_store_id))


@router.delete("/v1/vector_stores/{vector_store_id}", summary="Delete a vector store")
def delete(vector_store_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Its files stay among the files; what was indexed of them is forgotten. Refused while a task answers from it."""
    with gateway.db.transaction(caller.tenant) as connection:
        found = store(connection, caller, vector_store_id)
        check_unused(connection, caller, found["id"])
        gone = repository.delete(connection, found["id"])
        end_jobs(connection, [row["job_id"] for row in gone])
    return {"id": vector_store_id, "object": "vector_store.deleted", "deleted": True}


@router.post(
    "/v1/vector_stores/{vector_store_id}/search",
    summary="Search a vector store",
    **json_body(Search, SEARCH),
)
async def search(
    request: Request,
    vector_store_id: str,
    gateway: GatewayDep,
    asked: Annotated[Incoming[Search], Depends(incoming(Search))],
    after: Annotated[str | None, Query(max_length=256)] = None,
) -> dict[str, Any]:
    """The best chunks, the best first, each with a score from 0 to 1; of several queries the better score counts."""
    if after is not None:
        raise InvalidInput("all results are on the first page; leave after out", param="after")
    body = asked.body
    row = await to_thread.run_sync(_usable, gateway, asked.caller, vector_store_id)
    queries = (body.query,) if isinstance(body.query, str) else tuple(body.query)
    options = body.ranking_options or RankingOptions()
    wanted = retrieval.Wanted(
        queries=queries,
        filters=body.filters.model_dump(mode="json") if body.filters else None,
        limit=body.max_num_results,
        min_score=options.score_threshold or 0.0,
    )
    return vector_shapes.results(queries, await retrieval.search(request, gateway, row, wanted))


def _usable(gateway: Gateway, caller: CallerDep, store_id: str) -> Row:
    gateway.limiter.check_tokens(caller)
    with gateway.db.transaction(caller.tenant) as connection:
        row = store(connection, caller, store_id, usable=True)
        repository.touch(connection, store_id)
        return row
