"""The worker's side of a live request: accept, answer in numbered entries, beat, and hear of cancelling."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from redis.exceptions import RedisError

from shared import semconv, streams
from shared.contracts.base import LiveCall
from shared.errors import HeliuError
from shared.kept import Keep, Keeping, beat_for
from shared.metrics import Metrics
from shared.streams import Entry, Write
from shared.telemetry import Span, Tracing

log = logging.getLogger(__name__)

BEAT_S = 1.0


class LiveContext:
    """One request in work. `send` numbers its entries; `cancelled` is set when the client has gone."""

    def __init__(self, envelope: Mapping[str, Any], send: Callable[[Write], None], span: Span) -> None:
        self.request: str = envelope["request"]
        self.attempt: int = envelope["attempt"]
        self.tenant: str = envelope["tenant"]
        self.deadline: float = envelope["deadline"]
        self.reply: str = envelope["reply"]
        self.kept = Keeping(Keep(**envelope["keep"])) if envelope.get("keep") else None
        self.span = span
        self.cancelled = threading.Event()
        self._send = send
        self._seq = 0

    def send(self, type_: str, data: dict[str, Any]) -> None:
        """Send one entry to the caller. Call it from one thread at a time. Raises ValueError for what is no JSON."""
        entry = Entry(self.request, self.attempt, self._seq, type_, data)
        packed = entry.pack()
        self._send(Write(self.reply, packed, joins=True))
        if self.kept is not None and (kept := self.kept.take(entry, packed)) is not None:
            self._send(kept)
        self._seq += 1


LiveHandler = Callable[[LiveContext, Any], dict[str, Any]]


class LiveServer:
    """One per worker process; `serve` blocks one slot of the pool for one request."""

    def __init__(
        self,
        redis_url: str,
        handlers: Mapping[type[LiveCall], LiveHandler],
        *,
        worker_id: str,
        tracing: Tracing,
        metrics: Metrics,
    ) -> None:
        self._handlers = {contract.name: (contract, handler) for contract, handler in handlers.items()}
        self._redis = streams.connect(redis_url)
        self._worker_id = worker_id
        self._tracing = tracing
        self._metrics = metrics
        # By attempt too: the second one of a request may come to the worker that still has the first.
        self._open: dict[tuple[str, int], LiveContext] = {}
        self._lock = threading.Lock()
        self._outgoing: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=work.__name__, daemon=True)
            for work in (self._write, self._beat, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> int:
        return len(self._open)

    def serve(self, envelope: dict[str, Any]) -> None:
        """Answer one request, whatever happens: with `done`, or with a typed `error`."""
        request = envelope["request"]
        if time.time() > envelope["deadline"] or self._given_up(request):
            return
        queue_name = str(envelope.get("queue", "live"))
        with self._tracing.span(
            f"process {queue_name}",
            kind="consumer",
            parent=envelope.get("traceparent"),
            links=[envelope["traceparent"]] if envelope.get("traceparent") else [],
            attributes={
                semconv.MESSAGING_SYSTEM: "celery",
                semconv.MESSAGING_DESTINATION: queue_name,
                semconv.MESSAGING_OPERATION: "process",
                semconv.MESSAGING_REDELIVERED: envelope["attempt"] > 1,
                semconv.REQUEST_ID: request,
                semconv.TENANT: envelope["tenant"],
                semconv.ATTEMPT: envelope["attempt"],
                semconv.QUEUE_WAIT: round(max(0.0, time.time() - envelope["sent_at"]), 6),
                semconv.WORKER: self._worker_id,
            },
        ) as span:
            context = LiveContext(envelope, self._outgoing.put, span)
            with self._lock:
                for earlier in self._attempts_of(request):
                    earlier.cancelled.set()  # whoever asked does not listen to that one any more
                self._open[request, context.attempt] = context
            try:
                context.send("accepted", {"worker": self._worker_id})
                with self._metrics.process_seconds.labels(queue_name).time():
                    context.send("done", self._answer(context, envelope))
            except HeliuError as exc:
                span.fail(exc.message)
                context.send(
                    "error",
                    {
                        "code": exc.code,
                        "message": exc.message,
                        "param": exc.param,
                        "retryable": exc.retryable,
                    },
                )
            except Exception as exc:
                span.fail(type(exc).__name__)
                log.exception("live_handler_raised", extra={"request": request})
                context.send(
                    "error",
                    {
                        "code": "internal_error",
                        "message": f"the worker failed: {type(exc).__name__}",
                        "retryable": True,
                    },
                )
            finally:
                with self._lock:
                    self._open.pop((request, context.attempt), None)

    def _attempts_of(self, request: str) -> list[LiveContext]:
        return [context for context in self._open.values() if context.request == request]

    def _answer(self, context: LiveContext, envelope: Mapping[str, Any]) -> dict[str, Any]:
        name = envelope["call"]
        if name not in self._handlers:
            raise HeliuError(f"this worker does not serve {name!r}", code="no_handler")
        contract, handler = self._handlers[name]
        try:
            call = contract.model_validate(envelope["payload"])
        except ValidationError as exc:
            raise HeliuError(
                f"payload of {name} does not fit its contract: {exc}", code="invalid_value"
            ) from exc
        return handler(context, call)

    def _given_up(self, request: str) -> bool:
        try:
            return bool(self._redis.exists(streams.cancelled_key(request)))
        except RedisError as exc:
            log.warning("cancel_check_failed", extra={"error": str(exc)})
            return False

    def _write(self) -> None:
        """Everything that waits goes out in one pipeline: a slow Redis makes bigger ones, not more."""
        while (first := self._outgoing.get()) is not None:
            entries = [first]
            while not self._outgoing.empty() and len(entries) < 512:
                following = self._outgoing.get()
                if following is None:
                    self._outgoing.put(None)
                    break
                entries.append(following)
            try:
                streams.write(self._redis, entries)
            except Exception as exc:  # noqa: BLE001 - everybody's answers leave here: nothing may end this thread
                # The gateway sees the gap in `seq`, or silence, and answers its client so.
                log.warning("replies_lost", extra={"entries": len(entries), "error": str(exc)})

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            with self._lock:
                contexts = list(self._open.values())
            for reply in {c.reply for c in contexts}:
                alive = {c.request: c.attempt for c in contexts if c.reply == reply}
                self._outgoing.put(Write(reply, Entry("", 0, -1, "beat", alive).pack(), joins=True))
            self._look_after([c for c in contexts if c.kept is not None])

    def _look_after(self, kept: Sequence[LiveContext]) -> None:
        """Say that these are being made, and give up those that no client reads any more, nor will."""
        if not kept:
            return
        try:
            watched = beat_for(self._redis, [c.kept.keep for c in kept if c.kept is not None])
        except RedisError as exc:
            log.warning("watch_unknown", extra={"error": str(exc)})
            return
        for context, still in zip(kept, watched, strict=True):
            if not still:
                context.cancelled.set()

    def _listen(self) -> None:
        # The stream belongs to this incarnation alone, so its first entry is news too.
        stream, last = streams.cancel_stream(self._worker_id), b"0"
        while not self._closed.is_set():
            try:
                answer: Any = self._redis.xread({stream: last}, block=streams.BLOCK_MS, count=256)
            except Exception as exc:  # noqa: BLE001 - deaf to this, the worker would answer the air for ever
                log.warning("cancel_channel_lost", extra={"error": f"{type(exc).__name__}: {exc}"})
                self._closed.wait(0.5)
                continue
            for entry_id, fields in streams.entries_of(answer):
                last = entry_id
                with self._lock:
                    for context in self._attempts_of(fields.get(b"r", b"").decode(errors="replace")):
                        context.cancelled.set()

    def close(self) -> None:
        """Send what is still to be sent and stop."""
        self._closed.set()
        self._outgoing.put(None)
        for thread in self._threads:
            thread.join(5)
        self._redis.close()
