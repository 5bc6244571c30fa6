"""`python -m services.gateway.main`: wiring of the HTTP door. `create_app` makes the same for tests."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI
from fastapi_swagger import patch_fastapi

from services.gateway.answering.orphans import Orphans
from services.gateway.answering.placement import Placement
from services.gateway.answering.usage import UsageWriter
from services.gateway.auth import Authenticator
from services.gateway.context import Bell, Gateway
from services.gateway.docs import describe
from services.gateway.gate import GateMiddleware
from services.gateway.limits import RateLimiter
from services.gateway.refusals import answer_refusals
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
    stored_chats,
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
from services.gateway.server import make_server
from services.gateway.tracing import HttpMetrics, TracingMiddleware
from services.gateway.uploads.multipart import UploadSlots
from shared.bootstrap import pepper_of, sealer_of
from shared.errors import HeliuError
from shared.kept import KeptAnswers
from shared.live_client import LiveClient
from shared.queue import Publisher
from shared.settings import read_settings
from shared.worker import Platform, open_platform

ROUTERS = (
    health.router,
    files.router,
    models.router,
    blobs.router,
    chat.router,
    stored_chats.router,
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
    answer_refusals(app, ROUTERS)
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
