"""Queue entries of dataset builds: one function a contract."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.data_governance.build import Progress, Stopped, VersionResult
from services.data_governance.build import build_version as build
from services.data_governance.preview import bad_rows, preview
from services.data_governance.repository import versions
from shared.contracts.data_governance import BuildVersion, PreviewRows
from shared.contracts.recipe_text import parse_recipe
from shared.db import Connection
from shared.job_context import JobContext, Outcome
from shared.live_server import LiveContext
from shared.worker import Platform

PROGRESS_S = 1.0


def build_version(platform: Platform, ctx: JobContext, job: BuildVersion) -> Outcome:
    """Govern one upload into a dataset version; a failed gate is an outcome, not an error."""
    recipe = parse_recipe(job.recipe) if job.recipe is not None else None
    told = 0.0

    def on_progress(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > PROGRESS_S:
            ctx.progress(**asdict(progress))
            told = time.monotonic()

    with scratch_folder(platform.settings.home / "work", ctx.job.id, ctx.job.epoch) as scratch:
        with platform.tracing.span("data.build", parent=ctx.span.traceparent) as span:
            try:
                result = build(
                    platform.artifacts.path(job.artifact),
                    recipe,
                    scratch,
                    source_name=job.filename,
                    source_sha256=job.artifact.removeprefix("sha256:"),
                    on_progress=on_progress,
                    should_stop=ctx.asked.is_set,
                )
            except Stopped:
                ctx.check()
                raise
            span.set(rows_in=result.report["rows_in"], rows_kept=result.rows["total"])
        with platform.tracing.span("data.store", parent=ctx.span.traceparent):
            artifact = platform.artifacts.put_tree(result.folder)
    return Outcome(
        result={
            "dataset_id": job.dataset_id,
            "dataset": job.dataset_name,
            "version_id": result.id,
            "artifact": artifact,
            "rows": result.rows,
            "rows_in": result.report["rows_in"],
            "dropped": result.report["dropped"],
            "gate": result.report["gate"],
        },
        write=lambda connection: _publish(connection, ctx, job, result, artifact),
    )


@contextmanager
def scratch_folder(work: Path, job_id: str, epoch: int) -> Iterator[Path]:
    """A folder for this attempt. What killed attempts left, unmasked rows among it, goes first.

    An attempt that lost its lease and still runs fails on its missing folder; it could publish nothing anyway.
    """
    for left in work.glob(f"{job_id}.*"):
        if int(left.suffix[1:]) < epoch:
            shutil.rmtree(left, ignore_errors=True)
    folder = work / f"{job_id}.{epoch}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(
    connection: Connection, ctx: JobContext, job: BuildVersion, result: VersionResult, artifact: str
) -> None:
    versions.add_version(
        connection,
        tenant=ctx.job.tenant_id,
        dataset_id=job.dataset_id,
        job_id=ctx.job.id,
        file_id=job.file_id,
        artifact=artifact,
        version_id=result.id,
        rows=result.rows,
        report=result.report,
    )


def preview_rows(platform: Platform, ctx: LiveContext, call: PreviewRows) -> dict[str, Any]:
    """Rows of a version for a client that waits."""
    folder = platform.artifacts.materialize(call.artifact, platform.settings.home / "cache")
    with platform.tracing.span("data.preview", parent=ctx.span.traceparent):
        if call.part == "bad_rows":
            return bad_rows(folder, offset=call.offset, limit=call.limit)
        return preview(folder, split=call.split, offset=call.offset, limit=call.limit)
