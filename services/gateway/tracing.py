"""The outermost layer: ids, one SERVER span, metrics, and the last answer to anything that nobody caught."""

from __future__ import annotations

import logging
import secrets
import time

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.errors import error_response, http_error, internal_error
from shared import semconv
from shared.contracts import answers
from shared.errors import HeliuError
from shared.metrics import SECONDS, Metrics
from shared.telemetry import Span, Tracing, parse_traceparent

log = logging.getLogger(__name__)

LIVE_PATHS = frozenset({answers.CHAT, answers.TEXT})
MAX_PATH = 2048


class HttpMetrics:
    """Requests by route and status, and how long they took."""

    def __init__(self, metrics: Metrics) -> None:
        self.requests = Counter(
            semconv.METRIC_REQUESTS.removesuffix("_total"),
            "HTTP requests by method, route and status",
            ["method", "route", "status"],
            registry=metrics.registry,
        )
        self.seconds = Histogram(
            semconv.METRIC_REQUEST_SECONDS,
            "Seconds from the first to the last byte of a request",
            ["method", "route"],
            buckets=SECONDS,
            registry=metrics.registry,
        )


class TracingMiddleware:
    """One span a request, named by its route; never one a chunk of a stream."""

    def __init__(self, app: ASGIApp, tracing: Tracing, metrics: HttpMetrics) -> None:
        self._app = app
        self._tracing = tracing
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        span = self._start(scope)
        state["span"], state["trace_id"] = span, span.trace_id
        state["request_id"] = f"req_{secrets.token_hex(12)}"
        started, status, began = False, 500, time.monotonic()

        async def send_with_ids(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                message = {**message, "headers": [*message["headers"], *_id_headers(state)]}
            await send(message)

        try:
            _check_path(scope)
            await self._app(scope, receive, send_with_ids)
        except Exception as exc:
            if not isinstance(exc, HeliuError):
                log.exception("request_failed", extra={"path": scope["path"], "trace_id": span.trace_id})
                span.fail(type(exc).__name__)
            if started:
                raise
            error = exc if isinstance(exc, HeliuError) else internal_error()
            await error_response(error, span.trace_id)(scope, receive, send_with_ids)
        finally:
            self._end(scope, span, status, time.monotonic() - began)

    def _start(self, scope: Scope) -> Span:
        """A caller's sampled trace is gone on with; one that it does not record is only linked."""
        incoming = next((v.decode("latin-1") for k, v in scope["headers"] if k == b"traceparent"), None)
        context = parse_traceparent(incoming)
        sampled = context is not None and context.trace_flags.sampled
        return self._tracing.start(
            scope["method"],
            kind="server",
            parent=incoming if sampled else None,
            links=[incoming] if incoming and not sampled else [],
            attributes={
                semconv.HTTP_METHOD: scope["method"],
                semconv.URL_PATH: scope["path"][:256],
                semconv.KEEP: True if scope["method"] == "POST" and scope["path"] not in LIVE_PATHS else None,
            },
        )

    def _end(self, scope: Scope, span: Span, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        method = (
            scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD") else "?"
        )
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
        span.rename(f"{method} {route}")
        caller = scope["state"].get("caller")
        span.set_all(
            {
                semconv.HTTP_ROUTE: route,
                semconv.HTTP_STATUS: status,
                semconv.REQUEST_ID: scope["state"]["request_id"],
                semconv.TENANT: str(caller.tenant) if caller is not None else None,
            }
        )
        if status >= 500:
            span.fail(f"HTTP {status}")
        span.end()


def _id_headers(state: dict[str, object]) -> list[tuple[bytes, bytes]]:
    headers = {"x-trace-id": state["trace_id"], "x-request-id": state["request_id"], **_budget(state)}
    return [
        (b"x-content-type-options", b"nosniff"),
        *((k.encode(), str(v).encode()) for k, v in headers.items()),
    ]


def _budget(state: dict[str, object]) -> dict[str, str]:
    budget = state.get("budget")
    return budget if isinstance(budget, dict) else {}


def _check_path(scope: Scope) -> None:
    """Refuse what no route and no database can hold, before anything looks at it."""
    if len(scope["path"]) > MAX_PATH:
        raise http_error(404, f"the path is longer than {MAX_PATH} characters")
    query: bytes = scope["query_string"]
    if "\x00" in scope["path"] or b"%00" in query or b"\x00" in query:
        raise HeliuError("the address holds a NUL character", code="invalid_value", param="url")
