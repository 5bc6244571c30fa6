"""A live call of a model whose answer is a list of results: collected, with one usage row, however it ends."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from anyio import to_thread
from fastapi import Request

from services.gateway.answering import questions, sse
from services.gateway.answering.usage import UsageRow
from services.gateway.auth import Caller
from services.gateway.context import Gateway
from services.gateway.models import resolve
from services.gateway.registry import releases as registered
from shared import semconv
from shared.contracts.inference import ModelCall, ModelRef
from shared.contracts.model_registry import ReleaseUsed
from shared.errors import HeliuError
from shared.streams import Entry


@dataclass(frozen=True)
class Results:
    """In the order of what was asked; `tokens` are those of all inputs, `headers` say that the model was waited for."""

    rows: list[Any]
    tokens: int
    headers: dict[str, str]


@dataclass(frozen=True)
class Called:
    """The model that answers, and the version of a registered name that it is."""

    ref: ModelRef
    name: str
    used: ReleaseUsed | None

    @property
    def shown(self) -> str:
        """The model as the answer names it."""
        return self.used.model if self.used is not None else self.name


async def resolved(
    request: Request, gateway: Gateway, model: str, endpoint: str, user: str | None = None
) -> Called:
    """The caller's model of this name, if it serves the endpoint and the caller has tokens left."""
    caller: Caller = request.state.caller
    key = user or request.state.request_id

    def look() -> Called:
        gateway.limiter.check_tokens(caller)
        with gateway.db.transaction(caller.tenant) as connection:
            ref, used = resolve.called(connection, caller.tenant, model, endpoint, key)
        return Called(ref, model, used)

    found = await to_thread.run_sync(look)
    request.state.span.set_all(registered.attributes(found.used))
    return found


async def collect(
    request: Request,
    gateway: Gateway,
    call: ModelCall,
    endpoint: str,
    entry: str,
    used: ReleaseUsed | None = None,
) -> Results:
    """The rows of all entries of the type `entry`, which have them under that name."""
    began, tokens, status = time.monotonic(), 0, "error"
    try:
        found = await sse.unless_gone(request, _gather(questions.entries(request, gateway, call), entry))
        tokens, status = found.tokens, "ok"
        return replace(found, headers=found.headers | registered.headers(used))
    except BaseException as exc:
        gone = isinstance(exc, HeliuError) and exc.code == "client_closed_request"
        status = "error" if isinstance(exc, Exception) and not gone else "cancelled"
        raise
    finally:
        seconds = time.monotonic() - began
        _leave_usage(request, gateway, call.model, used, endpoint, status, tokens, seconds)


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
    used: ReleaseUsed | None,
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
            metadata=json.dumps(used.metadata if used else {}),
        )
    )
