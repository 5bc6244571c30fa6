"""One HTTP request to an upstream: what it answers, or a typed error. Knows no frames, no retries and no queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from services.inference.upstream import refusals, sse
from services.inference.upstream.messages import Upstream
from services.inference.upstream.refusals import broken, malformed, misconfigured, silent, unreachable
from shared.outbound import Forbidden
from shared.outbound_async import CONNECT_S

MAX_ANSWER = 256 * 1024 * 1024
MAX_REFUSAL = 64 * 1024
DONE = "[DONE]"


async def stream(
    http: httpx.AsyncClient,
    upstream: Upstream,
    path: str,
    body: Mapping[str, Any],
    *,
    silence_s: float,
    trace: str | None,
) -> AsyncIterator[tuple[bool, Any]]:
    """(whether it is the whole answer, object) of each event; raises HeliuError.

    Ends with `[DONE]`, or quietly with the connection: whether the answer is whole then, is for whoever reads it.
    """
    async with _posted(http, upstream, path, body, silence_s, trace) as response:
        if _media(response) == "application/json":
            yield True, _object(await _read(response, MAX_ANSWER, silence_s))
            return
        if _media(response) != "text/event-stream":
            raise malformed(f"content of the type {_media(response)[:40]!r}")
        events = sse.events(response.aiter_bytes())
        while True:
            try:
                # By events, and not by bytes: an upstream may comment on its silence for ever.
                async with asyncio.timeout(silence_s):
                    data = await anext(events, None)
            except (TimeoutError, httpx.TimeoutException) as exc:
                raise silent(silence_s) from exc
            except httpx.TransportError as exc:
                raise broken(type(exc).__name__) from exc
            if data is None or data.strip() == DONE:
                return
            yield False, _object(data)


async def whole(
    http: httpx.AsyncClient,
    upstream: Upstream,
    path: str,
    body: Mapping[str, Any],
    *,
    silence_s: float,
    trace: str | None,
) -> Any:
    """The object of an answer that comes in one piece; raises HeliuError."""
    async with _posted(http, upstream, path, body, silence_s, trace) as response:
        return _object(await _read(response, MAX_ANSWER, silence_s))


@asynccontextmanager
async def _posted(
    http: httpx.AsyncClient,
    upstream: Upstream,
    path: str,
    body: Mapping[str, Any],
    silence_s: float,
    trace: str | None,
) -> AsyncIterator[httpx.Response]:
    """A response of status 200. Leaving the block closes the connection, unless its body was read to the end."""
    headers = {"accept": "text/event-stream, application/json", "accept-encoding": "identity"}
    headers |= {"authorization": f"Bearer {upstream.api_key}"} if upstream.api_key else {}
    headers |= {"traceparent": trace} if trace else {}
    request = http.build_request(
        "POST",
        f"{upstream.url}{path}",
        json=dict(body),
        headers=headers,
        timeout=httpx.Timeout(silence_s, connect=CONNECT_S, pool=None),
    )
    try:
        response = await http.send(request, stream=True)
    except Forbidden as exc:
        # Why, with the address, is for the operator who tests it.
        raise misconfigured("stands at an address that the platform does not talk to") from exc
    except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
        raise unreachable(type(exc).__name__) from exc
    except httpx.TimeoutException as exc:
        raise silent(silence_s) from exc
    except httpx.TransportError as exc:
        raise broken(type(exc).__name__) from exc
    try:
        if response.status_code != 200:
            told = await _read(response, MAX_REFUSAL, silence_s, cut=True)
            raise refusals.of_status(response.status_code, told, response.headers, upstream.api_key)
        yield response
    finally:
        await response.aclose()


async def _read(response: httpx.Response, most: int, silence_s: float, *, cut: bool = False) -> bytes:
    """The body, whole within `silence_s`; over `most` bytes it is cut, or malformed."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(silence_s):
            async for part in response.aiter_bytes():
                size += len(part)
                if size > most and not cut:
                    raise malformed(f"an answer of more than {most} bytes")
                parts.append(part)
                if size > most:
                    break
    except (TimeoutError, httpx.TimeoutException) as exc:
        raise silent(silence_s) from exc
    except httpx.TransportError as exc:
        raise broken(type(exc).__name__) from exc
    return b"".join(parts)[:most]


def _object(text: str | bytes) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as exc:
        raise malformed("something that is no JSON") from exc


def _media(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()
