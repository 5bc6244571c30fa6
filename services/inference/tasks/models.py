"""Queue entry of the import of a model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from services.inference import importing, repository
from services.inference.hub import Hub, HubFile
from shared.contracts.models import ImportModel, ModelFile
from shared.errors import HeliuError, InvalidInput
from shared.job_context import JobContext, Outcome
from shared.outbound import OutboundClient
from shared.worker import Platform

HUB_SILENCE_S = 30.0


def import_model(platform: Platform, ctx: JobContext, job: ImportModel) -> Outcome:
    """A model from uploaded files or the hub, checked in a process of its own, served from then on."""
    origin: dict[str, Any] = {"source": "folder"}
    files = job.files
    if job.hub_id is not None:
        files, commit = _from_hub(platform, ctx, job, job.hub_id)
        origin = {"source": "hub", "hub_id": job.hub_id, "revision": job.revision, "commit": commit}
    ctx.progress(phase="checking")
    artifact = platform.artifacts.put_listing([file.model_dump() for file in files])
    work = platform.settings.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    with (
        platform.tracing.span("model.check", parent=ctx.span.traceparent) as span,
        tempfile.TemporaryDirectory(prefix=ctx.job.id, dir=work) as scratch,
    ):
        base = (
            platform.artifacts.materialize(job.base.artifact, platform.settings.home / "cache")
            if job.base is not None
            else None
        )
        found = importing.check(
            ctx,
            platform.artifacts.materialize(artifact, Path(scratch)),
            kind=job.model_kind,
            base=base,
            threads=platform.settings.threads,
        )
        span.set(kind=found["kind"], files=len(files))
    for warning in found["warnings"]:
        ctx.event("message", warning, level="warn")
    kind = str(found["kind"])
    if kind != "adapter" and job.base is not None:
        raise InvalidInput(f"this is no adapter but a model of kind {kind!r}: it takes no base", param="base")
    info = {**found["info"], **origin, "warnings": found["warnings"]}
    return Outcome(
        result={"model": job.name, "kind": kind, "artifact": artifact, **info},
        write=lambda connection: repository.add_model(
            connection,
            ctx.job.tenant_id,
            job.name,
            kind=kind,
            artifact=artifact,
            job_id=ctx.job.id,
            info=info,
            base=(job.base.model, job.base.artifact) if job.base is not None else None,
        ),
    )


def _from_hub(
    platform: Platform, ctx: JobContext, job: ImportModel, hub_id: str
) -> tuple[tuple[ModelFile, ...], str]:
    """The hub's files and the commit that they are of; what an earlier attempt brought is not asked for again."""
    settings = platform.settings
    if not settings.hub_url:
        raise HeliuError(
            "this worker has no HELIU_HUB_URL to import from", code="hub_disabled", param="hub_id"
        )
    client = OutboundClient(
        timeout_s=HUB_SILENCE_S, allow_private=settings.hub_allow_private, setting="HELIU_HUB_ALLOW_PRIVATE"
    )
    hub = Hub(settings.hub_url, client, token=settings.hub_token, max_bytes=settings.max_model_bytes)
    fetched: dict[str, str] = dict(ctx.job.progress.get("fetched") or {})
    with platform.tracing.span("model.fetch", parent=ctx.span.traceparent) as span:
        # The first attempt's commit stands: a branch may have moved on since.
        revision = str(ctx.job.progress.get("commit") or job.revision)
        repository_ = hub.look(hub_id, revision)
        total = sum(file.bytes for file in repository_.files)
        ctx.progress(phase="fetching", commit=repository_.commit, total_bytes=total)

        def moved(count: int) -> None:
            ctx.progress(bytes=count)

        def tell(file: HubFile, artifact: str) -> None:
            fetched[file.path] = artifact
            done = sum(one.bytes for one in repository_.files if one.path in fetched)
            ctx.progress(fetched=fetched, bytes=done)
            ctx.event("message", f"{file.path} is here, {done} of {total} bytes", {"path": file.path})

        files = importing.fetch(hub, platform.artifacts, repository_.files, fetched, ctx, moved, tell)
        span.set(files=len(files), bytes=total)
    return files, repository_.commit
