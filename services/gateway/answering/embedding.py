"""The live trips that end in one answer without choices: vectors of texts, and tokens. Leaves usage for vectors."""

from __future__ import annotations

from anyio import to_thread
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from services.gateway.answering import metered, questions, sse
from services.gateway.context import Gateway
from shared.contracts import tokens
from shared.contracts.embeddings import EMBEDDINGS, embeddings
from shared.contracts.inference import Embed, EmbeddingRequest
from shared.contracts.tokens import DetokenizeRequest, TokenizeRequest
from shared.live_client import last_entry


async def embed(request: Request, gateway: Gateway, asked: EmbeddingRequest) -> Response:
    """Answer a checked request for embeddings; leaves one usage row, however it ends."""
    called = await metered.resolved(request, gateway, asked.model, EMBEDDINGS, asked.user)
    call = Embed(model=called.ref, inputs=asked.inputs, dimensions=asked.dimensions)
    found = await metered.collect(request, gateway, call, EMBEDDINGS, "vectors", called.used)

    def answer() -> Response:
        body = embeddings(called.shown, found.rows, found.tokens, asked.encoding_format)
        return JSONResponse(body, headers=found.headers)

    # Some hundred thousand numbers would hold up every stream that this loop serves.
    return await to_thread.run_sync(answer)


async def tokenize(request: Request, gateway: Gateway, asked: TokenizeRequest) -> Response:
    """Tokens of a text or a chat."""
    called = await metered.resolved(request, gateway, asked.model, tokens.TOKENIZE)
    call = asked.of(called.ref)
    done = await sse.unless_gone(request, last_entry(questions.entries(request, gateway, call)))
    told = done.data
    return JSONResponse(tokens.tokenized(told["tokens"], told["texts"], told["context"]))


async def detokenize(request: Request, gateway: Gateway, asked: DetokenizeRequest) -> Response:
    """The text of tokens."""
    called = await metered.resolved(request, gateway, asked.model, tokens.DETOKENIZE)
    call = asked.of(called.ref)
    done = await sse.unless_gone(request, last_entry(questions.entries(request, gateway, call)))
    return JSONResponse(tokens.detokenized(done.data["text"]))
