"""The answers that come to one process: one reader of its reply stream, a mailbox for each request in flight.

Runs on an event loop. Knows no attempt's meaning and no Celery: `live_client` asks, and judges what it hears.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

import redis.asyncio

from shared import streams
from shared.streams import Entry

log = logging.getLogger(__name__)

AT_ONCE = 1024
# Redis forgets what was read after so many bytes of it: vectors of a thousand texts are megabytes.
TRIM_BYTES = 1024 * 1024
# Who has waited so long for an entry is told that there is none; looked at so often.
PATIENCE_S, LOOK_S = 0.5, 0.25
# With more requests than these in flight, entries may gather for so long: a reading costs more than what it brings.
FEW, GATHER_S = 4, 0.004


class Mailbox:
    """What was heard for one attempt at a request, and nobody has taken yet."""

    def __init__(self) -> None:
        self.attempt = 1
        self.heard_at = time.monotonic()
        self.worker: str | None = None
        self.queue = ""
        self._entries: deque[Entry] = deque()
        self._expected = 0
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, attempt: int) -> None:
        """What is heard of others from here on, and was heard so far, is passed over."""
        self.attempt, self.worker, self.heard_at = attempt, None, time.monotonic()
        self._entries.clear()
        self._expected = 0

    def put(self, entry: Entry) -> None:
        """Take an entry of this attempt; one that was written twice, because a worker's client did not hear that
        the first time had worked, is dropped."""
        if entry.seq < self._expected:
            return
        self._expected = entry.seq + 1
        self._entries.append(entry)
        self.wake()

    async def next(self) -> Entry | None:
        """The next entry; None when none has come for PATIENCE_S."""
        if not self._entries:
            # No timeout each time: that costs more than all else here, and so one look at all of them stands for it.
            self._waiting_since = time.monotonic()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._entries.popleft() if self._entries else None

    def look(self, now: float) -> None:
        """Wake who has waited long enough."""
        if self._waiter is not None and now - self._waiting_since >= PATIENCE_S:
            self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Answering:
    """The entries of one answer, as LiveClient.call tells them."""

    def __init__(self, entries: AsyncGenerator[Entry, None], box: Mailbox) -> None:
        self._entries = entries
        self._box = box

    def at_hand(self) -> bool:
        """Whether the next entry has come already, so that nobody waits for it."""
        return len(self._box) > 0

    def __aiter__(self) -> Answering:
        return self

    async def __anext__(self) -> Entry:
        return await anext(self._entries)

    async def aclose(self) -> None:
        await self._entries.aclose()


class Replies:
    """Reads a process's stream for ever, from `start` to `close`, and hands each entry to its mailbox."""

    def __init__(self, client: redis.asyncio.Redis, stream: str, silence_s: float) -> None:
        self.boxes: dict[str, Mailbox] = {}
        self._redis = client
        self._stream = stream
        # Often enough to notice a silence soon after it has lasted.
        self._block_ms = max(1, min(streams.BLOCK_MS, int(silence_s * 100)))
        self._tasks: list[asyncio.Task[None]] = []
        # Up to when everything that was said has been read: silence is counted to here, so that a loop that stood
        # still for a while takes no worker for dead whose beats it has not looked at yet.
        self.read_at = time.monotonic()

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._read(), name="live-replies"),
            asyncio.create_task(self._look(), name="live-patience"),
        ]

    async def close(self) -> None:
        while running := [task for task in self._tasks if not task.done()]:
            # More than once: the wait_for of Python 3.11, which redis-py sends with, may swallow a cancellation.
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=0.1)

    def hand_out(self, entry: Entry) -> None:
        """Give an entry to whom it is for; a beat says of many that they are in work."""
        if entry.type == "beat":
            now = time.monotonic()
            for request, attempt in entry.data.items():
                box = self.boxes.get(request)
                if box is not None and box.attempt == attempt:
                    box.heard_at = now
            return
        box = self.boxes.get(entry.request)
        if box is not None and box.attempt == entry.attempt:
            box.heard_at = time.monotonic()
            box.put(entry)

    async def _read(self) -> None:
        last, read = b"0", 0
        while True:
            asked_at = time.monotonic()
            try:
                if read > TRIM_BYTES:
                    await self._redis.xtrim(self._stream, minid=last, approximate=True)
                    read = 0
                answer: Any = await self._redis.xread(
                    {self._stream: last}, block=self._block_ms, count=AT_ONCE
                )
            except Exception as exc:  # noqa: BLE001 - this task reads everybody's answers: nothing may end it
                log.warning("reply_stream_lost", extra={"error": f"{type(exc).__name__}: {exc}"})
                await asyncio.sleep(0.5)
                self.read_at = asked_at
                continue
            messages = streams.entries_of(answer)
            for message_id, fields in messages:
                last = message_id
                read += sum(map(len, fields.values()))
                self._open(fields)
            if len(messages) < AT_ONCE:
                self.read_at = asked_at
            if messages and len(self.boxes) > FEW:
                await asyncio.sleep(GATHER_S)

    def _open(self, fields: dict[bytes, bytes]) -> None:
        """Hand out what is in one message; what is no entry harms nobody."""
        try:
            bodies = streams.bodies_of(fields)
        except Exception as exc:  # noqa: BLE001 - as in _read
            log.warning("malformed_reply", extra={"error": f"{type(exc).__name__}: {exc}"})
            return
        for body in bodies:
            try:
                self.hand_out(Entry.of(body))
            except Exception as exc:  # noqa: BLE001 - as in _read
                log.warning("malformed_reply", extra={"error": f"{type(exc).__name__}: {exc}"})

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            for box in self.boxes.values():
                box.look(now)
