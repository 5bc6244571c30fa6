"""What is kept of an answer is bounded, and a Redis that fails ends the keeping and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError

from shared import kept, streams
from shared.kept import OVERGROWN, Keep, Keeping, KeptWriter
from shared.streams import Entry


def token(seq: int, text: str = "a") -> Entry:
    return Entry("r", 1, seq, "token", {"text": text})


def take(keeping: Keeping, entry: Entry) -> tuple[str, int] | None:
    """(type, length that its stream is cut to) of what is written of an entry."""
    write = keeping.take(entry, entry.pack())
    return (Entry.unpack({b"e": write.packed["e"]}).type, write.length) if write is not None else None


@pytest.mark.parametrize("limit", ["KEPT_ENTRIES", "KEPT_BYTES"])
def test_past_its_bound_a_stream_is_cut_to_the_word_that_it_has_outgrown(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(token(0).pack()["e"])
    monkeypatch.setattr(streams, limit, {"KEPT_ENTRIES": 3, "KEPT_BYTES": 3 * size}[limit])
    keeping = Keeping(Keep("chatcmpl-1", 30.0))
    assert [take(keeping, token(seq)) for seq in range(3)] == [("token", streams.KEPT_ENTRIES)] * 3
    assert take(keeping, token(3)) == (OVERGROWN, 1)
    assert take(keeping, token(4)) is None


def test_entries_are_forgotten_so_long_after_the_last_one() -> None:
    write = Keeping(Keep("chatcmpl-1", 1.5)).take(token(0), token(0).pack())
    assert write is not None
    assert (write.ttl_ms, write.stream) == (1500, streams.kept_stream("chatcmpl-1"))


def test_a_redis_that_fails_once_is_not_asked_again_for_this_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fail(_: object, writes: list[Any]) -> None:
        asked.append(writes)
        raise RedisConnectionError("away")

    monkeypatch.setattr(kept.streams, "write", fail)
    client: redis.Redis = redis.Redis.from_url("redis://127.0.0.1:1")
    writer = KeptWriter(client, "chatjob-1", 1)
    for _ in range(3):
        writer.send("token", {"text": "a"})
    assert len(asked) == 1
