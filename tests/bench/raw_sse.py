"""`python -m tests.bench.raw_sse PORT`: an ASGI application that writes `?events=N` server-sent events, and no more.

What a gateway is held against: the same server library, events of the same shape, nothing behind them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

EVENT = {
    "id": "chatcmpl-0000000000000000000000000000",
    "object": "chat.completion.chunk",
    "created": 1_700_000_000,
    "model": "bench-base",
    "choices": [{"index": 0, "delta": {"content": "hello"}, "logprobs": None, "finish_reason": None}],
}


async def app(scope: dict[str, Any], _: Any, send: Any) -> None:
    count = int(parse_qs(scope["query_string"].decode())["events"][0])
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _number in range(count):
        body = b"data: " + json.dumps(EVENT).encode() + b"\n\n"
        await send({"type": "http.response.body", "body": body, "more_body": True})
        # As where events come one by one, others have their turn between two of them.
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


def main() -> int:
    config = uvicorn.Config(
        app, port=int(sys.argv[1]), http=H11Protocol, lifespan="off", log_config=None, access_log=False
    )
    uvicorn.Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
