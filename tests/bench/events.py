"""Server-sent events of streamed chats: how many the gateway writes in a second of its processor's time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil

from deploy import embedded
from tests.bench.figures import Figure
from tests.bench.place import READY_S, Place
from tests.bench.rows import chat_body, texts
from tests.harness import ROOT, wait_for

STREAMS = 16
LEAST_S = 0.3


def events_a_core(place: Place) -> list[Figure]:
    """Processor time and no wall time: what the engine takes meanwhile is not the gateway's."""
    tokens = place.size(200, 8)
    gateway = place.platform.processes["gateway"].pid
    bodies = [{**chat_body(text, tokens), "stream": True} for text in texts(STREAMS, seed=6)]
    ours = asyncio.run(_rate(place.platform.client, "/v1/chat/completions", bodies, gateway))
    with _raw() as (client, pid):
        theirs = asyncio.run(_rate(client, f"/?events={tokens}", [None] * STREAMS, pid))
    how = (
        f"{STREAMS} streamed chats of {tokens} tokens at once, events by the gateway's processor seconds; "
        "0.4 is good, goal 0.8"
    )
    return [Figure("sse_events_a_core", ours, "events/s", "raw ASGI writes", theirs, how)]


async def _rate(client: httpx.Client, path: str, bodies: list[dict[str, object] | None], pid: int) -> float:
    """Events that came in all streams, by the seconds of processor that the server took for them."""
    async with httpx.AsyncClient(
        base_url=client.base_url, headers=client.headers, timeout=READY_S, limits=httpx.Limits()
    ) as many:
        events, spent = 0, 0.0
        # The system counts processor time in hundredths of a second.
        while spent < LEAST_S:
            before = _processor_s(pid)
            events += sum(await asyncio.gather(*(_read(many, path, body) for body in bodies)))
            spent += _processor_s(pid) - before
        return events / spent


async def _read(client: httpx.AsyncClient, path: str, body: dict[str, object] | None) -> int:
    async with client.stream("GET" if body is None else "POST", path, json=body) as answer:
        answer.raise_for_status()
        return sum([line.startswith("data: ") async for line in answer.aiter_lines()])


def _processor_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


@contextmanager
def _raw() -> Iterator[tuple[httpx.Client, int]]:
    port = embedded.free_port()
    command = [sys.executable, "-m", "tests.bench.raw_sse", str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=READY_S) as client:
            wait_for(lambda: process.poll() is not None or _answers(client), READY_S, "the raw server")
            yield client, process.pid
    finally:
        process.terminate()
        process.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/?events=1").is_success
    except httpx.ConnectError:
        return False
