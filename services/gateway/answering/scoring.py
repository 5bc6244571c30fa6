"""The live trips to a head: labels of texts, and an order of documents. Leave one usage row each."""

from __future__ import annotations

import time

from anyio import to_thread
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from services.gateway.answering import metered
from services.gateway.context import Gateway
from shared.contracts.classifications import CLASSIFICATIONS, classifications
from shared.contracts.rerank import RERANK, check_cut, reranked
from shared.contracts.scores import ClassificationRequest, Classify, Rerank, RerankRequest


async def classify(request: Request, gateway: Gateway, asked: ClassificationRequest) -> Response:
    """Labels of the texts of a checked request."""
    called = await metered.resolved(request, gateway, asked.model, CLASSIFICATIONS, asked.user)
    call = Classify(model=called.ref, inputs=asked.inputs, top_k=asked.top_k, truncate=asked.truncate)
    found = await metered.collect(request, gateway, call, CLASSIFICATIONS, "results", called.used)

    def answer() -> Response:
        body = classifications(
            request.state.request_id, called.shown, int(time.time()), found.rows, found.tokens
        )
        return JSONResponse(body, headers=found.headers)

    # Two thousand texts of a hundred labels each would hold up every stream that this loop serves.
    return await to_thread.run_sync(answer)


async def rerank(request: Request, gateway: Gateway, asked: RerankRequest) -> Response:
    """The documents of a checked request, the best first."""
    called = await metered.resolved(request, gateway, asked.model, RERANK, asked.user)
    check_cut(asked, called.ref.kind)
    call = Rerank(model=called.ref, query=asked.query, documents=asked.documents, truncate=asked.truncate)
    found = await metered.collect(request, gateway, call, RERANK, "results", called.used)
    shown = asked.model_copy(update={"model": called.shown})
    body = reranked(request.state.request_id, shown, found.rows, found.tokens)
    return JSONResponse(body, headers=found.headers)
