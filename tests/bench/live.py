"""A chat while others work: what it waits behind a full batch, and what the platform adds to the engine's time."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from shared.contracts.inference import ChatMessage, Generate, Sampling
from shared.live_client import LiveClient
from tests.bench.figures import Figure, quantile
from tests.bench.place import Place
from tests.bench.rows import chat_body, start_batch, texts, upload, wait_batch

LIVE_TOKENS = 4
CHAT_TOKENS = 8
LONG_ANSWER = 200
POOL = "default"


def live_behind_batch(place: Place) -> list[Figure]:
    """From publishing a chat to its acceptance and to its first token."""
    count = place.size(100, 5)
    client = place.platform.client
    idle = asyncio.run(_chats(place, count))
    file_id = upload(client, texts(place.size(1500, 60), seed=2), LONG_ANSWER)
    batch_id = start_batch(client, file_id)
    # Rows are being answered: so every slot of the engine is taken, and more rows wait than it has.
    running = wait_batch(client, batch_id, rows_answered=1)
    behind = asyncio.run(_chats(place, count))
    still = client.get(f"/v1/batches/{batch_id}").raise_for_status().json()
    if not place.quick and (running["status"] != "in_progress" or still["status"] != "in_progress"):
        raise RuntimeError(f"the batch did not outlast the chats: it is {still['status']}")
    client.post(f"/v1/batches/{batch_id}/cancel")
    wait_batch(client, batch_id)
    how = f"{count} chats one by one through the live queue, against the same without the batch"
    figures = []
    for what, goal in (("accepted", ""), ("first_token", "")):
        for share in (0.5, 0.99):
            figures.append(
                Figure(
                    f"live_{what}_p{share * 100:.0f}",
                    quantile([wait[what] for wait in behind], share),
                    "ms",
                    "idle platform",
                    quantile([wait[what] for wait in idle], share),
                    f"publish to {what.replace('_', ' ')} behind a full batch: {how}{goal}",
                )
            )
    return figures


async def _chats(place: Place, count: int) -> list[dict[str, float]]:
    """Milliseconds to `accepted` and to `first_token` of each."""
    live = LiveClient(place.publisher, place.redis_url)
    await live.start()
    try:
        for text in texts(3, seed=3):
            await _chat(place, live, text)
        return [await _chat(place, live, text) for text in texts(count, seed=4)]
    finally:
        await live.close()


async def _chat(place: Place, live: LiveClient, text: str) -> dict[str, float]:
    call = Generate(
        model=place.platform.model,
        messages=(ChatMessage(role="user", content=text),),
        sampling=Sampling(max_tokens=LIVE_TOKENS, temperature=0.0),
    )
    waits: dict[str, float] = {}
    started = time.perf_counter()
    async for entry in live.call(
        call, pool=POOL, tenant=str(place.harness.tenant), max_in_flight=10, accept_s=60, parent=None
    ):
        name = {"accepted": "accepted", "token": "first_token", "done": "first_token"}[entry.type]
        waits.setdefault(name, (time.perf_counter() - started) * 1000)
    return waits


def chat_latency(place: Place) -> list[Figure]:
    """A plain chat over HTTP, in turns with the same prompt given to the engine itself."""
    count = place.size(60, 5)
    client, bare = place.platform.client, place.bare_engine
    whole: list[float] = []
    engine: list[float] = []
    for index, text in enumerate(texts(count + 3, seed=5)):
        started = time.perf_counter()
        client.post("/v1/chat/completions", json=chat_body(text, CHAT_TOKENS)).raise_for_status()
        ours = (time.perf_counter() - started) * 1000
        theirs = bare.ask({"rows": [text], "max_tokens": CHAT_TOKENS})["seconds"] * 1000
        if index >= 3:
            whole.append(ours)
            engine.append(theirs)
    how = (
        f"{count} chats of {CHAT_TOKENS} tokens over HTTP, in turns with Engine.generate on the same prompts"
    )
    added = median(a - b for a, b in zip(whole, engine, strict=True))
    return [
        Figure("chat_latency_p50", median(whole), "ms", "engine called directly", median(engine), how),
        Figure(
            "chat_added_p50", added, "ms", "engine called directly", median(engine), f"what is added; {how}"
        ),
    ]
