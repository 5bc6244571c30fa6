"""Entries of one answer, kept on a Redis stream of its own for whoever takes its stream up again.

Workers write, any gateway reads. Knows no HTTP and no SQL.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import RedisError

from shared import streams
from shared.errors import Unavailable
from shared.streams import Entry, Write

log = logging.getLogger(__name__)

READ_AT_ONCE = 512
# The reply of Redis that a stream has outgrown what is kept of one.
OVERGROWN = "overgrown"


@dataclass(frozen=True)
class Keep:
    """An answer whose entries are kept for `seconds` after the last word of its worker and of its readers."""

    answer: str
    seconds: float = float(streams.STREAM_TTL_S)

    @property
    def ttl_ms(self) -> int:
        return max(1, math.ceil(self.seconds * 1000))

    def dump(self) -> dict[str, Any]:
        return asdict(self)


class Keeping:
    """Which writes an answer's entries come to. Past what is kept of one a last entry says so and frees the rest."""

    def __init__(self, keep: Keep) -> None:
        self.keep = keep
        self.full = False
        self._entries = self._bytes = 0

    def take(self, entry: Entry, packed: dict[str, bytes]) -> Write | None:
        """The write of an entry and of its packed form; None where nothing is kept any more."""
        if self.full:
            return None
        self._entries += 1
        self._bytes += sum(map(len, packed.values()))
        stream = streams.kept_stream(self.keep.answer)
        if self._entries > streams.KEPT_ENTRIES or self._bytes > streams.KEPT_BYTES:
            self.full = True
            last = Entry(entry.request, entry.attempt, entry.seq, OVERGROWN, {})
            return Write(stream, last.pack(), 1, self.keep.ttl_ms)
        return Write(stream, packed, streams.KEPT_ENTRIES, self.keep.ttl_ms)


class KeptWriter:
    """Writes one attempt at an answer from a thread. A Redis that fails ends the writing, and nothing else."""

    def __init__(self, client: redis.Redis, answer: str, attempt: int) -> None:
        self._client = client
        self._keeping = Keeping(Keep(answer))
        self._answer, self._attempt = answer, attempt
        self._seq = 0

    def send(self, type_: str, data: dict[str, Any]) -> None:
        """Write the next entry. Raises ValueError for what is no JSON."""
        entry = Entry(self._answer, self._attempt, self._seq, type_, data)
        self._seq += 1
        write = self._keeping.take(entry, entry.pack())
        if write is None:
            return
        try:
            streams.write(self._client, [write])
        except RedisError as exc:
            # With an entry missing the later ones are of no use: who reads sees a gap, and waits for the end.
            self._keeping.full = True
            log.warning("answer_not_kept", extra={"answer": self._answer, "error": str(exc)})


class KeptWriters:
    """Opens them for the answers of one process; thread-safe."""

    def __init__(self, redis_url: str) -> None:
        self._client = streams.connect(redis_url)

    def open(self, answer: str, attempt: int) -> KeptWriter:
        return KeptWriter(self._client, answer, attempt)

    def close(self) -> None:
        self._client.close()


def beat_for(client: redis.Redis, kept: Sequence[Keep]) -> list[bool]:
    """Say that these answers are being made; returns whether each is still watched. Raises RedisError."""
    with client.pipeline(transaction=False) as pipe:
        for keep in kept:
            pipe.set(streams.alive_key(keep.answer), 1, ex=streams.ALIVE_S)
            for key in (streams.kept_stream(keep.answer), streams.about_key(keep.answer)):
                pipe.pexpire(key, keep.ttl_ms)
        for keep in kept:
            pipe.exists(streams.watched_key(keep.answer))
        told = pipe.execute()
    return [bool(found) for found in told[len(told) - len(kept) :]]


class KeptAnswers:
    """The gateway's hands on kept answers; made and used on its event loop. Redis that fails is Unavailable."""

    def __init__(self, redis_url: str) -> None:
        self._redis = streams.connect_async(redis_url)

    async def open(self, keep: Keep, about: Mapping[str, Any]) -> None:
        """Begin to keep an answer: `about` is what who takes it up must know. Raises Unavailable."""
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(streams.about_key(keep.answer), json.dumps(about), px=keep.ttl_ms)
                pipe.set(streams.watched_key(keep.answer), 1, px=keep.ttl_ms)
                await pipe.execute()
        except RedisError as exc:
            raise _unavailable(exc) from exc

    async def about(self, answer: str) -> dict[str, Any] | None:
        """What was said when it was opened; None for one that is not kept, or not any more. Raises Unavailable."""
        try:
            told = await self._redis.get(streams.about_key(answer))
        except RedisError as exc:
            raise _unavailable(exc) from exc
        return dict(json.loads(told)) if told is not None else None

    async def read(self, answer: str, last: bytes, wait_s: float) -> tuple[bytes, list[Entry]]:
        """(place to go on from, entries after `last`), having waited for them so long. Raises Unavailable."""
        block_ms = max(1, min(streams.BLOCK_MS, int(wait_s * 1000)))
        try:
            stream = streams.kept_stream(answer)
            told: Any = await self._redis.xread({stream: last}, block=block_ms, count=READ_AT_ONCE)
        except RedisError as exc:
            raise _unavailable(exc) from exc
        found = streams.entries_of(told)
        return (found[-1][0] if found else last), [Entry.unpack(fields) for _, fields in found]

    async def newest(self, answer: str) -> Entry | None:
        """The last entry that was kept. Raises Unavailable."""
        try:
            told: Any = await self._redis.xrevrange(streams.kept_stream(answer), count=1)
        except RedisError as exc:
            raise _unavailable(exc) from exc
        return Entry.unpack(told[0][1]) if told else None

    async def made(self, answer: str) -> bool:
        """Whether a worker has said of late that it makes this answer. Raises Unavailable."""
        try:
            return bool(await self._redis.exists(streams.alive_key(answer)))
        except RedisError as exc:
            raise _unavailable(exc) from exc

    def watch(self, keep: Keep) -> Watch:
        """Say that a client reads the answer, from now until the watch is left."""
        return Watch(self._redis, keep)

    async def close(self) -> None:
        await self._redis.aclose()


class Watch:
    """A client's presence at a kept answer. A Redis that fails is tried again: the answer outlives a short absence."""

    def __init__(self, client: redis.asyncio.Redis, keep: Keep) -> None:
        self._redis = client
        self._keep = keep
        self._task = asyncio.create_task(self._renew(), name="watch")

    async def leave(self) -> None:
        """The client has gone: from here on the answer is made and kept for its `seconds`."""
        while not self._task.done():
            # More than once: the wait_for of Python 3.11, which redis-py sends with, may swallow a cancellation.
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.1)
        await self._touch()

    async def _renew(self) -> None:
        while True:
            await self._touch()
            await asyncio.sleep(self._keep.seconds / 3)

    async def _touch(self) -> None:
        answer, ttl_ms = self._keep.answer, self._keep.ttl_ms
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(streams.watched_key(answer), 1, px=ttl_ms)
                pipe.pexpire(streams.about_key(answer), ttl_ms)
                pipe.pexpire(streams.kept_stream(answer), ttl_ms)
                await pipe.execute()
        except RedisError as exc:
            log.warning("watch_not_said", extra={"answer": answer, "error": str(exc)})


def _unavailable(exc: RedisError) -> Unavailable:
    return Unavailable(f"Redis does not answer: {exc}", code="redis_unavailable")
