"""Queue entries of dataset builds: one function a contract."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.data_governance.build import (
    Counts,
    InProcess,
    InputFile,
    Layout,
    PartRun,
    Plan,
    Progress,
    Stopped,
    VersionResult,
    advance,
    finish,
    planned,
    run_in_turn,
)
from services.data_governance.build import build_version as build
from services.data_governance.build.on_ray import OnRay
from services.data_governance.drift import compare
from services.data_governance.gates import with_drift
from services.data_governance.preview import bad_rows, preview
from services.data_governance.repository import builds, versions
from shared.contracts.data_governance import BuildPart, BuildSource, BuildVersion, PreviewRows, TryRecipe
from shared.contracts.recipe import Gates
from shared.contracts.recipe_text import parse_recipe
from shared.db import Connection
from shared.errors import HeliuError
from shared.job_context import JobContext, Outcome, Waiting
from shared.live_server import LiveContext
from shared.worker import Platform

PROGRESS_S = 1.0


def build_version(platform: Platform, ctx: JobContext, job: BuildVersion) -> Outcome | Waiting:
    """Govern files into a dataset version; a failed gate is an outcome, not an error.

    A build of one part is done here. A larger one hands its parts out, stage by stage, and comes back when they have
    ended; what they left in the scratch folder says how far it is, so that a build that was killed goes on there.
    Where workers share no folder its parts are done here too, one after the other.
    """
    work = platform.artifacts.scratch(ctx.job.id)
    _sweep(platform)
    try:
        return _build(platform, ctx, job, work)
    except Stopped:
        ctx.check()
        raise
    except HeliuError as exc:
        if not exc.retryable:
            shutil.rmtree(work, ignore_errors=True)
        raise


def _build(platform: Platform, ctx: JobContext, job: BuildVersion, work: Path) -> Outcome | Waiting:
    recipe = parse_recipe(job.recipe) if job.recipe is not None else None
    files = _files(platform, job.sources())
    total = sum(file.path.stat().st_size for file in files)
    told = InProcess(_teller(ctx), ctx.asked.is_set, total, ", ".join(f"`{file.name}`" for file in files))
    with ctx.transaction() as connection:
        erased = builds.tombstones(connection, ctx.job.tenant_id)
    with platform.tracing.span("data.build", parent=ctx.span.traceparent) as span:
        part_bytes = platform.settings.build_part_bytes
        layout, plan = planned(files, recipe, work, erased=erased, part_bytes=part_bytes, look=told.planning)
        span.set(parts=len(plan.parts), stages=len(plan.stages))
        paths = [file.path for file in files]
        while todo := advance(layout, plan, told.stop_if_asked):
            if len(plan.parts) == 1 or not (
                platform.artifacts.shares_folder or platform.settings.ray_address
            ):
                run_in_turn(paths, told, layout, plan, *todo)
            elif platform.settings.ray_address:
                OnRay(platform.settings.ray_address, paths, told.stop_if_asked)(layout, plan, *todo)
                ctx.touch()
            else:
                return _handed_out(ctx, job, plan, *todo, total)
        told.stop_if_asked()
        result = finish(layout, plan, work / "version")
        span.set(rows_in=result.report["rows_in"], rows_kept=result.rows["total"])
    with platform.tracing.span("data.store", parent=ctx.span.traceparent):
        artifact = platform.artifacts.put_tree(result.folder)
    shutil.rmtree(work, ignore_errors=True)
    gate, drift = _judged(ctx, job, result, plan.recipe.gates)
    return Outcome(
        result={
            "dataset_id": job.dataset_id,
            "dataset": job.dataset_name,
            "version_id": result.id,
            "artifact": artifact,
            "rows": result.rows,
            "rows_in": result.report["rows_in"],
            "dropped": result.report["dropped"],
            "gate": gate,
        },
        write=lambda connection: _publish(connection, ctx, job, result, artifact, gate, drift),
    )


def build_part(platform: Platform, ctx: JobContext, job: BuildPart) -> Outcome:
    """One part of one stage. Done before a crash, it is not done again."""
    layout = Layout(platform.artifacts.scratch(job.build_id))
    if not layout.has_plan():
        raise HeliuError(f"the build {job.build_id} that this is a part of has ended", code="build_ended")
    plan = layout.read_plan()
    if layout.part(job.stage, job.part).is_dir():
        return Outcome(result={"done_before": True})

    def look(_: Counts) -> None:
        ctx.touch()
        ctx.check()

    paths = [platform.artifacts.path(artifact) for artifact in job.artifacts]
    with platform.tracing.span("data.part", parent=ctx.span.traceparent) as span:
        counts = PartRun(layout, plan, paths, job.stage, job.part, look=look).run()
        span.set(stage=job.stage, part=job.part, rows_in=counts.rows_read, rows_kept=counts.rows_written)
    done = asdict(counts)
    return Outcome(
        result=done,
        write=lambda connection: builds.count(connection, job.build_id, {**done, "parts_done": 1}),
    )


def _handed_out(
    ctx: JobContext, job: BuildVersion, plan: Plan, stage: int, parts: Sequence[int], total: int
) -> Waiting:
    """The parts of a stage as jobs of their own. Raises what a part of the build has failed with."""
    with ctx.transaction() as connection:
        failed = builds.failed_part(connection, ctx.job.id)
    if failed is not None:
        error = failed["error"] or {}
        raise HeliuError(
            str(error.get("message", f"part {failed['id']} ended as {failed['state']}")),
            code=str(error.get("code", "part_failed")),
            param=error.get("param"),
        )
    artifacts = [one.artifact for one in job.sources()]
    children = [
        ctx.part(
            BuildPart(build_id=ctx.job.id, stage=stage, part=part, artifacts=artifacts), BuildPart.queue_for()
        )
        for part in parts
    ]
    last = len(plan.stages) - 1
    progress: dict[str, Any] = {
        "phase": "writing" if stage == last else "reading",
        "stage": stage + 1,
        "stages": last + 1,
        "parts": len(plan.parts),
        "parts_done": len(plan.parts) - len(parts),
        "bytes_total": total,
    }
    if not ctx.job.progress.get("parts"):
        progress |= asdict(Counts())
    return Waiting(children, progress)


def _files(platform: Platform, sources: Sequence[BuildSource]) -> list[InputFile]:
    return [
        InputFile(
            one.name, platform.artifacts.path(one.artifact), one.artifact.removeprefix("sha256:"), one.file_id
        )
        for one in sources
    ]


def try_recipe(platform: Platform, ctx: LiveContext, call: TryRecipe) -> dict[str, Any]:
    """A build of the first rows, in this process and for a client that waits."""
    recipe = parse_recipe(call.recipe) if call.recipe is not None else None
    work = platform.settings.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="try-", dir=work) as scratch,
        platform.tracing.span("data.try", parent=ctx.span.traceparent),
    ):
        result = build(
            _files(platform, call.sources),
            recipe,
            Path(scratch) / "work",
            Path(scratch) / "out",
            on_progress=_unheard,
            should_stop=ctx.cancelled.is_set,
            rows=call.rows,
        )
        found = preview(result.folder, split=None, offset=0, limit=call.shown)
    return {"recipe": result.manifest["recipe"], "report": result.report, "rows": found["rows"]}


def _unheard(_: Progress) -> None:
    return None


def _teller(ctx: JobContext) -> Callable[[Progress], None]:
    """Writes progress once a second."""
    told = 0.0

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > PROGRESS_S:
            ctx.progress(**asdict(progress))
            told = time.monotonic()

    return tell


def _sweep(platform: Platform) -> None:
    """Removes what builds that have ended left behind, unmasked rows among it."""
    left = platform.artifacts.scratches()
    if not left:
        return
    with platform.db.core() as connection:
        alive = builds.alive(connection, [folder.name for folder in left])
    for folder in left:
        if folder.name not in alive:
            shutil.rmtree(folder, ignore_errors=True)


def _judged(
    ctx: JobContext, job: BuildVersion, result: VersionResult, gates: Gates
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The gate's verdict, and the drift from the version before, None of a first one.

    What is built again keeps those that it has.
    """
    tenant = ctx.job.tenant_id
    with ctx.transaction() as connection:
        known = versions.stored(connection, tenant, job.dataset_id, result.id)
        before = versions.before(connection, tenant, job.dataset_id, result.id)
    if known is not None:
        return known["gate"], known["drift"]
    if before is None:
        return result.report["gate"], None
    drift = {"against": before["id"], **compare(before["report"], result.report)}
    return with_drift(result.report["gate"], gates, drift), drift


def _publish(
    connection: Connection,
    ctx: JobContext,
    job: BuildVersion,
    result: VersionResult,
    artifact: str,
    gate: dict[str, Any],
    drift: dict[str, Any] | None,
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
        gate=gate,
        drift=drift,
    )


def preview_rows(platform: Platform, ctx: LiveContext, call: PreviewRows) -> dict[str, Any]:
    """Rows of a version for a client that waits."""
    folder = platform.artifacts.materialize(call.artifact, platform.settings.home / "cache")
    with platform.tracing.span("data.preview", parent=ctx.span.traceparent):
        if call.part == "bad_rows":
            return bad_rows(folder, offset=call.offset, limit=call.limit)
        return preview(folder, split=call.split, offset=call.offset, limit=call.limit)
