"""The live trips that end in one answer without choices: vectors of texts, and tokens. Leaves usage for vectors."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from anyio import to_thread
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from services.gateway import resolve, sse
from services.gateway.auth import Caller
from services.gateway.context import Gateway
from services.gateway.usage import UsageRow
from shared import semconv
from shared.contracts import tokens
from shared.contracts.base import LiveCall
from shared.contracts.embeddings import EMBEDDINGS, embeddings
from shared.contracts.inference import Embed, EmbeddingRequest, ModelRef
from shared.contracts.tokens import DetokenizeRequest, TokenizeRequest
from shared.errors import HeliuError
from shared.live_client import last_entry
from shared.streams import Entry


async def embed(request: Request, gateway: Gateway, asked: EmbeddingRequest) -> Response:
    """Answer a checked request for embeddings; leaves one usage row, however it ends."""
    caller: Caller = request.state.caller
    ref = await to_thread.run_sync(_resolve, gateway, caller, asked.model, EMBEDDINGS)
    began, prompt_tokens, status = time.monotonic(), 0, "error"
    call = Embed(model=ref, inputs=asked.inputs, dimensions=asked.dimensions)
    headers: dict[str, str] = {}
    try:
        vectors, prompt_tokens = await sse.unless_gone(
            request, _vectors(_ask(request, gateway, call), headers)
        )
        status = "ok"
    except BaseException as exc:
        gone = isinstance(exc, HeliuError) and exc.code == "client_closed_request"
        status = "error" if isinstance(exc, Exception) and not gone else "cancelled"
        raise
    finally:
        _leave_usage(request, gateway, asked.model, ref, status, prompt_tokens, time.monotonic() - began)

    def answer() -> Response:
        body = embeddings(asked.model, vectors, prompt_tokens, asked.encoding_format)
        return JSONResponse(body, headers=headers)

    # Some hundred thousand numbers would hold up every stream that this loop serves.
    return await to_thread.run_sync(answer)


async def tokenize(request: Request, gateway: Gateway, asked: TokenizeRequest) -> Response:
    """Tokens of a text or a chat."""
    ref = await to_thread.run_sync(_resolve, gateway, request.state.caller, asked.model, tokens.TOKENIZE)
    done = await sse.unless_gone(request, last_entry(_ask(request, gateway, asked.of(ref))))
    told = done.data
    return JSONResponse(tokens.tokenized(told["tokens"], told["texts"], told["context"]))


async def detokenize(request: Request, gateway: Gateway, asked: DetokenizeRequest) -> Response:
    """The text of tokens."""
    ref = await to_thread.run_sync(_resolve, gateway, request.state.caller, asked.model, tokens.DETOKENIZE)
    done = await sse.unless_gone(request, last_entry(_ask(request, gateway, asked.of(ref))))
    return JSONResponse(tokens.detokenized(done.data["text"]))


def _resolve(gateway: Gateway, caller: Caller, model: str, endpoint: str) -> ModelRef:
    gateway.limiter.check_tokens(caller)
    with gateway.db.transaction(caller.tenant) as connection:
        return resolve.served(resolve.model_row(connection, caller.tenant, model), endpoint)


def _ask(request: Request, gateway: Gateway, call: LiveCall) -> AsyncIterator[Entry]:
    caller: Caller = request.state.caller
    return gateway.live.call(
        call,
        pool=gateway.settings.pool,
        tenant=str(caller.tenant),
        max_in_flight=caller.max_live,
        accept_s=gateway.settings.live_deadline_seconds,
        parent=request.state.span.traceparent,
    )


async def _vectors(entries: AsyncIterator[Entry], headers: dict[str, str]) -> tuple[list[str], int]:
    """(vectors in order, tokens of all texts); tells in `headers` when nobody served the model at first."""
    vectors: list[str] = []
    counted = 0
    async for entry in entries:
        if entry.type == "waiting":
            headers |= sse.waited(entry)
        elif entry.type == "vectors":
            vectors += entry.data["vectors"]
        elif entry.type == "done":
            counted = int(entry.data["usage"]["prompt_tokens"])
    return vectors, counted


def _leave_usage(
    request: Request, gateway: Gateway, model: str, ref: ModelRef, status: str, counted: int, seconds: float
) -> None:
    state = request.state
    caller: Caller = state.caller
    state.span.set_all({semconv.GEN_AI_REQUEST_MODEL: model, semconv.GEN_AI_INPUT_TOKENS: counted})
    gateway.usage.add(
        UsageRow(
            tenant_id=caller.tenant,
            api_key_id=caller.key_id,
            request_id=state.request_id,
            endpoint=EMBEDDINGS,
            model=model,
            model_artifact=ref.adapter_artifact or ref.base_artifact,
            pool=gateway.settings.pool,
            status=status,
            prompt_tokens=counted,
            completion_tokens=0,
            seconds=seconds,
            first_token_seconds=None,
            trace_id=state.trace_id,
        )
    )
