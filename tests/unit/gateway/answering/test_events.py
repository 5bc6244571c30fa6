"""Events made around their text alone are those that each chunk by itself would be, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.answering import sse
from services.gateway.answering.answers import Answer
from services.gateway.answering.events import Events
from services.gateway.answering.places import Chunks
from shared.contracts.answers import CHAT, TEXT
from shared.contracts.marking import Marking
from shared.streams import Entry

AWKWARD = ["Hello", ' "quoted" \\ and\nnew line', "您好，😀", "\x00text\x00", "", "\u2028", " end"]
LOGPROBS = [{"token": "a", "logprob": -0.5, "bytes": [97], "top": []}]


def token(text: str, choice: int = 0, **more: Any) -> Entry:
    return Entry("r", 1, 0, "token", {"choice": choice, "text": text, "tokens": 2, **more})


def done(*texts: str) -> Entry:
    choices = [{"text": text, "finish_reason": "stop"} for text in texts]
    return Entry(
        "r", 1, 9, "done", {"choices": choices, "usage": {"prompt_tokens": 1, "completion_tokens": 3}}
    )


def answer(endpoint: str, **more: Any) -> Answer:
    return Answer(endpoint, 'a "model"', id="chatcmpl-1", created=1_700_000_000, **more)


def one_by_one(made: Answer, entries: list[Entry]) -> list[bytes]:
    chunks = Chunks(made, placed=False)
    return [sse.event(chunk) for entry in entries for _, chunk in chunks.take(entry)]


@pytest.mark.parametrize("endpoint", [CHAT, TEXT])
@pytest.mark.parametrize("include_usage", [False, True])
def test_events_are_those_of_their_chunks_byte_for_byte(endpoint: str, include_usage: bool) -> None:
    told = "".join(AWKWARD)
    entries = [
        *(token(text, choice) for text in AWKWARD for choice in (0, 1)),
        token("a", logprobs=LOGPROBS),
        token("b"),
        token("", 1, finish_reason="length"),
        done(told + "ab and a rest", told),
    ]
    fast, plain = answer(endpoint, include_usage=include_usage), answer(endpoint, include_usage=include_usage)
    events = Events(fast, placed=False)
    assert [event for entry in entries for event in events.take(entry)] == one_by_one(plain, entries)
    assert (fast.texts, fast.counts) == (plain.texts, plain.counts)


@pytest.mark.parametrize("place", ["start", "end"])
def test_a_label_stands_where_it_would_stand(place: str) -> None:
    marking = Marking(mode="visible", place=place, language="en", producer="someone")
    entries = [token(""), token("One"), token(" two"), token("", finish_reason="stop"), done("One two")]
    fast, plain = answer(CHAT, marking=marking), answer(CHAT, marking=marking)
    events = Events(fast, placed=False)
    made = [event for entry in entries for event in events.take(entry)]
    assert made == one_by_one(plain, entries)
    assert sum(b"AI-generated" in event for event in made) == 1


def test_a_resumable_answer_has_an_id_at_each_event() -> None:
    events = Events(answer(CHAT), placed=True)
    made = [event for entry in (token("a"), token("b"), token("c")) for event in events.take(entry)]
    assert [event.partition(b"-")[0] for event in made] == [b"id: 1", b"id: 2", b"id: 3", b"id: 4"]


def test_who_waits_reads_why_before_the_first_token() -> None:
    events = Events(answer(CHAT), placed=False)
    waiting = events.take(Entry("r", 1, -1, "waiting", {"message": "nobody\nserves it"}))
    assert waiting[-1] == b": nobody serves it\n\n"
    assert b'"role":"assistant"' in waiting[0]
    assert len(events.take(token("a"))) == 1
