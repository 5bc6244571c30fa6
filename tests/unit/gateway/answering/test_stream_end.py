"""A streamed answer leaves its row in the ledger and ends its work, at whatever moment the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message

from services.gateway.answering import sse
from services.gateway.answering.answers import Answer
from services.gateway.answering.completions import _Chunks
from shared.contracts.answers import CHAT
from shared.errors import Unavailable
from shared.streams import Entry

USAGE = {"prompt_tokens": 1, "completion_tokens": 2}


class Ledger:
    def __init__(self) -> None:
        self.rows: list[str] = []

    def close(self, status: str) -> None:
        self.rows.append(status)


def entry(seq: int, type_: str, **data: Any) -> Entry:
    return Entry(request="r", attempt=1, seq=seq, type=type_, data=data)


async def served(send_fails_at: int | None, *, gone_at_once: bool = False) -> tuple[list[str], bool, bytes]:
    """(rows of the ledger, whether the work was ended, bytes sent) of an answer of two tokens."""
    ended, sent, messages = False, b"", 0

    async def work() -> AsyncIterator[Entry]:
        nonlocal ended
        try:
            yield entry(0, "token", text="a", tokens=1)
            yield entry(1, "token", text="b", tokens=1)
            yield entry(2, "done", choices=[{"text": "ab", "finish_reason": "stop"}], usage=USAGE)
        finally:
            ended = True

    async def send(message: Message) -> None:
        nonlocal sent, messages
        if messages == send_fails_at:
            raise OSError("the client is gone")
        messages += 1
        sent += message.get("body", b"")
        await asyncio.sleep(0)

    async def receive() -> Message:
        if not gone_at_once:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    ledger, entries = Ledger(), work()
    first = await anext(entries)
    request: Any = SimpleNamespace(state=SimpleNamespace(trace_id="0" * 32))
    stream = sse.EventStream(_Chunks(request, entries, first, Answer(CHAT, "m"), ledger))  # type: ignore[arg-type]
    try:
        await stream({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    except* OSError:
        pass
    return ledger.rows, ended, sent


def test_an_answer_that_was_sent_whole_is_ok() -> None:
    rows, ended, sent = asyncio.run(served(None))
    assert (rows, ended) == (["ok"], True)
    assert sent.endswith(sse.DONE)


@pytest.mark.parametrize("moment", [0, 1, 2, 3])
def test_an_answer_whose_client_goes_is_cancelled(moment: int) -> None:
    rows, ended, _ = asyncio.run(served(moment))
    assert (rows, ended) == (["cancelled"], True)


def test_an_answer_whose_client_went_before_the_stream_began_is_cancelled() -> None:
    rows, ended, _ = asyncio.run(served(None, gone_at_once=True))
    assert (rows, ended) == (["cancelled"], True)


@pytest.mark.parametrize("fails", [False, True])
def test_entries_that_are_there_at_once_leave_in_one_piece(fails: bool) -> None:
    """Of three tokens the second and the third come together; what comes last goes with the mark of the end."""
    pieces, rows = asyncio.run(pieces_of([False, True, False, False], fails=fails))
    assert [piece.count(b"data: ") for piece in pieces] == [2, 2, 1 if fails else 2]
    assert [b'"content":"a"' in pieces[0], b'"content":"b"' in pieces[1], b'"content":"c"' in pieces[1]] == [
        True
    ] * 3
    assert (b"data: [DONE]" in pieces[-1], b'"error"' in pieces[-1]) == (not fails, fails)
    assert rows == ["error" if fails else "ok"]


async def pieces_of(at_hand: list[bool], *, fails: bool) -> tuple[list[bytes], list[str]]:
    """The pieces of an answer of three tokens, `at_hand` saying after each entry whether the next is there."""

    async def work() -> AsyncIterator[Entry]:
        for seq, text in enumerate("abc"):
            yield entry(seq, "token", text=text, tokens=1)
        if fails:
            raise Unavailable("gone", code="worker_lost")
        yield entry(3, "done", choices=[{"text": "abc", "finish_reason": "stop"}], usage=USAGE)

    ledger, entries, told = Ledger(), work(), iter(at_hand)
    span = SimpleNamespace(fail=lambda _: None)
    request: Any = SimpleNamespace(state=SimpleNamespace(trace_id="0" * 32, span=span))
    chunks = _Chunks(request, entries, await anext(entries), Answer(CHAT, "m"), ledger, lambda: next(told))  # type: ignore[arg-type]
    pieces = [piece async for piece in chunks]
    await chunks.aclose()
    return pieces, ledger.rows
