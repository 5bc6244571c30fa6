"""Entries of a reply stream, in both protocol versions, and what is none."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from shared import streams
from shared.errors import ConfigurationError
from shared.streams import Entry, entries_of

ENTRY = Entry("r1", 2, 7, "token", {"text": "合"})


def test_an_entry_is_read_as_it_was_packed() -> None:
    for text in ("合", "half a pair \ud83d"):
        entry = Entry("r1", 2, 7, "token", {"text": text})
        assert Entry.unpack({key.encode(): value for key, value in entry.pack().items()}) == entry


def test_what_is_no_json_is_not_packed() -> None:
    with pytest.raises(ValueError):
        Entry("r", 1, 0, "token", {"p": float("inf")}).pack()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {b"e": b"\xff"},
        {b"e": b"nonsense"},
        {b"e": b"[1, 2]"},
        {b"e": b"3"},
        {b"e": b'["r", 1, 0, "beat", 3]'},
        {b"e": b'["r", 1, "0", "token", {}]'},
        {b"e": b'[{}, 1, 0, "token", {}]'},
    ],
)
def test_what_is_no_entry_is_refused_when_it_is_read(fields: dict[bytes, bytes]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Entry.unpack(fields)


FOUND = [(b"1-0", {b"e": b"x"}), (b"2-0", {b"e": b"y"})]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (None, []),
        ([], []),
        ({}, []),
        ([[b"stream", FOUND]], FOUND),
        ({b"stream": FOUND}, FOUND),
        ({b"stream": [FOUND]}, FOUND),
        ({b"stream": [[list(entry) for entry in FOUND]]}, [list(entry) for entry in FOUND]),
        ({b"stream": []}, []),
    ],
)
def test_the_entries_of_an_xread_are_found_in_either_protocol(answer: Any, found: list[Any]) -> None:
    assert entries_of(answer) == found


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_entries_of_a_real_xread_are_found(redis_url: str, protocol: int) -> None:
    with redis.Redis.from_url(redis_url, protocol=protocol) as client:
        client.xadd("s", ENTRY.pack())  # type: ignore[arg-type]
        ((_, fields),) = entries_of(client.xread({"s": "0"}))
        assert Entry.unpack(fields) == ENTRY
        assert entries_of(client.xread({"s": "$"}, block=1)) == []


def test_a_server_that_evicts_is_refused(redis_url: str) -> None:
    client = streams.connect(redis_url)
    streams.check_server(client)
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(ConfigurationError, match="noeviction"):
            streams.check_server(client)
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        client.close()


def write(stream: str, text: str, *, joins: bool = True) -> streams.Write:
    return streams.Write(stream, Entry("r", 1, 0, "token", {"text": text}).pack(), joins=joins)


def told(writes: list[streams.Write]) -> list[tuple[str, list[str]]]:
    """(stream, texts) of each message."""
    found = []
    for one in writes:
        fields = {name.encode(): value for name, value in one.packed.items()}
        found.append((one.stream, [Entry.of(body).data["text"] for body in streams.bodies_of(fields)]))
    return found


def test_entries_of_one_stream_travel_together_in_their_order() -> None:
    writes = [
        write("a", "1"),
        write("b", "2"),
        write("kept", "3", joins=False),
        write("a", "4"),
        write("a", "5"),
    ]
    assert told(streams.together(writes)) == [("a", ["1", "4", "5"]), ("b", ["2"]), ("kept", ["3"])]


def test_entries_that_are_kept_one_by_one_do_not_join() -> None:
    writes = [write("kept", "1", joins=False), write("kept", "2", joins=False)]
    assert told(streams.together(writes)) == [("kept", ["1"]), ("kept", ["2"])]


def test_a_message_of_several_is_no_larger_than_it_may_be() -> None:
    long = "x" * (streams.TOGETHER_BYTES // 2)
    writes = [write("a", long), write("a", "1"), write("a", long), write("a", "2")]
    assert told(streams.together(writes)) == [("a", [long, "1"]), ("a", [long, "2"])]


@pytest.mark.parametrize("fields", [{b"m": b"3"}, {b"m": b"{}"}, {b"m": b"nonsense"}, {b"x": b"[]"}])
def test_what_is_no_message_of_several_is_refused(fields: dict[bytes, bytes]) -> None:
    with pytest.raises((KeyError, ValueError)):
        streams.bodies_of(fields)
