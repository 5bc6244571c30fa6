"""`/v1/traces` and `/v1/alerts`: a tenant sees its own, an operator everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query

from services.gateway.auth import Caller
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.operator import repository as platform_repository
from services.gateway.operator import shapes as operator_shapes
from services.gateway.pages import PageDep, listing, unknown_cursor
from shared.db import Connection
from shared.errors import NotFound

router = APIRouter(tags=["traces"])

TRACE_ID = re.compile(r"^[0-9a-f]{32}$")


@contextmanager
def _view(gateway: Gateway, caller: Caller) -> Iterator[Connection]:
    """A transaction that sees what the caller may see."""
    with gateway.db.core() if caller.is_operator else gateway.db.transaction(caller.tenant) as connection:
        yield connection


@router.get("/v1/traces", summary="List traces")
def list_traces(
    gateway: GatewayDep,
    caller: CallerDep,
    page: PageDep,
    name: Annotated[str | None, Query(max_length=256, description="name of the root span")] = None,
) -> dict[str, Any]:
    """Newest first, while the built-in receiver keeps them; with a collector of your own, look there."""
    with _view(gateway, caller) as connection:
        if page.after and not platform_repository.has_trace(connection, page.after):
            raise unknown_cursor(page.after)
        rows = platform_repository.list_traces(connection, name, page.after, page.limit + 1)
    shown = [
        {
            "id": row["trace_id"],
            "object": "trace",
            "name": row["name"],
            "service": row["service"],
            "start_ns": row["start_ns"],
            "duration_ms": round((row["end_ns"] - row["start_ns"]) / 1e6, 3),
            "status": row["status"],
            "spans": row["spans"],
        }
        for row in rows[: page.limit]
    ]
    return listing(shown, len(rows) > page.limit)


@router.get("/v1/traces/{trace_id}", summary="The spans of a trace")
def retrieve(trace_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Ordered by start. Spans arrive a second or so after they end."""
    rows = []
    if TRACE_ID.match(trace_id):
        with _view(gateway, caller) as connection:
            rows = platform_repository.get_trace(connection, trace_id)
    if not rows:
        raise NotFound(
            f"no trace {trace_id!r} is kept here; its spans may be on their way, over their retention, or in "
            "the collector at HELIU_OTLP_ENDPOINT",
            param="trace_id",
        )
    jaeger = gateway.settings.jaeger_url.rstrip("/")
    return {
        "id": trace_id,
        "object": "trace",
        "services": sorted({row["service"] for row in rows}),
        "spans": [operator_shapes.span(row) for row in rows],
        "jaeger": f"{jaeger}/trace/{trace_id}" if jaeger else None,
    }


@router.get("/v1/alerts", summary="List alerts")
def list_alerts(
    gateway: GatewayDep,
    caller: CallerDep,
    page: PageDep,
    open_: Annotated[bool | None, Query(alias="open", description="only open, or only resolved ones")] = None,
) -> dict[str, Any]:
    """Newest first."""
    with _view(gateway, caller) as connection:
        if page.after and not platform_repository.has_alert(connection, page.after):
            raise unknown_cursor(page.after)
        rows = platform_repository.list_alerts(connection, open_, page.after, page.limit + 1)
    return listing([operator_shapes.alert(row) for row in rows[: page.limit]], len(rows) > page.limit)
