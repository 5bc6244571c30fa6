"""HTTP/1.1 as uvicorn speaks it, but what is no HTTP, or never becomes a request, is answered in the one shape too."""

from __future__ import annotations

import asyncio
import secrets
import sys

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from services.gateway.errors import error_response
from shared import semconv
from shared.errors import HeliuError
from shared.telemetry import Tracing


def protocol_for(tracing: Tracing, silence_s: float) -> type[H11Protocol]:
    """The protocol of a server. A connection has `silence_s` to send its first request's head: who opens many and
    says nothing must not use up what others need."""

    class Protocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._patience = self.loop.call_later(silence_s, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._patience.cancel()
            super().connection_lost(exc)

        def _give_up(self) -> None:
            if self.scope is None and not self.transport.is_closing():
                self._refuse(HeliuError(f"no request came for {silence_s:g} s", code="request_timeout"))

        def send_400_response(self, msg: str) -> None:
            """Called where h11 gives up on what was sent; `msg` is the same for everything."""
            self._refuse(_error(sys.exc_info()[1], msg))

        def _refuse(self, error: HeliuError) -> None:
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                # In the middle of an answer: it ends here, and the client sees that it is not whole.
                self.transport.close()
                return
            with tracing.span("HTTP unmatched", kind="server") as span:
                answer = error_response(error, span.trace_id)
                request_id = f"req_{secrets.token_hex(12)}"
                span.set_all({semconv.HTTP_STATUS: answer.status_code, semconv.REQUEST_ID: request_id})
            headers = [header for header in answer.raw_headers if header[0] != b"connection"]
            headers += [
                (b"x-trace-id", span.trace_id.encode()),
                (b"x-request-id", request_id.encode()),
                (b"connection", b"close"),
            ]
            reason = STATUS_PHRASES[answer.status_code]
            for event in (
                h11.Response(status_code=answer.status_code, headers=headers, reason=reason),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Protocol


def _error(exc: BaseException | None, otherwise: str) -> HeliuError:
    if isinstance(exc, h11.RemoteProtocolError) and exc.error_status_hint == 431:
        return HeliuError(
            "the address or the headers are too long", code="headers_too_large", param="headers"
        )
    return HeliuError(f"this is not an HTTP/1.1 request: {exc or otherwise}", code="invalid_http")
