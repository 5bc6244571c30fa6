"""The HTTP side of the OTLP receiver: POST /v1/traces behind a bearer token. Knows no SQL.

It makes no spans of its own: a receiver that traced its receiving would never come to rest.
"""

from __future__ import annotations

import hmac
import json
import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from services.monitoring import otlp
from services.monitoring.otlp import SpanRow, TooLarge
from shared.errors import ConfigurationError, HeliuError, InvalidInput, Unavailable

log = logging.getLogger(__name__)

PATH = "/v1/traces"
PROTOBUF = "application/x-protobuf"
MAX_BODY = 4 * 1024 * 1024
MAX_UNPACKED = 16 * 1024 * 1024
READ_TIMEOUT_S = 10.0
WRITERS = 2
WRITE_PATIENCE_S = 5.0
CONNECTIONS = 64

Store = Callable[[list[SpanRow]], int]


class Receiver:
    """Listens from `start` to `stop`. `store` keeps spans, returns how many it dropped, and may raise Unavailable."""

    def __init__(self, host: str, port: int, token: str, store: Store) -> None:
        if not token:
            raise ConfigurationError(
                "the OTLP receiver needs a token; set HELIU_OTLP_TOKEN", param="HELIU_OTLP_TOKEN"
            )
        try:
            self._server = _Server((host, port), token, _limited(store))
        except OSError as exc:
            raise ConfigurationError(
                f"the OTLP receiver cannot listen on {host}:{port}: {exc.strerror}; choose another HELIU_OTLP_PORT",
                param="HELIU_OTLP_PORT",
            ) from exc
        self._thread = threading.Thread(target=self._server.serve_forever, name="otlp", daemon=True)

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; requests that are being read are cut off, and their senders try again."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _limited(store: Store) -> Store:
    """`store` on a few threads at a time, so that a flood of spans leaves the jobs their connections."""
    writers = threading.BoundedSemaphore(WRITERS)

    def keep(rows: list[SpanRow]) -> int:
        if not writers.acquire(timeout=WRITE_PATIENCE_S):
            raise Unavailable("more spans arrive than can be kept; they may be sent again later")
        try:
            return store(rows)
        finally:
            writers.release()

    return keep


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], token: str, keep: Store) -> None:
        self.expected = f"Bearer {token}".encode()
        self.keep = keep
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, *_: Any) -> None:
        # A sender that hangs up in the middle is no event worth a stack trace.
        log.debug("otlp_connection_broken", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "heliu"
    sys_version = ""
    timeout = READ_TIMEOUT_S
    server: _Server

    def do_POST(self) -> None:
        # What was not read of a refused body would be taken for the next request.
        self.close_connection = True
        if not hmac.compare_digest(self.headers.get("authorization", "").encode(), self.server.expected):
            self._refuse(401, "unauthorized", "the OTLP receiver wants 'Authorization: Bearer <token>'")
            return
        if self.path != PATH:
            self._refuse(404, "not_found", f"there is only {PATH} here")
            return
        if self.headers.get_content_type() != PROTOBUF:
            self._refuse(415, "unsupported_media_type", f"send OTLP as {PROTOBUF}")
            return
        try:
            body = otlp.unpack(
                self._body(), self.headers.get("content-encoding", "").strip().lower(), MAX_UNPACKED
            )
            rows, refused = otlp.decode(body)
            dropped = self.server.keep(rows)
        except TooLarge as exc:
            self._refuse(413, exc.code, exc.message)
        except InvalidInput as exc:
            self._refuse(400, exc.code, exc.message)
        except HeliuError as exc:
            log.warning("spans_not_kept", extra={"error": exc.message})
            self._refuse(503, exc.code, exc.message)
        else:
            self.close_connection = self.headers.get("connection", "").lower() == "close"
            why = f"{refused} with malformed ids or times, {dropped} over the cap of a trace"
            self._answer(200, PROTOBUF, otlp.answer(refused + dropped, why))

    def _body(self) -> bytes:
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or "transfer-encoding" in self.headers:
            raise InvalidInput("send a Content-Length", param="Content-Length")
        if len(length) > 12 or int(length) > MAX_BODY:
            raise TooLarge(
                f"the body is larger than {MAX_BODY} bytes; export smaller batches", param="Content-Length"
            )
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise InvalidInput("the body ends before its Content-Length", param="body")
        return body

    def _refuse(self, status: int, code: str, message: str) -> None:
        error = json.dumps({"error": {"code": code, "message": message}})
        self._answer(status, "application/json", error.encode())

    def _answer(self, status: int, type_: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", type_)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("otlp_request", extra={"line": format % args})
