"""Server-sent events of streamed chats: how many the gateway writes in a second of its processor's time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import psutil

from deploy import embedded
from tests.bench.figures import Figure
from tests.bench.place import READY_S, Place
from tests.bench.rows import chat_body, texts
from tests.harness import ROOT, wait_for

STREAMS = 16
LEAST_S = 0.3
CHATS = "/v1/chat/completions"
# Of the gateway and worker that have no engine; apart from the platform's, which may run already.
POOL = "speaking"


def events_a_core(place: Place) -> list[Figure]:
    """Processor time and no wall time: what the engine takes meanwhile is not the gateway's.

    An engine that is short of processor says its tokens when it can, and how many wake-ups that costs the gateway is
    its affair; so a worker without one says them too, as an engine in step and all at once.
    """
    tokens = place.size(200, 8)
    gateway = place.platform.processes["gateway"].pid
    bodies = [{**chat_body(text, tokens), "stream": True} for text in texts(STREAMS, seed=6)]
    ours = asyncio.run(_rate(place.platform.client, CHATS, bodies, gateway))
    with _speaking(place) as (client, pid):
        paced = asyncio.run(_rate(client, CHATS, [{**body, "temperature": 1.0} for body in bodies], pid))
        at_once = asyncio.run(_rate(client, CHATS, bodies, pid))
    with _raw() as (client, pid):
        theirs = asyncio.run(_rate(client, f"/?events={tokens}", [None] * STREAMS, pid))
    what = f"{STREAMS} streamed chats of {tokens} tokens, events by the gateway's processor seconds"
    return [
        Figure(name, rate, "events/s", "raw ASGI writes", theirs, f"{what}; {how}")
        for name, rate, how in (
            ("sse_events_a_core", ours, "the engine's own; 0.4 is good, goal 0.8"),
            ("sse_events_in_step", paced, "of a worker that says one to each stream every 20 ms"),
            ("sse_events_at_once", at_once, "of a worker that says all at once"),
        )
    ]


@contextmanager
def _speaking(place: Place) -> Iterator[tuple[httpx.Client, int]]:
    """A client of a gateway of its own, and that one's process; its worker has no engine."""
    port, own = str(embedded.free_port()), {"HELIU_POOL": POOL}
    with ExitStack() as stack:
        module = "tests.bench.speaking_worker"
        stack.enter_context(place.running("inference", 7, module=module, **own))
        gateway = stack.enter_context(place.running("gateway", 7, HELIU_GATEWAY_PORT=port, **own))
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=place.platform.client.headers, timeout=READY_S
        )
        with client:
            yield client, gateway.pid


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
