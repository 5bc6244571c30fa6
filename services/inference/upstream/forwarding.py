"""One request of the worker, forwarded: waits for its place, asks, tries once more, and tells its end in frames."""

from __future__ import annotations

import asyncio
import base64
import random
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from services.inference.upstream import asking, bodies
from services.inference.upstream.answering import Answering
from services.inference.upstream.messages import Forward
from services.inference.upstream.refusals import Passing, broken, is_number, malformed
from services.inference.upstream.slots import Slots
from shared.contracts.inference import Completion, Embedding
from shared.errors import HeliuError
from shared.frames import Frame

CHAT, TEXT, EMBEDDINGS = "/chat/completions", "/completions", "/embeddings"
# Texts of one request for vectors: their numbers, as JSON, are megabytes.
TEXTS_AT_ONCE = 64
# A live request waits for a busy upstream until its own deadline, a row of a batch so often.
MOST_BUSY = 10
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 60.0
AGAIN_PAUSE_S = 0.25

Write = Callable[[Frame], None]


class Forwarding:
    """Owns one request from its arrival to its last frame. `write` gets frames; every id has one that ends it."""

    def __init__(self, ask: Forward, write: Write, silence_s: float) -> None:
        self._ask = ask
        self._write = write
        self._silence_s = silence_s
        self._arrived = time.monotonic()
        self._began: float | None = None
        self._first: float | None = None
        self._answering = Answering(ask.completion, ask.ids, ask.upstream.api_key) if ask.completion else None
        self.resends = 0

    async def run(self, slots: Slots, http: httpx.AsyncClient) -> None:
        """Answer it; whatever goes wrong ends in error frames. Cancelled, it leaves its end to `cancelled`."""
        try:
            self._check_room()
            async with asyncio.timeout(self._ask.start_s) as deadline, slots.place(live=self._ask.live):
                self._began = time.monotonic()
                # What remains of the time is for pauses; a request that is under way has its own limits.
                left = deadline.when()
                deadline.reschedule(None)
                await self._until_done(http, left)
        except TimeoutError:
            slots_full = (
                f"every place that a worker has in the upstream {self._ask.upstream.name!r} was taken"
            )
            self._fail(
                HeliuError(
                    f"{slots_full} for {self._ask.start_s:g} s; HELIU_UPSTREAM_SLOTS says how many there are",
                    code="upstream_busy",
                    retryable=True,
                )
            )
        except HeliuError as error:
            self._fail(error)
        except Exception as exc:
            self._fail(HeliuError(f"forwarding failed: {type(exc).__name__}", code="engine_failed"))
            raise

    def cancelled(self) -> None:
        """Its end, when whoever asked has gone: what was made until then, and what it cost."""
        if self._answering is not None:
            self._finish(self._answering)
        else:
            self._fail(HeliuError("whoever asked has gone", code="client_closed_request"))

    async def _until_done(self, http: httpx.AsyncClient, deadline: float | None) -> None:
        ask, busy, failed = self._ask, 0, 0
        once: Callable[[httpx.AsyncClient], Awaitable[None]] = (
            self._complete if ask.completion is not None else self._embed
        )
        while True:
            try:
                await once(http)
                return
            except Passing as error:
                told = self._answering is not None and self._answering.begun and ask.streamed
                busy, failed = busy + error.busy, failed + (not error.busy)
                if told or failed > 1 or busy > MOST_BUSY:
                    raise
                pause = _pause(error, busy, longest=LONGEST_PAUSE_S)
                if deadline is not None and asyncio.get_running_loop().time() + pause > deadline:
                    raise
            self.resends += 1
            self._first = None
            if self._answering is not None:
                self._answering.reset()
            await asyncio.sleep(pause)

    async def _complete(self, http: httpx.AsyncClient) -> None:
        ask, answering = self._ask, self._answering
        assert ask.completion is not None
        assert answering is not None
        path = CHAT if ask.completion.messages else TEXT
        events = asking.stream(
            http,
            ask.upstream,
            path,
            bodies.completion(ask.completion, ask.upstream.model),
            silence_s=self._silence_s,
            trace=ask.traceparent,
        )
        try:
            async for is_whole, event in events:
                for frame in answering.take_whole(event) if is_whole else answering.take(event):
                    self._first = self._first or time.monotonic()
                    if ask.streamed:
                        self._write(frame)
        finally:
            await events.aclose()  # type: ignore[attr-defined]  # an async generator is what it is
        if not answering.complete:
            raise broken("the answer ended before it was whole")
        self._finish(answering)

    def _finish(self, answering: Answering) -> None:
        now = time.monotonic()
        began = self._began or now
        remote = {
            "model": answering.model,
            "resends": self.resends,
            "usage_estimated": not answering.counted,
        }
        for frame in answering.done(queue_s=began - self._arrived, first_s=self._first, began=began, now=now):
            self._write({**frame, "remote": remote})

    async def _embed(self, http: httpx.AsyncClient) -> None:
        ask, wanted = self._ask, self._ask.embedding
        assert wanted is not None
        assert self._began is not None
        vectors: list[bytes] = []
        tokens = 0
        for start in range(0, len(wanted.inputs), TEXTS_AT_ONCE):
            texts = wanted.inputs[start : start + TEXTS_AT_ONCE]
            answer = await asking.whole(
                http,
                ask.upstream,
                EMBEDDINGS,
                bodies.embedding(wanted, texts, ask.upstream.model),
                silence_s=self._silence_s,
                trace=ask.traceparent,
            )
            found, counted = read_vectors(answer, len(texts))
            vectors += found
            tokens += counted if counted is not None else _estimate(wanted, start, len(texts))
        if len({len(vector) for vector in vectors}) != 1:
            raise malformed("vectors of several lengths")
        queue_s, compute_s = self._began - self._arrived, time.monotonic() - self._began
        for index, (name, vector) in enumerate(zip(ask.ids, vectors, strict=True)):
            self._write(
                {
                    "type": "done",
                    "id": name,
                    "vector": base64.b64encode(vector).decode(),
                    "usage": {"prompt_tokens": 0 if index else tokens},
                    "timings": {"queue_s": queue_s, "compute_s": compute_s},
                    "spans": [],
                    "remote": {"model": None, "resends": self.resends},
                }
            )

    def _check_room(self) -> None:
        """Refuse what cannot fit, where the length is known, without asking."""
        context, wanted = self._ask.upstream.context, self._ask.completion
        most = wanted.sampling.max_tokens if wanted is not None else None
        if context is not None and most is not None and most >= context:
            raise HeliuError(
                f"max_tokens is {most}, but the model takes {context} together with the prompt",
                code="context_length_exceeded",
                param="max_tokens",
            )

    def _fail(self, error: HeliuError) -> None:
        for name in self._ask.ids:
            self._write(
                {
                    "type": "error",
                    "id": name,
                    "code": error.code,
                    "message": error.message.encode("utf-8", "replace").decode(),
                    "param": error.param,
                    "retryable": error.retryable,
                }
            )


def read_vectors(answer: Any, count: int) -> tuple[list[bytes], int | None]:
    """(float32 little endian of each text, tokens of all where they were counted). Raises HeliuError."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or len(data) != count or not all(isinstance(row, dict) for row in data):
        raise malformed(f"vectors that are not those of {count} texts")
    placed: dict[int, bytes] = {}
    for position, row in enumerate(data):
        index = row.get("index", position)
        if type(index) is not int or not 0 <= index < count or index in placed:
            raise malformed(f"a vector numbered {str(index)[:20]!r}")
        placed[index] = _packed(row.get("embedding"))
    usage = answer.get("usage")
    counted = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    good = type(counted) is int and 0 <= counted < 2**31
    return [placed[index] for index in range(count)], counted if good else None


def _packed(numbers: Any) -> bytes:
    if isinstance(numbers, str):
        try:
            raw = base64.b64decode(numbers, validate=True)
            numbers = list(struct.unpack(f"<{len(raw) // 4}f", raw))
        except (ValueError, struct.error) as exc:
            raise malformed("a vector that is neither numbers nor base64 of such") from exc
    if not isinstance(numbers, list) or not numbers or not all(map(is_number, numbers)):
        raise malformed("a vector that is no list of numbers")
    try:
        return struct.pack(f"<{len(numbers)}f", *numbers)
    except OverflowError as exc:
        raise malformed("a vector with numbers beyond float32") from exc


def _estimate(wanted: Embedding, start: int, count: int) -> int:
    """Tokens of texts that the upstream did not count."""
    texts = Completion(prompts=wanted.inputs[start : start + count])
    (first, *_) = Answering(texts, ["x"]).done(queue_s=0, first_s=None, began=0, now=0)
    return int(first["usage"]["prompt_tokens"])


def _pause(error: Passing, tries: int, *, longest: float) -> float:
    """As long as the upstream asks for, else twice as long each time, with jitter."""
    if not error.busy:
        return AGAIN_PAUSE_S
    if error.pause_s is not None:
        return min(longest, error.pause_s)
    return min(longest, FIRST_PAUSE_S * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.0)
