"""Queue entries of syncs: one function a contract."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from services.data_governance.repository import sources
from services.data_governance.scratch import scratch_folder
from services.data_governance.sync import connectors, show
from services.data_governance.sync.reach import Reach, SourceUnavailable
from services.data_governance.sync.run import Plan, State, Synced, sync_items, sync_rows
from services.data_governance.sync.watch import Watch
from shared import job_store
from shared.contracts.data_governance import BuildVersion
from shared.contracts.sources import (
    S3,
    Api,
    BuildAfter,
    Files,
    Options,
    ReadRows,
    SyncSource,
    TestSource,
    secret_name,
)
from shared.contracts.sources import Connection as Spec
from shared.db import Connection, Row
from shared.errors import HeliuError, NotFound
from shared.job_context import JobContext, Outcome
from shared.jobs import NewJob, new_id
from shared.live_server import LiveContext
from shared.sealing import Sealer
from shared.worker import Platform

PROGRESS_S = 1.0
# How often an API that only tells what changed is read whole, to see what is gone.
API_DELETES_S = 86_400
SPEC: TypeAdapter[Spec] = TypeAdapter(Spec)


@dataclass(frozen=True)
class Stored:
    """A file that a sync has put into the artifact store and not yet published."""

    file_id: str
    filename: str
    artifact: str
    bytes: int
    rows: int

    def shown(self) -> dict[str, Any]:
        return {
            "file_id": self.file_id,
            "artifact": self.artifact,
            "rows": self.rows,
            "filename": self.filename,
        }


def sync_source(platform: Platform, sealer: Sealer, ctx: JobContext, job: SyncSource) -> Outcome:
    """Read what changed, and publish the state after together with how far the source was read."""
    tenant = ctx.job.tenant_id
    row = _source(platform, tenant, job.source_id)
    spec, options = SPEC.validate_python(row["connection"]), Options.model_validate(row["options"])
    credentials = _opened(sealer, job.source_id, row["sealed"])
    held, now = row["state"], datetime.now(UTC)
    before = _state(platform, held)
    fresh = job.full or held.get("stale", False) or before.snapshot is None
    due = _deletes_due(spec, options, held, now, forced=fresh and bool(held.get("stale")))
    plan = Plan(
        row["name"],
        options,
        fresh,
        due,
        now.replace(tzinfo=None),
        max_item_bytes=platform.settings.max_upload_bytes,
    )
    watch = _watch(ctx)
    with scratch_folder(platform.settings.home / "work", ctx.job.id, ctx.job.epoch) as scratch:
        with platform.tracing.span("data.sync", parent=ctx.span.traceparent) as span:
            done = _read(platform, spec, credentials, job.source_id, before, plan, scratch, watch)
            span.set(mode=done.report["mode"], rows_read=done.report["rows"]["read"], rows=done.rows)
        stem = f"{row['name']}@{now:%Y-%m-%dT%H-%M-%SZ}"
        snapshot = store(platform, done.snapshot, f"{stem}.parquet", done.rows)
        quarantine = store(platform, done.quarantine, f"{stem}.quarantine.parquet", done.quarantine_rows)
    return _outcome(ctx, job, row, done, snapshot, quarantine, now)


def _outcome(
    ctx: JobContext,
    job: SyncSource,
    row: Row,
    done: Synced,
    snapshot: Stored | None,
    quarantine: Stored | None,
    now: datetime,
) -> Outcome:
    held = row["state"]
    state: dict[str, Any] = {
        "columns": [[name, kind] for name, kind in done.columns.items()],
        "snapshot": snapshot.shown() if snapshot else held.get("snapshot"),
        "quarantine": _quarantine(held, done, quarantine),
        "mark": done.mark,
        "deletes_at": now.isoformat() if done.deletes_checked else held.get("deletes_at"),
        "synced_at": now.isoformat(),
    }
    built = _build(job, state["snapshot"], changed=snapshot is not None)
    result = {
        "source": job.source,
        "source_id": job.source_id,
        "file_id": state["snapshot"]["file_id"],
        "filename": state["snapshot"]["filename"],
        "quarantine_file_id": (state["quarantine"] or {}).get("file_id"),
        "report": done.report,
        "build": {"job_id": built[0], "dataset": built[1].dataset} if built else None,
    }

    def write(connection: Connection) -> None:
        tenant = ctx.job.tenant_id
        for one in filter(None, (snapshot, quarantine)):
            sources.add_file(
                connection, one.file_id, tenant, one.filename, one.bytes, one.artifact, ctx.job.id
            )
        sources.publish(connection, job.source_id, row["generation"], state)
        sources.put_items(connection, tenant, job.source_id, done.items, done.items_gone)
        if built is not None:
            submit_build(connection, ctx, built[0], built[1], state["snapshot"])

    return Outcome(result=result, write=write)


def _source(platform: Platform, tenant: UUID, source_id: str) -> Row:
    with platform.db.core() as connection:
        row = sources.find(connection, tenant, source_id)
    if row is None:
        raise NotFound(f"the source {source_id} was deleted", param="source_id")
    return row


def _opened(sealer: Sealer, source_id: str, sealed: str | None) -> dict[str, Any]:
    if sealed is None:
        return {}
    opened: dict[str, Any] = json.loads(sealer.open(sealed, secret_name(source_id)))
    return opened


def _state(platform: Platform, held: Mapping[str, Any]) -> State:
    """The state before; none where its file is no longer in the store, so that all is read again."""
    snapshot, quarantine = held.get("snapshot"), held.get("quarantine")
    if snapshot is None:
        return State()
    try:
        return State(
            columns=dict(held["columns"]),
            snapshot=platform.artifacts.path(snapshot["artifact"]),
            rows=snapshot["rows"],
            quarantine=platform.artifacts.path(quarantine["artifact"]) if quarantine else None,
            mark=held["mark"],
        )
    except NotFound:
        return State()


def _deletes_due(
    spec: Spec, options: Options, held: Mapping[str, Any], now: datetime, *, forced: bool
) -> bool:
    every, last = options.deletes_every_s, held.get("deletes_at")
    if forced:
        return True
    if every is None:
        return False
    if isinstance(spec, Api) and spec.since is not None:
        every = every or API_DELETES_S
    return last is None or now - datetime.fromisoformat(last) >= timedelta(seconds=every)


def _read(
    platform: Platform,
    spec: Spec,
    credentials: Mapping[str, Any],
    source_id: str,
    before: State,
    plan: Plan,
    scratch: Path,
    watch: Watch,
) -> Synced:
    reach = _reach(platform)
    if not isinstance(spec, (Files, S3)):
        source = connectors.row_source(spec, credentials, reach, watch)
        return sync_rows(source, before, plan, scratch, watch)
    with platform.db.core() as connection:
        known = sources.items(connection, source_id) if before.snapshot is not None else {}
    files = connectors.item_source(spec, credentials, reach, watch)
    try:
        return sync_items(files, known, before, plan, scratch, watch)
    finally:
        files.close()


def _reach(platform: Platform) -> Reach:
    return Reach(platform.settings.allowed_sources, platform.settings.allowed_folders)


def _watch(ctx: JobContext) -> Watch:
    told = 0.0

    def check() -> None:
        ctx.touch()
        ctx.check()

    def pause(seconds: float) -> None:
        ctx.asked.wait(seconds)
        check()

    def progress(rows: int) -> None:
        nonlocal told
        if time.monotonic() - told > PROGRESS_S:
            ctx.progress(phase="reading", rows_read=rows)
            told = time.monotonic()

    return Watch(check, pause, progress)


def store(platform: Platform, path: Path | None, filename: str, rows: int) -> Stored | None:
    """Put a file that a job made into the artifact store; none for none."""
    if path is None:
        return None
    size = path.stat().st_size
    return Stored(new_id("file-"), filename, platform.artifacts.put_file(path), size, rows)


def _quarantine(held: Mapping[str, Any], done: Synced, stored: Stored | None) -> dict[str, Any] | None:
    if stored is not None:
        return stored.shown()
    # The source said that nothing changed (-1), or the rows in quarantine are the same as before.
    return held.get("quarantine") if done.quarantine_rows else None


def _build(job: SyncSource, snapshot: Mapping[str, Any], *, changed: bool) -> tuple[str, BuildAfter] | None:
    """A schedule builds what is new only; who asks for a build gets one. There is no version of no rows."""
    if job.build is None or not snapshot["rows"] or (job.scheduled and not changed):
        return None
    return new_id(BuildVersion.id_prefix), job.build


def submit_build(
    connection: Connection, ctx: JobContext, job_id: str, build: BuildAfter, snapshot: Mapping[str, Any]
) -> None:
    """Submit the build of a version of a file, as `Stored.shown` tells it, in the transaction that publishes it."""
    contract = BuildVersion(
        dataset_id=sources.ensure_dataset(connection, ctx.job.tenant_id, build.dataset),
        dataset_name=build.dataset,
        file_id=snapshot["file_id"],
        artifact=snapshot["artifact"],
        filename=snapshot["filename"],
        recipe=build.recipe,
    )
    new = NewJob(
        id=job_id,
        tenant_id=ctx.job.tenant_id,
        kind=contract.kind,
        queue=contract.queue_for(),
        payload=contract.dump(),
        max_attempts=contract.max_attempts,
        max_crashes=contract.max_crashes,
        metadata=ctx.job.metadata,
        api_key_id=ctx.job.api_key_id,
        traceparent=ctx.span.traceparent,
    )
    job_store.submit(connection, new)


def test_source(platform: Platform, sealer: Sealer, ctx: LiveContext, call: TestSource) -> dict[str, Any]:
    """Connect to a source and look, while a client waits."""
    check = _unless_gone(ctx)

    def pause(_: float) -> None:
        raise SourceUnavailable("the source asks for patience; try again later")

    with platform.tracing.span("data.test_source", parent=ctx.span.traceparent):
        credentials = _opened(sealer, call.source_id, call.sealed)
        return connectors.look(
            call.connection, credentials, _reach(platform), Watch(check, pause, lambda _: None)
        )


def _unless_gone(ctx: LiveContext) -> Callable[[], None]:
    def check() -> None:
        if ctx.cancelled.is_set():
            raise HeliuError("whoever asked has gone", code="client_closed_request")

    return check


def read_rows(platform: Platform, ctx: LiveContext, call: ReadRows) -> dict[str, Any]:
    """Rows of a stored Parquet file for a client that waits."""
    with platform.tracing.span("data.read_rows", parent=ctx.span.traceparent):
        return show.page(platform.artifacts.path(call.artifact), call.offset, call.limit)
