"""Queue entries of the warehouse: queries, differences, exports and the collection of garbage."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

from services.data_governance.repository import files
from services.data_governance.repository import warehouse as repository
from services.data_governance.warehouse import garbage
from services.data_governance.warehouse.diff import diff
from services.data_governance.warehouse.export import export
from services.data_governance.warehouse.query import query
from shared.contracts.warehouse import (
    MAX_RESULT_BYTES,
    CollectGarbage,
    DiffVersions,
    ExportVersion,
    QueryVersions,
)
from shared.errors import LimitExceeded
from shared.job_context import JobContext, Outcome
from shared.jobs import new_id
from shared.live_server import LiveContext
from shared.worker import Platform


def query_versions(
    platform: Platform, slots: BoundedSemaphore, ctx: LiveContext, call: QueryVersions
) -> dict[str, Any]:
    """One SELECT for a client that waits. Raises LimitExceeded where this worker has as many as it may."""
    if not slots.acquire(blocking=False):
        raise LimitExceeded(
            "as many queries as a worker takes at once are running; ask again in a moment",
            code="concurrency_limit_exceeded",
        )
    try:
        return _query(platform, ctx, call)
    finally:
        slots.release()


def _query(platform: Platform, ctx: LiveContext, call: QueryVersions) -> dict[str, Any]:
    cache = platform.settings.home / "cache"
    with platform.tracing.span("data.query", parent=ctx.span.traceparent) as span:
        tables = [
            (table.name, platform.artifacts.materialize(table.artifact, cache)) for table in call.tables
        ]
        answer = query(
            cache,
            tables,
            call.sql,
            max_rows=call.max_rows,
            max_bytes=MAX_RESULT_BYTES,
            max_seconds=call.max_seconds,
            cancelled=ctx.cancelled.is_set,
        )
        span.set(rows=len(answer["rows"]))
    return answer


def diff_versions(platform: Platform, ctx: LiveContext, call: DiffVersions) -> dict[str, Any]:
    """Two versions compared for a client that waits."""
    cache = platform.settings.home / "cache"
    before, after = (platform.artifacts.materialize(name, cache) for name in (call.before, call.after))
    with (
        platform.tracing.span("data.diff", parent=ctx.span.traceparent),
        tempfile.TemporaryDirectory(prefix="diff-", dir=_work(platform)) as scratch,
    ):
        return diff(
            before,
            after,
            Path(scratch),
            key=call.key,
            samples=call.samples,
            cancelled=ctx.cancelled.is_set,
        )


def export_version(platform: Platform, ctx: JobContext, job: ExportVersion) -> Outcome:
    """A version as a file of the tenant's, to be downloaded like any."""
    folder = platform.artifacts.materialize(job.artifact, platform.settings.home / "cache")

    def look() -> None:
        ctx.check()
        ctx.touch()

    with tempfile.TemporaryFile(dir=_work(platform)) as target:
        rows = export(folder, target, format=job.format, split=job.split, look=look)
        target.seek(0)
        artifact, size = platform.artifacts.put(target)
    file_id = new_id("file-")
    return Outcome(
        result={"file_id": file_id, "filename": job.filename, "rows": rows, "bytes": size},
        write=lambda connection: files.add(
            connection,
            ctx.job.tenant_id,
            file_id,
            filename=job.filename,
            size=size,
            artifact=artifact,
            job_id=ctx.job.id,
        ),
    )


def collect_garbage(platform: Platform, ctx: JobContext, job: CollectGarbage) -> Outcome:
    """Every tenant's retention, then whatever no row of any tenant names any more."""
    before = time.time() - job.grace_hours * 3600

    def look() -> None:
        ctx.check()
        ctx.touch()

    with platform.db.core() as connection:
        tenants = repository.tenants(connection)
    versions: list[dict[str, Any]] = []
    named: set[str] = set()
    for tenant in tenants:
        look()
        with platform.db.transaction(tenant) as connection:
            go = repository.overdue if job.dry_run else repository.remove_overdue
            gone = go(connection, tenant)
        versions += [{"id": row["id"], "tenant_id": str(tenant)} for row in gone]
        with platform.db.transaction(tenant) as connection:
            named |= repository.named_artifacts(connection, before)
    reached = garbage.reach(platform.artifacts, named, look)
    swept = garbage.sweep(platform.artifacts, reached, before, dry_run=job.dry_run, look=look)
    cleared = tidied = 0
    if not job.dry_run:
        cleared = garbage.clear_cache(platform.settings.home / "cache", reached, before)
        tidied = platform.artifacts.tidy(before)
    return Outcome(
        result={
            "dry_run": job.dry_run,
            "versions": versions[: garbage.SHOWN],
            "versions_total": len(versions),
            **asdict(swept),
            "cache_folders": cleared,
            "half_written": tidied,
        }
    )


def _work(platform: Platform) -> Path:
    folder = platform.settings.home / "work"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
