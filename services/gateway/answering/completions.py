"""The live trip of a completion, chat or text: through the queue to a worker's engine, and back plain or streamed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from anyio import CancelScope, to_thread
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from services.gateway.answering import marking_repository, sse
from services.gateway.answering.answers import Answer
from services.gateway.answering.events import Events
from services.gateway.answering.guarded import Guarded
from services.gateway.answering.ledger import Ledger
from services.gateway.answering.resumable import Resumable, about
from services.gateway.answering.stored import Storing
from services.gateway.auth import Caller
from services.gateway.context import Gateway
from services.gateway.errors import error_object, internal_error
from services.gateway.models import resolve
from services.gateway.registry import releases as registered
from shared.contracts.inference import Completion, CompletionRequest, Generate, ModelRef
from shared.contracts.marking import Marking
from shared.contracts.model_registry import ReleaseUsed
from shared.contracts.stored_chats import check_size
from shared.errors import HeliuError
from shared.kept import Keep
from shared.streams import Entry
from shared.task.bind import TaskVersion
from shared.task.citations import Sources
from shared.task.marking import fitting

log = logging.getLogger(__name__)


async def complete(
    request: Request,
    gateway: Gateway,
    endpoint: str,
    asked: CompletionRequest,
    task: TaskVersion | None = None,
    *,
    resumable: bool = False,
    sources: Sources | None = None,
    said: str | None = None,
    stored: dict[str, str] | None = None,
) -> Response:
    """Answer a checked request, of a task or of a model; leaves one usage row, however it ends.

    `sources` are the passages that stand in its prompt; `said` is the answer where no model needs to be asked;
    `stored` are the labels that it is stored under, where it is.

    A `resumable` stream is made on when its client has gone; the header Content-Location says where it is taken up.
    """
    caller: Caller = request.state.caller
    if stored is not None:
        check_size(asked)
    key = asked.user or request.state.request_id
    ref, marking, used = await to_thread.run_sync(resolve_marked, gateway, caller, asked, endpoint, task, key)
    answer = Answer(endpoint, shown_as(asked, task, used), asked.include_usage)
    answer.sources = sources
    # What its task always says where it finds nothing was written by a person.
    answer.marking = marking if said is None else None
    guarded = (
        Guarded(task.spec.guards.output, asked.n) if task and not task.spec.guards.output.empty else None
    )
    ledger = Ledger(gateway, request, answer, ref, task, guarded, used)
    storing = (
        Storing.of(caller, answer, asked, ref, stored, request.state.request_id)
        if stored is not None
        else None
    )
    request.state.span.set_all(registered.attributes(used))
    headers = {"x-heliu-task-version": task.label} if task else {}
    headers |= registered.headers(used)
    accept_s, keep = gateway.settings.live_deadline_seconds, None
    if resumable:
        guard = task.spec.guards.output if task and guarded else None
        keep = Keep(answer.id, gateway.settings.resume_seconds)
        told = about(
            answer, str(caller.tenant), asked.n * max(1, len(asked.prompts)), guard, ledger, accept_s, storing
        )
        await gateway.kept.open(keep, told)
        headers["content-location"] = f"{endpoint}/{answer.id}"
    entries: AsyncIterator[Entry]
    at_hand: Callable[[], bool] = _never
    if said is not None:
        entries = _saying(said, asked.n)
    else:
        entries = called = gateway.live.call(
            call_of(asked, ref),
            pool=gateway.settings.pool,
            tenant=str(caller.tenant),
            max_in_flight=caller.max_live,
            accept_s=accept_s,
            parent=request.state.span.traceparent,
            enough=guarded.enough if guarded else _never,
            keep=keep,
        )
        if guarded is None and storing is None and keep is None:
            at_hand = called.at_hand
    if guarded is not None:
        entries = guarded.entries(entries)
    if storing is not None:
        entries = storing.entries(gateway.db, entries, sources)
    if keep is not None:
        entries = Resumable(gateway.kept, keep, gateway.orphans).read(entries)
    try:
        # Until the first token everything that goes wrong can still be a proper status.
        first = await sse.unless_gone(
            request, _first(entries) if asked.stream else _all(entries, answer, headers)
        )
    except BaseException as exc:
        gone = isinstance(exc, HeliuError) and exc.code == "client_closed_request"
        ledger.close("error" if isinstance(exc, Exception) and not gone else "cancelled")
        with CancelScope(shield=True):
            await entries.aclose()  # type: ignore[attr-defined]
        raise
    if first is None:
        ledger.close("ok")
        return JSONResponse(answer.whole(), headers=headers)
    return sse.EventStream(_Chunks(request, entries, first, answer, ledger, at_hand), headers)


async def _saying(text: str, count: int) -> AsyncIterator[Entry]:
    """An answer that no worker makes, as one would tell it."""
    choices = [{"text": text, "finish_reason": "stop"}] * count
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    yield Entry("", 1, 0, "done", {"choices": choices, "usage": usage, "timings": {}})


def call_of(asked: CompletionRequest, ref: ModelRef) -> Generate:
    """All that is to be completed, whatever the contract comes to hold, as a call of the model."""
    return Generate(model=ref, **{name: getattr(asked, name) for name in Completion.model_fields})


def shown_as(asked: CompletionRequest, task: TaskVersion | None, used: ReleaseUsed | None) -> str:
    """The model as the answer names it: with the version of a task or of a registered model."""
    if task is not None:
        return f"task:{task.label}"
    return used.model if used is not None else asked.model


def resolve_marked(
    gateway: Gateway,
    caller: Caller,
    asked: CompletionRequest,
    endpoint: str,
    task: TaskVersion | None,
    key: str,
) -> tuple[ModelRef, Marking | None, ReleaseUsed | None]:
    """The caller's model, if the caller has tokens left, how its answer is to be marked, and the version of a
    registered model that it is."""
    gateway.limiter.check_tokens(caller)
    with gateway.db.transaction(caller.tenant) as connection:
        ref, used = resolve.called(connection, caller.tenant, asked.model, endpoint, key)
        marking = marking_repository.marking_for(connection, caller.tenant, task.name if task else None)
    return ref, fitting(marking, asked), used


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


def _never() -> bool:
    return False


class _Chunks:
    """Events from the first token on, those in one piece that come at once. An error in the middle is told as an
    error, never as a quiet end.

    `aclose` ends the work and writes the ledger, also where nobody has asked for a chunk: a generator that never
    began has no `finally` to run.
    """

    def __init__(
        self,
        request: Request,
        entries: AsyncIterator[Entry],
        first: Entry,
        answer: Answer,
        ledger: Ledger,
        at_hand: Callable[[], bool] = _never,
    ) -> None:
        """`at_hand` tells whether the next entry is there, and will come to an event; False is always right."""
        self._state = request.state
        self._resumable = entries if isinstance(entries, Resumable) else None
        self._entries = entries
        self._first = first
        self._answer = answer
        self._ledger = ledger
        self._at_hand = at_hand
        self._status = "cancelled"
        self._made = self._make()

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._made)

    async def aclose(self) -> None:
        await self._made.aclose()
        if self._resumable is not None and self._status == "cancelled":
            await self._resumable.orphan(self._answer, self._ledger)
            return
        self._ledger.close(self._status)
        await self._entries.aclose()  # type: ignore[attr-defined]

    async def _make(self) -> AsyncGenerator[bytes, None]:
        events = Events(self._answer, placed=self._resumable is not None)
        told: list[bytes] = []
        try:
            async for entry in _chain(self._first, self._entries):
                told += events.take(entry)
                if told and entry.type != "done" and not self._at_hand():
                    yield b"".join(told)
                    told.clear()
            told.append(sse.DONE)
            yield b"".join(told)
            # Who did not take the last of it has not got the answer.
            self._status = "ok"
            return
        except HeliuError as exc:
            self._status = "error"
            self._state.span.fail(exc.message)
            told.append(sse.event({"error": error_object(exc, self._state.trace_id)}))
        except Exception as exc:
            self._status = "error"
            self._state.span.fail(type(exc).__name__)
            log.exception("stream_failed", extra={"trace_id": self._state.trace_id})
            told.append(sse.event({"error": error_object(internal_error(), self._state.trace_id)}))
        yield b"".join(told)


async def _chain(first: Entry, rest: AsyncIterator[Entry]) -> AsyncIterator[Entry]:
    yield first
    if first.type != "done":
        async for entry in rest:
            yield entry
