"""`python -m services.gateway.main`: wiring of the HTTP door. `create_app` makes the same for tests."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route
from uvicorn.server import HANDLED_SIGNALS

from services.gateway.answering.orphans import Orphans
from services.gateway.answering.placement import Placement
from services.gateway.answering.usage import UsageWriter
from services.gateway.auth import Authenticator
from services.gateway.context import Bell, Gateway
from services.gateway.docs import describe
from services.gateway.errors import error_response, http_error
from services.gateway.gate import GateMiddleware
from services.gateway.limits import RateLimiter
from services.gateway.protocol import protocol_for
from services.gateway.routes import (
    artifacts,
    batches,
    blobs,
    chat,
    checks,
    curves,
    datasets,
    embeddings,
    erasures,
    estimates,
    eval_reports,
    eval_runs,
    evals,
    evaluations,
    files,
    fine_tuning,
    graders,
    health,
    jobs,
    label_page,
    labelling,
    labelling_items,
    labelling_jobs,
    labelling_work,
    lineage,
    marking,
    models,
    operator,
    recipes,
    registry,
    registry_gates,
    registry_moves,
    scoring,
    searches,
    sources,
    sql,
    syncs,
    tasks,
    traces,
    training,
    upstreams,
    usage,
    vector_store_files,
    vector_stores,
    warehouse,
    webhooks,
)
from services.gateway.tracing import HttpMetrics, TracingMiddleware
from services.gateway.uploads.multipart import UploadSlots
from shared.bootstrap import pepper_of, sealer_of
from shared.errors import HeliuError, InvalidInput
from shared.kept import KeptAnswers
from shared.live_client import LiveClient
from shared.metrics import announce
from shared.queue import Publisher
from shared.settings import read_settings
from shared.worker import Platform, open_platform

ROUTERS = (
    health.router,
    files.router,
    models.router,
    blobs.router,
    chat.router,
    embeddings.router,
    scoring.router,
    tasks.router,
    registry.router,
    registry_moves.router,
    registry_gates.router,
    marking.router,
    fine_tuning.router,
    training.router,
    searches.router,
    curves.router,
    estimates.router,
    evaluations.router,
    evals.router,
    eval_runs.router,
    eval_reports.router,
    graders.router,
    batches.router,
    datasets.router,
    recipes.router,
    sources.router,
    syncs.router,
    checks.router,
    label_page.router,
    labelling.router,
    labelling_items.router,
    labelling_jobs.router,
    labelling_work.router,
    lineage.router,
    vector_stores.router,
    vector_store_files.router,
    erasures.router,
    warehouse.router,
    sql.router,
    artifacts.router,
    jobs.router,
    webhooks.router,
    usage.router,
    traces.router,
    operator.router,
    upstreams.router,
)
CONNECTIONS = 16
# Few more than connections: a request that waits for one holds a thread meanwhile.
THREADS = 20
UPLOADS, UPLOADS_EACH = 32, 8


def wire(platform: Platform) -> Gateway:
    """The parts of one gateway on a platform. Opens Redis clients and starts the ledger's thread."""
    settings = platform.settings
    publisher = Publisher(settings.redis_url, platform.tracing)
    pepper = pepper_of(settings)
    serving = Placement(platform.db).serving
    return Gateway(
        platform=platform,
        publisher=publisher,
        bell=Bell(publisher),
        live=LiveClient(
            publisher,
            settings.redis_url,
            silence_s=settings.live_silence_seconds,
            serving=serving,
        ),
        authenticator=Authenticator(
            platform.db,
            pepper=pepper,
            enabled=settings.auth == "on",
            requests_per_minute=settings.requests_per_minute,
        ),
        limiter=RateLimiter(platform.db),
        usage=UsageWriter(platform.db),
        uploads=UploadSlots(UPLOADS, UPLOADS_EACH),
        kept=KeptAnswers(settings.redis_url),
        orphans=Orphans(),
        serving=serving,
        pepper=pepper,
        sealer=sealer_of(settings),
    )


def create_app(platform: Platform) -> FastAPI:
    """The application on an opened platform; it closes what it opened, and not the platform."""
    gateway = wire(platform)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        await gateway.live.start()
        try:
            yield
        finally:
            gateway.closing.set()
            gateway.live.leave()
            await gateway.orphans.close()
            await gateway.live.close()
            await gateway.kept.close()
            await to_thread.run_sync(_close, gateway)

    app = FastAPI(
        title="Heliu",
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        # Spans and metrics are ours: one SERVER span a request, by services.gateway.tracing.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.gateway = gateway
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    # The pages come with their scripts, so that they open in a network without the internet too.
    patch_fastapi(app, redirect_from_root_to_docs=False)
    app.add_exception_handler(HeliuError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_gone)
    # The last one added is the outermost.
    app.add_middleware(
        GateMiddleware,
        authenticator=gateway.authenticator,
        limiter=gateway.limiter,
        tracing=platform.tracing,
    )
    app.add_middleware(TracingMiddleware, tracing=platform.tracing, metrics=HttpMetrics(platform.metrics))
    return app


def _close(gateway: Gateway) -> None:
    gateway.usage.close()
    gateway.bell.close()
    gateway.publisher.close()


async def _answer_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HeliuError)
    return error_response(exc, request.state.trace_id)


async def _answer_validation(request: Request, exc: Exception) -> Response:
    """Query and path parameters; bodies are checked by `bodies`."""
    assert isinstance(exc, RequestValidationError)
    first: dict[str, Any] = exc.errors()[0]
    param = str(first["loc"][-1])
    error = InvalidInput(f"{param}: {first['msg']}, got {str(first['input'])[:80]!r}", param=param)
    return error_response(error, request.state.trace_id)


async def _answer_http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    path = f"{request.method} {request.url.path}"
    headers = dict(exc.headers or {})
    if exc.status_code == 405:
        # The framework names the methods of the first route with this path only.
        headers["allow"] = ", ".join(sorted(_methods(request)))
    said = {
        404: f"no route {path}; the routes are at /docs",
        405: f"{path} is not served; this path has other methods (see the Allow header)",
    }
    response = error_response(
        http_error(exc.status_code, said.get(exc.status_code, str(exc.detail))), request.state.trace_id
    )
    response.headers.update(headers)
    return response


def _methods(request: Request) -> set[str]:
    """The methods that some route serves at this path."""
    routes = [*request.app.routes, *(route for router in ROUTERS for route in router.routes)]
    return {
        method
        for route in routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


async def _answer_gone(request: Request, _: Exception) -> Response:
    gone = HeliuError("the client closed the connection", code="client_closed_request")
    return error_response(gone, request.state.trace_id)


class Server(uvicorn.Server):
    """uvicorn that says when it serves, and lets streams end when it is asked to stop."""

    def __init__(
        self, config: uvicorn.Config, *, closing: threading.Event, on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._closing = closing
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal again at the end: what is still to be closed would die of it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._closing.set()
        super().handle_exit(sig, frame)


def make_server(app: FastAPI, *, metrics_address: str = "") -> Server:
    """A server for the app's own settings; `port` 0 takes a free one."""
    gateway: Gateway = app.state.gateway
    settings = gateway.settings
    config = uvicorn.Config(
        app,
        host=settings.gateway_host,
        port=settings.gateway_port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=protocol_for(gateway.platform.tracing, settings.body_silence_seconds),
        ws="none",
        lifespan="on",
        backlog=1024,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, int(settings.drain_seconds)),
    )
    return Server(
        config, closing=gateway.closing, on_ready=partial(announce, settings.ready_file, metrics_address)
    )


def main() -> int:
    try:
        settings = read_settings(os.environ)
        platform = open_platform(settings, "gateway", max_connections=CONNECTIONS)
        # As every process does; the gateway's own /metrics has the platform's gauges beside it, behind a key.
        address = platform.metrics.serve(settings.metrics_host, settings.metrics_port)
    except HeliuError as exc:
        sys.stderr.write(f"gateway: {exc.message}\n")
        return 78
    server = make_server(create_app(platform), metrics_address=address)
    server.run()
    platform.close()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
