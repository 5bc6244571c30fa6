"""Is it alive, can it take work, and what do its instruments say."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from services.gateway.auth import operator_only
from services.gateway.context import Gateway, GatewayDep
from services.gateway.operator import repository as platform_repository
from services.gateway.operator.gauges import platform_text
from shared.errors import HeliuError, Unavailable
from shared.migrate import pending

log = logging.getLogger(__name__)

router = APIRouter(tags=["platform"])


@router.get("/healthz", summary="The process is alive")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", summary="Durable work is accepted")
def readyz(gateway: GatewayDep) -> JSONResponse:
    """503 while Postgres, its migrations or the disk of the artifacts stand in the way. Redis is only told."""
    checks = {
        "postgres": _postgres(gateway),
        "artifacts": _artifacts(gateway),
        "redis": _redis(gateway),
    }
    ready = all(checks[name] == "ok" for name in ("postgres", "artifacts"))
    body = {"status": "ready" if ready else "not ready", "checks": checks}
    return JSONResponse(body, status_code=200 if ready else 503)


def _postgres(gateway: Gateway) -> str:
    try:
        with gateway.db.core() as connection:
            platform_repository.answer(connection)
        missing = [] if gateway.migrated.is_set() else pending(gateway.settings.database_url)
    except (HeliuError, OSError) as exc:
        return _away("Postgres", exc)
    if missing:
        return f"migrations are missing: {', '.join(missing)}; run python -m shared.migrate"
    gateway.migrated.set()
    return "ok"


def _artifacts(gateway: Gateway) -> str:
    try:
        return gateway.artifacts.trouble() or "ok"
    except (HeliuError, OSError) as exc:
        return _away("the artifact store", exc)


def _redis(gateway: Gateway) -> str:
    try:
        gateway.publisher.backlog("monitoring")
    except Unavailable as exc:
        return _away("Redis", exc)
    return "ok"


def _away(what: str, exc: Exception) -> str:
    """Anybody may ask this, so hosts, users and paths stay in the log."""
    log.warning("not_ready", extra={"what": what, "error": str(exc)})
    return f"{what} does not answer; the gateway's log says more"


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    dependencies=[Depends(operator_only)],
    response_class=PlainTextResponse,
)
async def metrics(gateway: GatewayDep) -> Response:
    """This process's own metrics, and the platform's queues, jobs and workers as Postgres has them."""
    platform: Any = await asyncio.to_thread(platform_text, gateway.db)
    return Response(gateway.platform.metrics.text() + platform, media_type="text/plain; version=0.0.4")
