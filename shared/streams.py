"""Clients of Redis and the names of the keys and streams that live requests use. Knows no Celery and no SQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis
import redis.asyncio
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from shared.errors import ConfigurationError, Unavailable

PREFIX = "heliu:"
BLOCK_MS = 2000  # under the socket timeout: a longer XREAD BLOCK raises TimeoutError in redis-py
SOCKET_TIMEOUT_S = 5.0
STREAM_LENGTH = 20_000
STREAM_TTL_S = 600
# What is kept of one answer so that its stream can be taken up again; one that outgrows this cannot.
KEPT_ENTRIES = 20_000
KEPT_BYTES = 4 * 1024 * 1024
# A worker says so long of an answer that is kept that it lives; it says it anew with every beat.
ALIVE_S = 5
RETRYABLE = (RedisConnectionError, RedisTimeoutError)
# One packed entry, or a list of several that travel together up to so many bytes.
ONE, SEVERAL = "e", "m"
TOGETHER_BYTES = 256 * 1024


def reply_stream(gateway: str) -> str:
    """The one stream that all answers to a gateway process travel on."""
    return f"{PREFIX}reply:{gateway}"


def cancel_stream(worker: str) -> str:
    """Where a worker hears which of its requests have lost their client."""
    return f"{PREFIX}cancel:{worker}"


def cancelled_key(request: str) -> str:
    """Set for a request that was given up before a worker accepted it."""
    return f"{PREFIX}cancelled:{request}"


def kept_stream(answer: str) -> str:
    """The stream of one answer's own, where its entries are kept for who takes it up again."""
    return f"{PREFIX}kept:{answer}"


def about_key(answer: str) -> str:
    """Whose a kept answer is, and what its reader must know of the request."""
    return f"{PREFIX}kept:{answer}:about"


def watched_key(answer: str) -> str:
    """There while a client reads a kept answer, or may still come back to it."""
    return f"{PREFIX}kept:{answer}:watched"


def alive_key(answer: str) -> str:
    """There while a worker makes a kept answer."""
    return f"{PREFIX}kept:{answer}:alive"


@dataclass(frozen=True)
class Entry:
    """One entry of a reply stream. `seq` counts from 0 inside an attempt; a beat has seq -1."""

    request: str
    attempt: int
    seq: int
    type: str
    data: dict[str, Any]

    def pack(self) -> dict[str, bytes]:
        """Raises ValueError for what is no JSON. Half a surrogate pair is let through, as json.loads takes it."""
        body = [self.request, self.attempt, self.seq, self.type, self.data]
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return {ONE: text.encode("utf-8", "surrogatepass")}

    @classmethod
    def unpack(cls, fields: Mapping[bytes, bytes]) -> Entry:
        """Raises KeyError, TypeError or ValueError for what is no entry."""
        return cls.of(json.loads(fields[b"e"]))

    @classmethod
    def of(cls, body: Any) -> Entry:
        """From one of `bodies_of`. Raises TypeError or ValueError for what is no entry."""
        request, attempt, seq, type_, data = body
        if not isinstance(data, dict) or not isinstance(seq, int) or not isinstance(request, str):
            raise ValueError(f"not an entry: {request!r}, {seq!r}, data of type {type(data).__name__}")
        return cls(request, attempt, seq, type_, data)


@dataclass(frozen=True)
class Write:
    """An entry on its way to a stream of at most `length` entries, which is forgotten `ttl_ms` after the last one.

    One that `joins` may travel in one message with others of its stream, whose reader knows `bodies_of`.
    """

    stream: str
    packed: dict[str, bytes]
    length: int = STREAM_LENGTH
    ttl_ms: int = STREAM_TTL_S * 1000
    joins: bool = False


def bodies_of(fields: Mapping[bytes, bytes]) -> list[Any]:
    """What `Entry.of` reads of a message: one body or several. Raises KeyError or ValueError."""
    several = fields.get(b"m")
    if several is None:
        return [json.loads(fields[b"e"])]
    found = json.loads(several)
    if not isinstance(found, list):
        raise ValueError(f"not a list of entries: {type(found).__name__}")
    return found


def together(writes: Sequence[Write]) -> list[Write]:
    """The same with fewer messages: a reader pays for each of them more than for what is in it."""
    kept: list[Write] = []
    bodies: dict[int, list[bytes]] = {}
    # By stream, the place of the message that the next one may join, and how long that is.
    last: dict[str, tuple[int, int]] = {}
    for one in writes:
        body = one.packed.get(ONE) if one.joins else None
        if body is None:
            kept.append(one)
            continue
        place, size = last.get(one.stream, (0, TOGETHER_BYTES))
        if size + len(body) > TOGETHER_BYTES:
            place, size = len(kept), 0
            kept.append(one)
        bodies.setdefault(place, []).append(body)
        last[one.stream] = (place, size + len(body))
    for place, several in bodies.items():
        if len(several) > 1:
            kept[place] = replace(kept[place], packed={SEVERAL: b"[" + b",".join(several) + b"]"})
    return kept


def write(client: redis.Redis, writes: Sequence[Write]) -> None:
    """All of them in one go, each stream in its order. Raises RedisError."""
    writes = together(writes)
    with client.pipeline(transaction=False) as pipe:
        for one in writes:
            pipe.xadd(one.stream, one.packed, maxlen=one.length, approximate=one.length > 1)  # type: ignore[arg-type]
        for stream, ttl_ms in {one.stream: one.ttl_ms for one in writes}.items():
            pipe.pexpire(stream, ttl_ms)
        pipe.execute()


def connect(url: str) -> redis.Redis:
    """A blocking client that retries a broken connection once and never hangs for long."""
    return redis.Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 1),
        retry_on_error=list(RETRYABLE),
        health_check_interval=15,
    )


def connect_async(url: str) -> redis.asyncio.Redis:
    """The same for an event loop."""
    return redis.asyncio.Redis.from_url(url, socket_timeout=SOCKET_TIMEOUT_S, health_check_interval=15)


def entries_of(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """(id, fields) of every entry in an XREAD answer of one stream, in either protocol version."""
    if not answer:
        return []
    parts = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer]
    found: list[tuple[bytes, dict[bytes, bytes]]] = []
    for part in parts:
        # RESP3 wraps the entries of a stream in one more list than RESP2.
        nested = (
            bool(part) and isinstance(part[0], list) and bool(part[0]) and not isinstance(part[0][0], bytes)
        )
        found.extend(part[0] if nested else part)
    return found


def backlog(client: redis.Redis, queue: str) -> int:
    """Messages that wait in the line of a Celery queue. Raises Unavailable."""
    try:
        return int(client.llen(f"{PREFIX}{queue}"))
    except RedisError as exc:
        raise Unavailable(f"Redis does not answer: {exc}", code="redis_unavailable") from exc


def check_server(client: redis.Redis) -> None:
    """Raise ConfigurationError when the server may evict keys, Unavailable when it does not answer."""
    try:
        memory: Any = client.info("memory")
    except RedisError as exc:
        raise Unavailable(f"Redis does not answer: {exc}", code="redis_unavailable") from exc
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigurationError(
            f"Redis has maxmemory-policy {policy!r} and may drop queued messages; set it to 'noeviction'",
            param="HELIU_REDIS_URL",
        )
