"""Chats in the background: accepted as jobs, and fetched or streamed from whatever is known of them.

Postgres holds the truth, an answer's end included; what Redis keeps of a running attempt only tells it sooner.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from anyio import to_thread
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from services.gateway.adaptation.calls import TaskCall, prepare
from services.gateway.answering import repository as chats_repository
from services.gateway.answering import sse
from services.gateway.answering.answers import Answer
from services.gateway.answering.completions import call_of, resolve_marked, shown_as
from services.gateway.answering.delivery import Delivery, labels
from services.gateway.answering.following import Follower, Gap
from services.gateway.answering.places import HEADER, Place
from services.gateway.answering.taken_up import COMMENT_S, TakenUp, stopping
from services.gateway.auth import Caller
from services.gateway.bodies import Incoming
from services.gateway.context import Gateway
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs.submission import submit
from services.gateway.registry import releases as registered
from shared import job_store, semconv
from shared.contracts.answers import completion
from shared.contracts.background import ChatJob, TaskUsed, answer_of, chats_queue, unpack_entries
from shared.contracts.inference import CompletionRequest, Generate
from shared.contracts.stored_chats import check_size
from shared.db import Connection
from shared.errors import HeliuError, NotFound, Unavailable
from shared.jobs import TERMINAL, Job, Status
from shared.streams import Entry
from shared.task.marking import labelled, metadata

KINDS = (ChatJob.kind,)
# How long to wait for an entry, and how often to look whether the job has ended: more often when it is about to.
WAIT_S, LOOK_S = 0.5, 1.0
SOON_S, LOOK_SOON_S = 5.0, 0.05


async def accept(
    request: Request,
    gateway: Gateway,
    endpoint: str,
    incoming: Incoming[Delivery],
    asked: CompletionRequest | TaskCall,
    body: Mapping[str, Any],
) -> Response:
    """A job that answers the request, once it is in Postgres: its shape, or the stream of its answer where one was
    asked for. Raises what the same request would be refused with if it were live."""
    job = await to_thread.run_sync(_submit, request, gateway, endpoint, incoming, asked, labels(body))
    location = f"{endpoint}/{job.id}"
    if body.get("stream"):
        events = await _follow(request, gateway, job, Place())
        return sse.EventStream(events, {"content-location": location, "x-heliu-job": job.id})
    return JSONResponse(job_shapes.job(job), status_code=202, headers={"location": location})


async def fetch(
    request: Request, gateway: Gateway, endpoint: str, job_id: str, *, stream: bool, include_usage: bool
) -> Response:
    """The answer, whole or streamed; as long as there is none, its job with status 202."""
    caller: Caller = request.state.caller
    place = Place.parse(request.headers.get(HEADER)) if stream else Place()
    seen = await to_thread.run_sync(_look, gateway, caller, None, job_id)
    if seen.job.payload["endpoint"] != endpoint:
        raise NotFound(f"no answer {job_id!r} of {endpoint}", param="id")
    if stream:
        events = await _follow(request, gateway, seen.job, place, include_usage=include_usage)
        return sse.EventStream(events)
    if seen.said is not None:
        return JSONResponse(_whole(seen.job, seen.said))
    if seen.job.state in TERMINAL:
        raise _failed(seen.job)
    return JSONResponse(job_shapes.job(seen.job), status_code=202, headers={"retry-after": "1"})


def _submit(
    request: Request,
    gateway: Gateway,
    endpoint: str,
    incoming: Incoming[Delivery],
    asked: CompletionRequest | TaskCall,
    metadata: dict[str, str] | None,
) -> Job:
    delivery = incoming.body
    refused, contract = None, None
    queue = ChatJob.queue_for(gateway.settings.pool)
    try:
        contract = _contract(request, gateway, endpoint, asked, delivery.stored)
        named = chats_queue(gateway.settings.pool, contract.call.model.base_name)
        queue = gateway.serving((named, queue)) or queue
    except Unavailable:
        raise
    except HeliuError as exc:
        # The same request may have been accepted before, when what it names was still there.
        refused = exc

    def make(_: Connection) -> ChatJob:
        if contract is None:
            assert refused is not None
            raise refused
        return contract

    job = submit(
        gateway,
        _traced(gateway, incoming),
        ChatJob,
        make,
        metadata=metadata,
        window=delivery.window,
        priority=delivery.priority or 0,
        queue=queue,
    )
    request.state.span.set_all({semconv.JOB_ID: job.id})
    return job


def _contract(
    request: Request, gateway: Gateway, endpoint: str, asked: CompletionRequest | TaskCall, store: bool
) -> ChatJob:
    caller: Caller = request.state.caller
    version, task = None, None
    if isinstance(asked, TaskCall):
        version, asked = prepare(request, gateway, asked)
        task = TaskUsed(id=version.id, name=version.name, version=version.version)
    if store:
        check_size(asked)
    key = asked.user or request.state.request_id
    ref, marking, used = resolve_marked(gateway, caller, asked, endpoint, version, key)
    request.state.span.set_all(registered.attributes(used))
    return ChatJob(
        endpoint=endpoint,
        call=_settled(call_of(asked, ref)),
        shown=shown_as(asked, version, used),
        include_usage=asked.include_usage,
        task=task,
        release=used,
        marking=marking,
        store=store,
    )


def _settled(call: Generate) -> Generate:
    """The same call with a seed: an attempt after a lost worker says the same again, and its readers go on."""
    if call.sampling.seed is not None or call.model.upstream:
        return call
    sampling = call.sampling.model_copy(update={"seed": secrets.randbits(62)})
    return call.model_copy(update={"sampling": sampling})


def _traced(gateway: Gateway, incoming: Incoming[Delivery]) -> Incoming[Delivery]:
    """Jobs are always traced; where the live request that this looks like is not, a trace of its own begins."""
    if not incoming.traceparent.endswith("-00"):
        return incoming
    root = gateway.platform.tracing.start(
        "chat.background", links=[incoming.traceparent], attributes={semconv.KEEP: True}
    )
    root.end()
    return Incoming(**{**vars(incoming), "traceparent": root.traceparent})


@dataclass(frozen=True)
class _Seen:
    """A job as Postgres has it; `said` are its entries once it has succeeded."""

    job: Job
    said: list[tuple[str, dict[str, Any]]] | None = None


def _look(gateway: Gateway, caller: Caller, key: str | None, job_id: str) -> _Seen:
    """Raises NotFound, and for a reader's `key` that was revoked meanwhile what its next request would."""
    if key is not None:
        gateway.authenticator.check(key)
    with gateway.db.transaction(caller.tenant) as connection:
        job = job_store.get(connection, job_id, kinds=KINDS)
        packed = chats_repository.entries(connection, job_id) if job.state is Status.SUCCEEDED else None
    return _Seen(job, unpack_entries(packed) if packed is not None else None)


def _whole(job: Job, said: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    done = said[-1][1]
    contract = ChatJob.model_validate(job.payload)
    answer, created = answer_of(job.id, contract.endpoint), int(job.created_at.timestamp())
    choices = labelled(contract.marking, done["choices"])
    made = completion(contract.endpoint, answer, contract.shown, created, choices, done["usage"])
    return made | metadata(contract.marking, answer, [str(choice["text"]) for choice in done["choices"]])


def _failed(job: Job) -> HeliuError:
    """Why a job that has ended has no answer, with the code that a live request would have failed with."""
    if job.state is Status.CANCELLED:
        return HeliuError(f"the chat {job.id} was cancelled", code="answer_cancelled")
    if job.state is Status.EXPIRED:
        return HeliuError(f"the chat {job.id} expired before a worker began it", code="answer_expired")
    error = job.error or {}
    return HeliuError(
        str(error.get("message") or f"the chat {job.id} ended as {job.state.value}"),
        code=str(error.get("code") or "internal_error"),
        param=error.get("param"),
        retryable=job.state is Status.DEAD,
    )


def _begin(job: Job, *, include_usage: bool) -> tuple[Answer, None]:
    contract = ChatJob.model_validate(job.payload)
    created = int(job.created_at.timestamp())
    answer = answer_of(job.id, contract.endpoint)
    usage = include_usage or contract.include_usage
    return (
        Answer(
            contract.endpoint, contract.shown, usage, id=answer, created=created, marking=contract.marking
        ),
        None,
    )


async def _follow(
    request: Request, gateway: Gateway, job: Job, place: Place, *, include_usage: bool = False
) -> TakenUp:
    caller: Caller = request.state.caller
    key = request.headers.get("authorization")
    look = partial(_look, gateway, caller, key, job.id)
    follower = Follower(place, partial(_begin, job, include_usage=include_usage))
    return await TakenUp(request, _events(gateway, job.id, look, follower)).begin()


async def _events(
    gateway: Gateway, job_id: str, look: Callable[[], _Seen], follower: Follower
) -> AsyncGenerator[bytes, None]:
    """Chunks of the attempt that runs, as far as Redis tells; the rest, and the end, as Postgres has it."""
    last, look_at, soon_until, spoken_at = b"0", 0.0, 0.0, float("-inf")
    lost = -1
    while not gateway.closing.is_set():
        if time.monotonic() >= look_at:
            try:
                seen = await to_thread.run_sync(look)
            except Unavailable:
                # Whoever reads waits out a restart of Postgres; nothing that was said is lost.
                seen = None
            if seen is not None and seen.said is not None:
                async for event in _rest(seen, follower):
                    yield event
                return
            if seen is not None and seen.job.state in TERMINAL:
                raise _failed(seen.job)
            look_at = time.monotonic() + (LOOK_SOON_S if time.monotonic() < soon_until else LOOK_S)
        try:
            wait_s = min(WAIT_S, max(0.0, look_at - time.monotonic()))
            last, entries = await gateway.kept.read(job_id, last, wait_s)
        except Unavailable:
            await asyncio.sleep(WAIT_S)
            continue
        for entry in entries:
            if entry.attempt > follower.attempt and follower.place.count:
                spoken_at = time.monotonic()
                yield sse.comment(
                    f"attempt {entry.attempt}: a worker was lost, and another makes the answer again"
                )
            if entry.type == "ended":
                look_at, soon_until = 0.0, time.monotonic() + SOON_S
            if entry.attempt <= lost:
                continue
            try:
                chunks = list(follower.take(entry)) if entry.type in ("accepted", "token") else []
            except Gap:
                # Redis has lost a part of this attempt. Its end will be in Postgres, or the next attempt here.
                lost = entry.attempt
                continue
            for place, chunk in chunks:
                spoken_at = time.monotonic()
                yield sse.event(chunk, id_=str(place))
        if time.monotonic() - spoken_at > COMMENT_S:
            spoken_at = time.monotonic()
            yield sse.COMMENT
    raise stopping()


async def _rest(seen: _Seen, follower: Follower) -> AsyncGenerator[bytes, None]:
    """What the reader has not had of an answer that is whole, as one more attempt that says what was committed."""
    assert seen.said is not None
    attempt = max(follower.attempt, seen.job.epoch) + 1
    for seq, (type_, data) in enumerate(seen.said):
        chunks = follower.take(Entry(seen.job.id, attempt, seq, type_, data))
        for place, chunk in chunks:
            yield sse.event(chunk, id_=str(place))
        # A long answer is told in one go: others want the loop too.
        await asyncio.sleep(0)
    yield sse.DONE
