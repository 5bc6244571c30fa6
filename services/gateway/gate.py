"""The layer behind the span: no request passes without a key and a place in its key's minute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from anyio import to_thread
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.auth import Authenticator, check_reach, is_public
from services.gateway.errors import error_response
from services.gateway.limits import RateLimiter
from shared.errors import HeliuError
from shared.telemetry import Span, Tracing


class GateMiddleware:
    """Denies by default: only public paths pass without a caller, and a labeller nowhere but in the own project."""

    def __init__(
        self, app: ASGIApp, authenticator: Authenticator, limiter: RateLimiter, tracing: Tracing
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._limiter = limiter
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_public(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            await self._admit(scope)
        except HeliuError as exc:
            await error_response(exc, scope["state"]["trace_id"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> None:
        header = Request(scope).headers.get("authorization")
        state = scope["state"]
        with self._span("authorize", scope):
            caller = self._authenticator.remembered(header)
            if caller is None:
                caller = await to_thread.run_sync(self._authenticator.authenticate, header)
        state["caller"] = caller
        check_reach(caller, scope["path"])
        with self._span("quota", scope):
            budget = self._limiter.take_granted(caller)
            if budget is None:
                budget = await to_thread.run_sync(self._limiter.take, caller)
        state["budget"] = budget.headers() if caller.key_id is not None else {}

    def _span(self, name: str, scope: Scope) -> AbstractContextManager[object]:
        """A span where work is asked for; those who only look are many, and their traces short."""
        if scope["method"] != "POST":
            return nullcontext()
        span: Span = scope["state"]["span"]
        return self._tracing.span(name, parent=span.traceparent)
