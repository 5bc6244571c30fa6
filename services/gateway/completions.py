"""The live trip of a completion, chat or text: through the queue to a worker's engine, and back plain or streamed."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

from anyio import to_thread
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from services.gateway import resolve, sse
from services.gateway.answers import Answer
from services.gateway.auth import Caller
from services.gateway.context import Gateway
from services.gateway.errors import error_object, internal_error
from services.gateway.guarded import Guarded
from services.gateway.usage import UsageRow
from shared import semconv
from shared.contracts.inference import Completion, CompletionRequest, Generate, ModelRef
from shared.errors import HeliuError
from shared.streams import Entry
from shared.task.bind import TaskVersion

log = logging.getLogger(__name__)


async def complete(
    request: Request,
    gateway: Gateway,
    endpoint: str,
    asked: CompletionRequest,
    task: TaskVersion | None = None,
) -> Response:
    """Answer a checked request, of a task or of a model; leaves one usage row, however it ends."""
    caller: Caller = request.state.caller
    ref = await to_thread.run_sync(_resolve, gateway, caller, asked.model, endpoint)
    answer = Answer(endpoint, f"task:{task.label}" if task else asked.model, asked.include_usage)
    guarded = (
        Guarded(task.spec.guards.output, asked.n) if task and not task.spec.guards.output.empty else None
    )
    ledger = _Ledger(gateway, request, answer, ref, task, guarded)
    entries: AsyncIterator[Entry] = gateway.live.call(
        call_of(asked, ref),
        pool=gateway.settings.pool,
        tenant=str(caller.tenant),
        max_in_flight=caller.max_live,
        accept_s=gateway.settings.live_deadline_seconds,
        parent=request.state.span.traceparent,
        enough=guarded.enough if guarded else lambda: False,
    )
    if guarded is not None:
        entries = guarded.entries(entries)
    headers = {"x-heliu-task-version": task.label} if task else {}
    try:
        # Until the first token everything that goes wrong can still be a proper status.
        first = await sse.unless_gone(
            request, _first(entries) if asked.stream else _all(entries, answer, headers)
        )
    except BaseException as exc:
        gone = isinstance(exc, HeliuError) and exc.code == "client_closed_request"
        ledger.close("error" if isinstance(exc, Exception) and not gone else "cancelled")
        raise
    if first is None:
        ledger.close("ok")
        return JSONResponse(answer.whole(), headers=headers)
    return sse.EventStream(_Chunks(request, entries, first, answer, ledger), headers)


def call_of(asked: CompletionRequest, ref: ModelRef) -> Generate:
    """All that is to be completed, whatever the contract comes to hold, as a call of the model."""
    return Generate(model=ref, **{name: getattr(asked, name) for name in Completion.model_fields})


class _Ledger:
    """Writes the one usage row of a request, however it ends."""

    def __init__(
        self,
        gateway: Gateway,
        request: Request,
        answer: Answer,
        ref: ModelRef,
        task: TaskVersion | None,
        guarded: Guarded | None,
    ) -> None:
        self._gateway = gateway
        self._request = request
        self._answer = answer
        self._ref = ref
        self._task = task
        self._guarded = guarded

    def close(self, status: str) -> None:
        """`status` is ok, error or cancelled."""
        answer, state = self._answer, self._request.state
        caller: Caller = state.caller
        metadata = self._task.metadata if self._task else {}
        if self._guarded is not None:
            self._guarded.record(self._gateway.platform.tracing, state.span.traceparent)
            if refused := self._guarded.refused:
                metadata = {**metadata, "refused_by": ", ".join(refused)}
        state.span.set_all(
            {
                semconv.GEN_AI_REQUEST_MODEL: answer.model,
                semconv.GEN_AI_INPUT_TOKENS: answer.counts["prompt_tokens"],
                semconv.GEN_AI_OUTPUT_TOKENS: answer.counts["completion_tokens"],
            }
        )
        self._gateway.usage.add(
            UsageRow(
                tenant_id=caller.tenant,
                api_key_id=caller.key_id,
                request_id=state.request_id,
                endpoint=answer.endpoint,
                model=self._ref.name,
                model_artifact=self._ref.adapter_artifact or self._ref.base_artifact,
                pool=self._gateway.settings.pool,
                status=status,
                prompt_tokens=answer.counts["prompt_tokens"],
                completion_tokens=answer.counts["completion_tokens"],
                seconds=answer.seconds,
                first_token_seconds=answer.first_token_s,
                trace_id=state.trace_id,
                metadata=json.dumps(metadata),
            )
        )


def _resolve(gateway: Gateway, caller: Caller, model: str, endpoint: str) -> ModelRef:
    gateway.limiter.check_tokens(caller)
    with gateway.db.transaction(caller.tenant) as connection:
        return resolve.served(resolve.model_row(connection, caller.tenant, model), endpoint)


async def _first(entries: AsyncIterator[Entry]) -> Entry | None:
    """The first token; or word that nobody serves the model yet, so that the stream can say so."""
    async for entry in entries:
        if entry.type in ("token", "done", "waiting"):
            return entry
    raise internal_error()


async def _all(entries: AsyncIterator[Entry], answer: Answer, headers: dict[str, str]) -> Entry | None:
    async for entry in entries:
        if entry.type == "token":
            answer.token(entry.data)
        elif entry.type == "waiting":
            headers |= sse.waited(entry)
        elif entry.type == "done":
            deque(answer.done(entry.data), maxlen=0)
    return None


class _Chunks:
    """Chunks from the first token on. An error in the middle is told as an error, never as a quiet end.

    `aclose` ends the work and writes the ledger, also where nobody has asked for a chunk: a generator that never
    began has no `finally` to run.
    """

    def __init__(
        self, request: Request, entries: AsyncIterator[Entry], first: Entry, answer: Answer, ledger: _Ledger
    ) -> None:
        self._state = request.state
        self._entries = entries
        self._first = first
        self._answer = answer
        self._ledger = ledger
        self._status = "cancelled"
        self._made = self._make()

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._made)

    async def aclose(self) -> None:
        await self._made.aclose()
        self._ledger.close(self._status)
        await self._entries.aclose()  # type: ignore[attr-defined]

    async def _make(self) -> AsyncGenerator[bytes, None]:
        answer = self._answer
        try:
            for chunk in answer.opening():
                yield sse.event(chunk)
            async for entry in _chain(self._first, self._entries):
                if entry.type == "waiting":
                    yield sse.comment(entry.data["message"])
                elif entry.type == "token":
                    yield sse.event(answer.token(entry.data))
                elif entry.type == "done":
                    for chunk in answer.done(entry.data):
                        yield sse.event(chunk)
            if answer.include_usage:
                yield sse.event(answer.usage_chunk())
            self._status = "ok"
            yield sse.DONE
        except HeliuError as exc:
            self._status = "error"
            self._state.span.fail(exc.message)
            yield sse.event({"error": error_object(exc, self._state.trace_id)})
        except Exception as exc:
            self._status = "error"
            self._state.span.fail(type(exc).__name__)
            log.exception("stream_failed", extra={"trace_id": self._state.trace_id})
            yield sse.event({"error": error_object(internal_error(), self._state.trace_id)})


async def _chain(first: Entry, rest: AsyncIterator[Entry]) -> AsyncIterator[Entry]:
    yield first
    if first.type != "done":
        async for entry in rest:
            yield entry
