"""Bytes of a request as they come: never more than are allowed, and never waited for without an end."""

from __future__ import annotations

from collections.abc import AsyncIterator

from anyio import fail_after, move_on_after
from fastapi import Request

from services.gateway.complaints import short
from shared.errors import HeliuError

DRAIN_BYTES = 64 * 1024 * 1024
DRAIN_S = 5.0


def refuse_encoding(request: Request) -> None:
    """Raise HeliuError for a body that is compressed: a few bytes of it may stand for gigabytes."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise HeliuError(
            f"Content-Encoding {short(encoding)} is not accepted; send the body as it is",
            code="unsupported_media_type",
            param="Content-Encoding",
        )


async def chunks(request: Request, silence_s: float) -> AsyncIterator[bytes]:
    """The body as it comes. Raises HeliuError `request_timeout` after `silence_s` without a byte of it."""
    stream = request.stream()
    while True:
        try:
            with fail_after(silence_s):
                chunk = await anext(stream, None)
        except TimeoutError as exc:
            raise HeliuError(
                f"nothing more of the body came for {silence_s:g} s; send it again",
                code="request_timeout",
                param="body",
            ) from exc
        if chunk is None:
            return
        yield chunk


async def read_capped(request: Request, cap: int, silence_s: float) -> bytes:
    """The body; raises HeliuError `body_too_large` past `cap` bytes, without holding more than that."""
    parts, size = [], 0
    declared = request.headers.get("content-length", "")
    too_large = declared.isdecimal() and len(declared) < 20 and int(declared) > cap
    stream = chunks(request, silence_s)
    if not too_large:
        async for chunk in stream:
            size += len(chunk)
            if size > cap:
                too_large = True
                break
            parts.append(chunk)
    if too_large:
        await drain(stream)
        raise HeliuError(f"the body is over the limit of {cap} bytes", code="body_too_large", param="body")
    return b"".join(parts)


async def drain(stream: AsyncIterator[bytes]) -> None:
    """Read on for a while and forget it: a client that is still sending would never see the answer."""
    read = 0
    with move_on_after(DRAIN_S):
        async for chunk in stream:
            read += len(chunk)
            if read > DRAIN_BYTES:
                return
