"""Queue entries of lineage: which rows a version has, and which versions have a row."""

from __future__ import annotations

from typing import Any

from services.data_governance.lineage import row_index
from shared.contracts.lineage import FindRows, VersionRows
from shared.errors import HeliuError
from shared.live_server import LiveContext
from shared.worker import Platform


def find_rows(platform: Platform, ctx: LiveContext, call: FindRows) -> dict[str, Any]:
    """Every place of the rows in these versions, for a client that waits."""
    cache = platform.settings.home / "cache"
    found: list[dict[str, Any]] = []
    with platform.tracing.span("data.find_rows", parent=ctx.span.traceparent) as span:
        for version in call.versions:
            if ctx.cancelled.is_set():
                raise HeliuError("the client has gone", code="client_closed_request")
            folder = platform.artifacts.materialize(version.artifact, cache)
            rows = row_index.find(folder, cache / "row-index", call.row_ids)
            found += [{"version": version.id, **row} for row in rows]
        span.set(versions=len(call.versions), found=len(found))
    return {"found": found}


def version_rows(platform: Platform, ctx: LiveContext, call: VersionRows) -> dict[str, Any]:
    """Some rows of a version, for a client that waits."""
    folder = platform.artifacts.materialize(call.artifact, platform.settings.home / "cache")
    with platform.tracing.span("data.version_rows", parent=ctx.span.traceparent):
        return row_index.listed(folder, call.offset, call.limit)
