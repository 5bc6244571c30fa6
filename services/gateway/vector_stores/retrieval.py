"""The live trip of a search: the queries to an inference worker for their vectors, then to a data worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request

from services.gateway.answering import metered, questions, sse
from services.gateway.context import Gateway
from shared.contracts.embeddings import EMBEDDINGS
from shared.contracts.inference import Embed, ModelRef
from shared.contracts.retrieval import ReadChunks, SearchStore
from shared.db import Row
from shared.errors import HeliuError
from shared.live_client import last_entry

TOO_LONG = "context_length_exceeded"
# A model that does not take so many characters takes no text at all.
_SHORTEST = 8


@dataclass(frozen=True)
class Wanted:
    """What is searched for in a store; `filters` as the contract has them."""

    queries: tuple[str, ...]
    filters: dict[str, Any] | None = None
    limit: int = 10
    min_score: float = 0.0


async def search(request: Request, gateway: Gateway, store: Row, wanted: Wanted) -> dict[str, Any]:
    """As `SearchStore` answers. Leaves a usage row for the vectors of the queries, where the store has an encoder."""
    vectors: tuple[str, ...] = ()
    if store["encoder"] is not None:
        vectors = await _vectors(request, gateway, store["encoder"], wanted.queries)
    call = SearchStore(
        store_id=store["id"],
        queries=wanted.queries,
        vectors=vectors,
        filters=wanted.filters,
        limit=wanted.limit,
        min_score=wanted.min_score,
    )
    done = await sse.unless_gone(request, last_entry(questions.entries(request, gateway, call)))
    return {"results": done.data["results"], "ranked_by": done.data["ranked_by"]}


async def _vectors(
    request: Request, gateway: Gateway, encoder: dict[str, Any], queries: tuple[str, ...]
) -> tuple[str, ...]:
    """Of each query, base64 of float32; of one that is too long, of as much of its beginning as fits."""
    call = Embed(model=ModelRef.model_validate(encoder["model"]), inputs=queries)
    while True:
        try:
            found = await metered.collect(request, gateway, call, EMBEDDINGS, "vectors")
            return tuple(found.rows)
        except HeliuError as exc:
            longest = max(len(text) for text in call.inputs)
            if exc.code != TOO_LONG or longest <= _SHORTEST:
                raise
            most = max(_SHORTEST, longest * 2 // 3)
            call = call.model_copy(update={"inputs": tuple(text[:most] for text in call.inputs)})


async def contents(request: Request, gateway: Gateway, store: str, file: str) -> list[str]:
    """The texts of all chunks of an indexed file."""
    texts: list[str] = []
    call = ReadChunks(store_id=store, file_id=file)
    while True:
        done = await sse.unless_gone(request, last_entry(questions.entries(request, gateway, call)))
        texts += done.data["texts"]
        if not done.data["more"]:
            return texts
        call = call.model_copy(update={"offset": len(texts)})
