"""The caller's side of a live request: attempts, one retry, cancelling, a cap per tenant.

Runs on an event loop (the gateway's). Entries of older attempts are dropped; a gap in their numbers, or a worker
that falls silent after its first token, is an error event and never a quiet end. `live_replies` reads them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

from redis.exceptions import RedisError

from shared import streams
from shared.contracts.base import LiveCall
from shared.errors import HeliuError, LimitExceeded, Unavailable
from shared.kept import Keep
from shared.live_replies import Answering, Mailbox, Replies
from shared.queue import Publisher
from shared.streams import Entry

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
# A request that nobody serves looks for a worker so often; its client is told so after a while, and then again.
LOOK_S = 0.25
TELL_AFTER_S, TELL_EVERY_S = 1.0, 5.0

# Which of these queues a living worker takes from, the first of them; None where none does.
Serving = Callable[[Sequence[str]], str | None]


class LiveClient:
    """Calls workers and yields what they answer. `start` it on the loop that uses it.

    With `serving`, a call that only some workers may serve is sent where one lives, and waits here until one does.
    """

    def __init__(
        self, publisher: Publisher, redis_url: str, *, silence_s: float = 5.0, serving: Serving | None = None
    ) -> None:
        self._publisher = publisher
        self._serving = serving
        self._redis = streams.connect_async(redis_url)
        self._silence_s = silence_s
        self._reply = streams.reply_stream(secrets.token_hex(8))
        self.replies = Replies(self._redis, self._reply, silence_s)
        self._in_flight: dict[str, int] = {}
        self._leaving = False

    async def start(self) -> None:
        self.replies.start()

    def leave(self) -> None:
        """This process stops: calls that are kept and closed from here on go on without it."""
        self._leaving = True

    async def close(self) -> None:
        await self.replies.close()
        await self._redis.aclose()

    @property
    def in_flight(self) -> int:
        return len(self.replies.boxes)

    def call(
        self,
        contract: LiveCall,
        *,
        pool: str,
        tenant: str,
        max_in_flight: int,
        accept_s: float,
        parent: str | None,
        enough: Callable[[], bool] = lambda: False,
        keep: Keep | None = None,
    ) -> Answering:
        """The entries of the answer, the last of type `done`; before them `waiting` ones while nobody serves it.

        Raises LimitExceeded over the tenant's cap, Unavailable (`no_worker`) when nobody accepts within
        `accept_s`, the worker's own error as HeliuError with its code, and Unavailable (`worker_lost`).
        Closing the iterator early cancels the request. When `enough` says so after an entry, the worker is asked to
        stop, and its `done` still comes, with what was spent. With `keep` the worker also keeps the entries where
        whoever takes the answer up again reads them; it stops by itself when nobody watches them.
        """
        box = Mailbox()
        entries = self._call(box, contract, pool, tenant, max_in_flight, accept_s, parent, enough, keep)
        return Answering(entries, box)

    async def _call(
        self,
        box: Mailbox,
        contract: LiveCall,
        pool: str,
        tenant: str,
        max_in_flight: int,
        accept_s: float,
        parent: str | None,
        enough: Callable[[], bool],
        keep: Keep | None,
    ) -> AsyncGenerator[Entry, None]:
        if self._in_flight.get(tenant, 0) >= max_in_flight:
            raise LimitExceeded(
                f"{max_in_flight} live requests of this tenant are in flight, which is its cap; wait for one to end",
                code="concurrency_limit_exceeded",
            )
        request = secrets.token_hex(12)
        self.replies.boxes[request] = box
        self._in_flight[tenant] = self._in_flight.get(tenant, 0) + 1
        finished = stopped = False
        try:
            async for entry in self._attempts(request, box, contract, pool, tenant, accept_s, parent, keep):
                finished = finished or entry.type == "done"
                yield entry
                if not (stopped or finished) and enough():
                    stopped = True
                    await self._cancel(request, box.worker)
        except HeliuError as exc:
            finished = exc.code not in ("no_worker", "worker_lost")
            if keep is not None and not finished:
                told = {"code": exc.code, "message": exc.message, "param": None, "retryable": exc.retryable}
                await self._tell(keep, Entry(request, box.attempt, -1, "error", told))
            raise
        finally:
            del self.replies.boxes[request]
            self._in_flight[tenant] -= 1
            if not self._in_flight[tenant]:
                del self._in_flight[tenant]
            if not finished and not (keep is not None and self._leaving):
                await asyncio.shield(self._cancel(request, box.worker))

    async def _attempts(
        self,
        request: str,
        box: Mailbox,
        contract: LiveCall,
        pool: str,
        tenant: str,
        accept_s: float,
        parent: str | None,
        keep: Keep | None,
    ) -> AsyncIterator[Entry]:
        deadline = time.time() + accept_s
        queues = contract.queues_for(pool)
        envelope = {
            "request": request,
            "call": contract.name,
            "payload": contract.dump(),
            "reply": self._reply,
            "deadline": deadline,
            "tenant": tenant,
            **({"keep": keep.dump()} if keep is not None else {}),
        }
        for attempt in range(1, MAX_ATTEMPTS + 1):
            box.begin(attempt)
            async for waiting in self._find(request, box, contract, queues, deadline):
                yield waiting
            queue = box.queue
            if keep is not None and attempt > 1:
                # Before the worker hears of it: what an earlier one may still say is passed over from here on.
                await self._tell(keep, Entry(request, attempt, -1, "attempt", {}))
            await asyncio.to_thread(
                self._publisher.send_live,
                queue,
                {**envelope, "queue": queue, "attempt": attempt},
                expires_s=max(1.0, deadline - time.time()),
                parent=parent,
            )
            started = False
            try:
                elsewhere = queues if attempt < MAX_ATTEMPTS else ()
                async for entry in self._entries(box, contract, elsewhere, deadline):
                    started = started or entry.type not in ("accepted",)
                    yield entry
                return
            except _Silent as silent:
                if started or attempt == MAX_ATTEMPTS:
                    raise Unavailable(
                        f"{silent} stopped answering: {self._silence_s:g} s of silence",
                        code="worker_lost",
                    ) from silent
                log.warning("live_retry", extra={"request": request, "silent": str(silent)})

    async def _find(
        self, request: str, box: Mailbox, contract: LiveCall, queues: Sequence[str], deadline: float
    ) -> AsyncIterator[Entry]:
        """Set the queue to send to, once a living worker takes from one; `waiting` entries until then.

        Raises Unavailable (`no_worker`) at the deadline, with what would serve it.
        """
        tell_at = time.monotonic() + TELL_AFTER_S
        while (found := await self._route(queues)) is None:
            if time.time() > deadline:
                raise Unavailable(
                    f"no living worker serves {contract.needs}; {contract.served_by} would. `heliu workers list` "
                    "shows what each serves, and `heliu scale inference=2` adds one",
                    code="no_worker",
                )
            if time.monotonic() >= tell_at:
                tell_at = time.monotonic() + TELL_EVERY_S
                message = f"no living worker serves {contract.needs} yet; waiting for {contract.served_by}"
                yield Entry(request, box.attempt, -1, "waiting", {"message": message})
            await asyncio.sleep(LOOK_S)
        box.queue = found

    async def _route(self, queues: Sequence[str]) -> str | None:
        if self._serving is None or len(queues) == 1:
            return queues[-1]
        return await asyncio.to_thread(self._serving, queues)

    async def _entries(
        self, box: Mailbox, contract: LiveCall, elsewhere: Sequence[str], deadline: float
    ) -> AsyncIterator[Entry]:
        """The answer's entries. Raises _Silent for a request that nobody has taken when the last worker of its queue
        has gone, and one of the queues `elsewhere` has one."""
        queue, expected = box.queue, 0
        waiting_at = time.monotonic()
        while True:
            entry = await box.next()
            if entry is None:
                if box.worker is None and time.time() > deadline:
                    what = f"the request for {contract.needs}" if contract.needs else "the request"
                    raise Unavailable(
                        f"no worker accepted {what} in time; `heliu status` shows the workers and "
                        "`heliu scale inference=2` adds one",
                        code="no_worker",
                    )
                if box.worker is not None and self.replies.read_at - box.heard_at > self._silence_s:
                    raise _Silent(f"worker {box.worker}")
                if box.worker is None and elsewhere and await self._route(elsewhere) not in (queue, None):
                    raise _Silent(f"every worker of {queue}")
                if box.worker is None and await self._waits(queue):
                    waiting_at = time.monotonic()
                if box.worker is None and self.replies.read_at - waiting_at > self._silence_s:
                    # Taken by a worker that died before it could say so, or forgotten by a Redis that was emptied.
                    raise _Silent(f"whoever took the request from {queue}")
                continue
            if entry.seq > expected:
                raise Unavailable(
                    f"part of the answer was lost on its way (entry {expected} is missing)",
                    code="worker_lost",
                )
            expected += 1
            if entry.type == "accepted":
                box.worker = str(entry.data["worker"])
            if entry.type == "error":
                raise HeliuError(
                    str(entry.data["message"]),
                    code=str(entry.data["code"]),
                    param=entry.data.get("param"),
                    retryable=bool(entry.data.get("retryable")),
                )
            yield entry
            if entry.type == "done":
                return

    async def _waits(self, queue: str) -> bool:
        """Whether the queue holds anything, this request perhaps; when nobody can tell, it does."""
        try:
            return await asyncio.to_thread(self._publisher.backlog, queue) > 0
        except Unavailable:
            return True

    async def _tell(self, keep: Keep, entry: Entry) -> None:
        """Add to what is kept of an answer what its worker cannot say."""
        stream = streams.kept_stream(keep.answer)
        try:
            await self._redis.xadd(stream, entry.pack())  # type: ignore[arg-type]
            await self._redis.pexpire(stream, keep.ttl_ms)
        except RedisError as exc:
            log.warning("answer_not_kept", extra={"answer": keep.answer, "error": str(exc)})

    async def _cancel(self, request: str, worker: str | None) -> None:
        try:
            await self._redis.set(streams.cancelled_key(request), 1, ex=streams.STREAM_TTL_S)
            if worker is not None:
                stream = streams.cancel_stream(worker)
                await self._redis.xadd(stream, {"r": request}, maxlen=1000, approximate=True)
                await self._redis.expire(stream, streams.STREAM_TTL_S)
        except RedisError as exc:
            log.warning("cancel_not_sent", extra={"request": request, "error": str(exc)})


async def last_entry(entries: AsyncIterator[Entry]) -> Entry:
    """The `done` entry of an answer whose parts nobody needs one by one."""
    last: Entry | None = None
    async for entry in entries:
        last = entry
    if last is None or last.type != "done":
        raise Unavailable("the answer ended before it was whole", code="worker_lost")
    return last


class _Silent(Exception):
    """Who had a request from which nothing is heard."""
