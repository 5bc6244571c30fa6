"""A stream that is read by a GET, from its beginning or from a place in it, whoever makes it and wherever."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import Request

from services.gateway.answering import resumable, sse
from services.gateway.answering.following import Follower, Gap
from services.gateway.answering.ledger import taken_up
from services.gateway.answering.places import HEADER, Place
from services.gateway.answering.stored import Storing
from services.gateway.auth import Caller
from services.gateway.context import Gateway
from services.gateway.errors import error_object, internal_error
from shared.errors import HeliuError, NotFound, Unavailable
from shared.kept import OVERGROWN, Keep
from shared.streams import Entry

log = logging.getLogger(__name__)

WAIT_S = 1.0
COMMENT_S = 15.0


class TakenUp:
    """Events as they come. What goes wrong before the first is raised, and told in the stream from there on."""

    def __init__(
        self,
        request: Request,
        events: AsyncGenerator[bytes, None],
        leave: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._request = request
        self._events = events
        self._leave = leave
        self._first: bytes | None = None
        self._made = self._make()

    async def begin(self) -> TakenUp:
        """Wait for the first event. Raises HeliuError; nothing is left open then."""
        try:
            self._first = await sse.unless_gone(self._request, anext(self._events, b""))
        except BaseException:
            await self.aclose()
            raise
        return self

    def __aiter__(self) -> TakenUp:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._made)

    async def aclose(self) -> None:
        await self._made.aclose()
        await self._events.aclose()
        if self._leave is not None:
            await self._leave()

    async def _make(self) -> AsyncGenerator[bytes, None]:
        state = self._request.state
        if self._first:
            yield self._first
        try:
            async for event in self._events:
                yield event
        except HeliuError as exc:
            state.span.fail(exc.message)
            yield sse.event({"error": error_object(exc, state.trace_id)})
        except Exception as exc:
            state.span.fail(type(exc).__name__)
            log.exception("stream_failed", extra={"trace_id": state.trace_id})
            yield sse.event({"error": error_object(internal_error(), state.trace_id)})


async def take_up(
    request: Request, gateway: Gateway, endpoint: str, answer_id: str, *, include_usage: bool
) -> TakenUp:
    """The rest of a live answer's stream. Raises NotFound for one that is not kept, or is another tenant's."""
    caller: Caller = request.state.caller
    place = Place.parse(request.headers.get(HEADER))
    told = await gateway.kept.about(answer_id)
    seconds = gateway.settings.resume_seconds
    if told is None or told["tenant"] != str(caller.tenant) or told["endpoint"] != endpoint:
        raise NotFound(
            f"no answer {answer_id[:80]!r}: none of this name was asked for with resumable, or it is more than "
            f"{seconds:g} s since it ended or its client went",
            param="id",
        )
    newest = await gateway.kept.newest(answer_id)
    if newest is not None and newest.type != "error":
        # An end without an answer is told at once, and not behind what there is of it.
        _check(newest, seconds)
    begin = partial(resumable.begin, answer_id, told, include_usage=include_usage)
    watch = gateway.kept.watch(Keep(answer_id, seconds))
    events = _events(gateway, answer_id, told, Follower(place, begin))
    return await TakenUp(request, events, watch.leave).begin()


async def _events(
    gateway: Gateway, answer_id: str, told: dict[str, Any], follower: Follower
) -> AsyncGenerator[bytes, None]:
    """Chunks with their ids, comments while there are none, and the mark of the end."""
    last, heard_at = b"0", time.monotonic()
    spoken_at = float("-inf")
    while not gateway.closing.is_set():
        last, entries = await gateway.kept.read(answer_id, last, WAIT_S)
        for entry in entries:
            heard_at = time.monotonic()
            _check(entry, gateway.settings.resume_seconds)
            chunks = _chunks(follower, entry)
            if follower.done and told.get("storing"):
                # Whoever began the answer may not live to store it.
                storing = Storing.load(told["storing"])
                await storing.keep(gateway.db, follower.answer.choices, follower.answer.counts)
            for event in chunks:
                spoken_at = heard_at
                yield event
            if follower.done:
                seconds = max(0.0, time.time() - told["created"])
                gateway.usage.add(taken_up(told["row"], follower.answer, follower.guarded, seconds))
                yield sse.DONE
                return
            # A long answer is read in one go: others want the loop too.
            await asyncio.sleep(0)
        if not entries:
            await _check_alive(gateway, answer_id, told, follower, time.monotonic() - heard_at)
        if time.monotonic() - spoken_at > COMMENT_S:
            spoken_at = time.monotonic()
            yield sse.COMMENT
    raise stopping()


def stopping() -> Unavailable:
    """Why a stream that is not at its end has one: a client must not take it for the answer's."""
    return Unavailable(f"this gateway stops; take the stream up again with {HEADER}", code="gateway_stopping")


def _chunks(follower: Follower, entry: Entry) -> list[bytes]:
    try:
        return [sse.event(chunk, id_=str(place)) for place, chunk in follower.take(entry)]
    except Gap as exc:
        raise HeliuError(
            "the beginning of this answer, or a part of it, is not kept any more; ask for it anew",
            code="stream_gone",
        ) from exc


def _check(entry: Entry, seconds: float) -> None:
    """Raise HeliuError for an entry that ends a stream without an answer."""
    if entry.type == "error":
        raise HeliuError(
            str(entry.data["message"]),
            code=str(entry.data["code"]),
            param=entry.data.get("param"),
            retryable=bool(entry.data.get("retryable")),
        )
    if entry.type == OVERGROWN:
        raise HeliuError(
            "this answer has outgrown what is kept of one; its stream cannot be taken up again",
            code="stream_gone",
        )
    if entry.type == "done" and resumable.given_up(entry):
        raise HeliuError(
            f"this answer was given up: its client had been gone for {seconds:g} s; ask for it anew",
            code="stream_gone",
        )


async def _check_alive(
    gateway: Gateway, answer_id: str, told: dict[str, Any], follower: Follower, silent_s: float
) -> None:
    """Raise HeliuError for an answer that nobody makes any more: neither its worker nor its gateway could say so."""
    if not follower.begun and time.time() < told["accepted_by"]:
        return
    if silent_s <= gateway.settings.live_silence_seconds or await gateway.kept.made(answer_id):
        return
    if await gateway.kept.about(answer_id) is None:
        raise HeliuError("this answer is not kept any more; ask for it anew", code="stream_gone")
    raise Unavailable(f"whoever made this answer is silent for {silent_s:.0f} s", code="worker_lost")
