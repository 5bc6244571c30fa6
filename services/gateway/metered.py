"""A live call of a model whose answer is a list of results: collected, with one usage row, however it ends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from fastapi import Request

from services.gateway import questions, resolve, sse
from services.gateway.auth import Caller
from services.gateway.context import Gateway
from services.gateway.usage import UsageRow
from shared import semconv
from shared.contracts.inference import ModelCall, ModelRef
from shared.errors import HeliuError
from shared.streams import Entry


@dataclass(frozen=True)
class Results:
    """In the order of what was asked; `tokens` are those of all inputs, `headers` say that the model was waited for."""

    rows: list[Any]
    tokens: int
    headers: dict[str, str]


async def resolved(request: Request, gateway: Gateway, model: str, endpoint: str) -> ModelRef:
    """The caller's model of this name, if it serves the endpoint and the caller has tokens left."""
    caller: Caller = request.state.caller

    def look() -> ModelRef:
        gateway.limiter.check_tokens(caller)
        with gateway.db.transaction(caller.tenant) as connection:
            return resolve.served(resolve.model_row(connection, caller.tenant, model), endpoint)

    return await to_thread.run_sync(look)


async def collect(request: Request, gateway: Gateway, call: ModelCall, endpoint: str, entry: str) -> Results:
    """The rows of all entries of the type `entry`, which have them under that name."""
    began, tokens, status = time.monotonic(), 0, "error"
    try:
        found = await sse.unless_gone(request, _gather(questions.entries(request, gateway, call), entry))
        tokens, status = found.tokens, "ok"
        return found
    except BaseException as exc:
        gone = isinstance(exc, HeliuError) and exc.code == "client_closed_request"
        status = "error" if isinstance(exc, Exception) and not gone else "cancelled"
        raise
    finally:
        _leave_usage(request, gateway, call.model, endpoint, status, tokens, time.monotonic() - began)


async def _gather(entries: AsyncIterator[Entry], kind: str) -> Results:
    rows: list[Any] = []
    tokens = 0
    headers: dict[str, str] = {}
    async for entry in entries:
        if entry.type == "waiting":
            headers |= sse.waited(entry)
        elif entry.type == kind:
            rows += entry.data[kind]
        elif entry.type == "done":
            tokens = int(entry.data["usage"]["prompt_tokens"])
    return Results(rows, tokens, headers)


def _leave_usage(
    request: Request,
    gateway: Gateway,
    model: ModelRef,
    endpoint: str,
    status: str,
    tokens: int,
    seconds: float,
) -> None:
    state = request.state
    caller: Caller = state.caller
    state.span.set_all({semconv.GEN_AI_REQUEST_MODEL: model.name, semconv.GEN_AI_INPUT_TOKENS: tokens})
    gateway.usage.add(
        UsageRow(
            tenant_id=caller.tenant,
            api_key_id=caller.key_id,
            request_id=state.request_id,
            endpoint=endpoint,
            model=model.name,
            model_artifact=model.adapter_artifact or model.base_artifact,
            pool=gateway.settings.pool,
            status=status,
            prompt_tokens=tokens,
            completion_tokens=0,
            seconds=seconds,
            first_token_seconds=None,
            trace_id=state.trace_id,
        )
    )
