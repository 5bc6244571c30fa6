"""The entries of an answer that is stored: who hears its end can rely on it, and nothing else is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from services.gateway.answering.stored import Storing
from shared.contracts.retrieval import Passage
from shared.errors import Unavailable
from shared.streams import Entry
from shared.task.citations import Sources


class Base:
    """A database that takes a note of what it is given, and in which order beside what is heard."""

    def __init__(self, *, away: int = 0) -> None:
        self.happened: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.away = away

    @contextmanager
    def transaction(self, tenant: UUID) -> Iterator[Base]:
        if self.away:
            self.away -= 1
            raise Unavailable("gone", code="database_unavailable")
        yield self

    def execute(self, _: str, values: dict[str, Any]) -> None:
        self.happened.append("stored")
        self.rows.append(json.loads(values["body"]))


def storing() -> Storing:
    tenant = "00000000-0000-0000-0000-000000000001"
    return Storing(tenant, "chatcmpl-1", "m", ("m",), {"created": 1, "messages": []}, {"use": "x"}, None)


def entry(seq: int, type_: str, data: dict[str, Any]) -> Entry:
    return Entry("r", 1, seq, type_, data)


def answer(*ends: str) -> list[Entry]:
    """Choices of two tokens each, the second of which says the end; then the whole."""
    entries = [entry(0, "accepted", {})]
    for index, end in enumerate(ends):
        entries.append(entry(0, "token", {"choice": index, "text": "a"}))
        entries.append(entry(0, "token", {"choice": index, "text": "b", "finish_reason": end}))
    choices = [{"text": "ab", "finish_reason": end, "logprobs": [1]} for end in ends]
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    return [*entries, entry(9, "done", {"choices": choices, "usage": usage})]


def hear(base: Base, given: list[Entry], most: int | None = None, sources: Sources | None = None) -> bool:
    """Note what comes through, up to `most` entries; whether the source was closed then."""
    closed = False

    async def source() -> AsyncIterator[Entry]:
        nonlocal closed
        try:
            for one in given:
                yield one
        finally:
            closed = True

    async def read() -> None:
        heard = 0
        through: AsyncGenerator[Entry, None] = storing().entries(base, source(), sources)  # type: ignore[arg-type]
        async for one in through:
            text = one.data.get("text", "")
            base.happened.append(f"{one.type} {text}".strip())
            heard += 1
            if heard == most:
                break
        await through.aclose()

    asyncio.run(read())
    return closed


def test_the_end_of_an_answer_is_heard_once_it_is_stored() -> None:
    base = Base()
    assert hear(base, answer("stop"))
    assert base.happened == ["accepted", "token a", "stored", "token b", "done"]
    assert base.rows[0]["choices"] == [{"text": "ab", "finish_reason": "stop"}]
    assert base.rows[0]["usage"] == {"prompt_tokens": 1, "completion_tokens": 2}


def test_of_several_choices_all_that_comes_behind_the_first_end_is_held() -> None:
    base = Base()
    hear(base, answer("stop", "length"))
    assert base.happened == ["accepted", "token a", "stored", "token b", "token a", "token b", "done"]


def test_an_answer_that_was_given_up_or_left_is_not_stored() -> None:
    given_up, left = Base(), Base()
    hear(given_up, answer("cancelled"))
    assert given_up.rows == []
    assert hear(left, answer("stop"), most=2)
    assert left.rows == []


def test_a_database_that_comes_back_has_it_and_one_that_stays_away_ends_the_answer() -> None:
    back, away = Base(away=2), Base(away=99)
    hear(back, answer("stop"))
    assert len(back.rows) == 1
    with pytest.raises(Unavailable):
        hear(away, answer("stop"))
    assert away.happened == ["accepted", "token a"]


def test_what_an_answer_cites_is_kept_with_it() -> None:
    passage = Passage.model_construct(file_id="file-1", filename="a.txt", text="three days")
    base = Base()
    choices = [{"text": "three days [1]", "finish_reason": "stop"}]
    done = entry(1, "done", {"choices": choices, "usage": {}})
    hear(base, [done], sources=Sources("vs_1", (passage,)))
    (cited,) = base.rows[0]["choices"][0]["annotations"]
    assert (cited["file_id"], cited["index"]) == ("file-1", 0)


def test_what_is_taken_up_elsewhere_is_the_same() -> None:
    assert Storing.load(json.loads(json.dumps(storing().dump()))) == storing()
