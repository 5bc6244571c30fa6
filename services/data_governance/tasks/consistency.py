"""Queue entry of checks of consistency."""

from __future__ import annotations

from typing import Any

from services.data_governance.consistency.run import run
from services.data_governance.repository import sources
from services.data_governance.scratch import scratch_folder
from services.data_governance.tasks.sources import Stored, store, submit_build
from shared.contracts.consistency import CheckConsistency
from shared.contracts.data_governance import BuildVersion
from shared.db import Connection
from shared.job_context import JobContext, Outcome
from shared.jobs import new_id
from shared.worker import Platform


def check_consistency(platform: Platform, ctx: JobContext, job: CheckConsistency) -> Outcome:
    """Hold files against each other; what breaks a rule is an outcome, not an error."""

    def check() -> None:
        ctx.touch()
        ctx.check()

    files = [(one.name, platform.artifacts.path(one.artifact), one.filename) for one in job.inputs]
    with scratch_folder(platform.settings.home / "work", ctx.job.id, ctx.job.epoch) as scratch:
        with platform.tracing.span("data.check", parent=ctx.span.traceparent) as span:
            done = run(job.checks, files, scratch, check)
            span.set(inputs=len(files), ok=done.report["ok"])
        merged = store(platform, done.merged, f"{job.name}.merged.parquet", done.rows)
        conflicts = store(platform, done.conflicts, f"{job.name}.conflicts.parquet", 0)
    return _outcome(ctx, job, done.report, merged, conflicts)


def _outcome(
    ctx: JobContext,
    job: CheckConsistency,
    report: dict[str, Any],
    merged: Stored | None,
    conflicts: Stored | None,
) -> Outcome:
    build = job.build if merged is not None and merged.rows else None
    build_id = new_id(BuildVersion.id_prefix)

    def write(connection: Connection) -> None:
        for one in filter(None, (merged, conflicts)):
            sources.add_file(
                connection,
                one.file_id,
                ctx.job.tenant_id,
                one.filename,
                one.bytes,
                one.artifact,
                ctx.job.id,
            )
        if build is not None and merged is not None:
            submit_build(connection, ctx, build_id, build, merged.shown())

    result = {
        "name": job.name,
        "ok": report["ok"],
        "report": report,
        "file_id": merged.file_id if merged else None,
        "conflicts_file_id": conflicts.file_id if conflicts else None,
        "build": {"job_id": build_id, "dataset": build.dataset} if build else None,
    }
    return Outcome(result=result, write=write)
