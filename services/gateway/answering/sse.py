"""Server-sent events: how they are written, and how a client that has gone is noticed. Knows no route."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, TypeVar

from anyio import CancelScope
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.errors import HeliuError
from shared.streams import Entry

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
COMMENT = b": still here\n\n"


def waited(entry: Entry) -> dict[str, str]:
    """The header of an answer that waited because no living worker served its model."""
    return {"x-heliu-waited": str(entry.data["message"]).encode("ascii", "backslashreplace").decode()}


def comment(text: str) -> bytes:
    """What a person who watches the stream may read, and no client takes for an answer."""
    return f": {' '.join(text.split())}\n\n".encode("utf-8", "replace")


def event(data: Any, *, id_: str | None = None, name: str | None = None) -> bytes:
    """One event; `data` is JSON on one line."""
    lines = []
    if id_ is not None:
        lines.append(f"id: {id_}")
    if name is not None:
        lines.append(f"event: {name}")
    lines.append(f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}")
    return ("\n".join(lines) + "\n\n").encode()


class EventStream(StreamingResponse):
    """A stream that is closed, and so cancels its work, as soon as the client goes."""

    def __init__(self, events: AsyncIterator[bytes], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self.body_iterator, "aclose", None)
            if close is not None:
                with CancelScope(shield=True):
                    await close()


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes. The body must have been read.

    Raises HeliuError `client_closed_request`.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HeliuError("the client closed the connection", code="client_closed_request")
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
