"""Closing the caller's side of live requests, at any moment of its reader's life."""

from __future__ import annotations

import asyncio

from shared.live_client import LiveClient
from shared.queue import Publisher
from shared.telemetry import Tracing


def test_closing_ends_the_reader_whatever_it_is_doing(redis_url: str) -> None:
    publisher = Publisher(redis_url, Tracing("test"))

    async def open_and_close() -> None:
        for turns in range(40):
            client = LiveClient(publisher, redis_url)
            await client.start()
            # Each turn of the loop brings the reader further: connecting, greeting, asking, waiting.
            for _ in range(turns):
                await asyncio.sleep(0)
            closing = asyncio.create_task(client.close())
            # Not wait_for: what it cancels at its end would close after all.
            await asyncio.wait([closing], timeout=20)
            assert closing.done(), f"still open when closed after {turns} turns of the loop"

    asyncio.run(open_and_close())
    publisher.close()
