"""A live question to whichever worker hears it, and its one answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request

from services.gateway.answering import sse
from services.gateway.auth import Caller
from services.gateway.context import Gateway
from shared.contracts.base import LiveCall
from shared.live_client import last_entry
from shared.streams import Entry


def entries(request: Request, gateway: Gateway, call: LiveCall) -> AsyncIterator[Entry]:
    """All that a worker answers, under the caller's cap of requests in flight."""
    caller: Caller = request.state.caller
    return gateway.live.call(
        call,
        pool=gateway.settings.pool,
        tenant=str(caller.tenant),
        max_in_flight=caller.max_live,
        accept_s=gateway.settings.live_deadline_seconds,
        parent=request.state.span.traceparent,
    )


async def answer(request: Request, gateway: Gateway, call: LiveCall) -> dict[str, Any]:
    """What a worker answers at last; the call is cancelled when the client goes."""
    last = await sse.unless_gone(request, last_entry(entries(request, gateway, call)))
    return dict(last.data)
