"""Queue entries of labelling: labels out, as files and versions, and how far people agree."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from typing import IO, Any
from uuid import UUID

from services.data_governance.labelling import agreement, export, label_studio
from services.data_governance.labelling.export import Labelled
from services.data_governance.repository import labelling as repository
from shared import job_store
from shared.contracts.data_governance import BuildVersion
from shared.contracts.labelling import ExportLabels, LabelAgreement, ProjectSpec
from shared.db import Connection
from shared.errors import InvalidInput
from shared.job_context import JobContext, Outcome
from shared.jobs import NewJob
from shared.live_server import LiveContext
from shared.worker import Platform

PAGE = 5000


def export_labels(platform: Platform, ctx: JobContext, job: ExportLabels) -> Outcome:
    """The labels as a file of the tenant; for a dataset the job that builds a version from it comes with its end."""
    with ctx.transaction() as connection:
        project = repository.project(connection, job.project_id)
    spec = ProjectSpec.model_validate(project["spec"])
    items = load(ctx, job.project_id)
    studio = job.format == "label_studio"
    chosen = export.choose(spec, items, job.method, job.weak)
    rows = [] if studio else _rows(spec, items, chosen)
    if not studio and not rows:
        raise InvalidInput(
            f"the project has no item with an answer by the method {job.method!r} yet",
            code="nothing_labelled",
            param="method",
        )
    with tempfile.TemporaryFile() as out:
        if studio:
            tasks = [label_studio.task(spec, number, item) for number, item in enumerate(items, 1)]
            out.write(json.dumps(tasks, ensure_ascii=False, indent=1).encode())
        else:
            _write_lines(out, rows)
        out.seek(0)
        artifact, size = platform.artifacts.put(out)
    name = f"{project['name']}.{'label-studio.json' if studio else f'{job.method}.jsonl'}"
    return _exported(
        ctx, job, spec, {"artifact": artifact, "bytes": size, "filename": name}, chosen, len(rows)
    )


def _rows(
    spec: ProjectSpec, items: Sequence[Labelled], chosen: Sequence[export.Chosen | None]
) -> list[dict[str, Any]]:
    both = zip(items, chosen, strict=True)
    made = (export.row(spec, item, one) for item, one in both if one is not None)
    return [row for row in made if row is not None]


def _write_lines(out: IO[bytes], rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _exported(
    ctx: JobContext,
    job: ExportLabels,
    spec: ProjectSpec,
    file: dict[str, Any],
    chosen: Sequence[export.Chosen | None],
    rows: int,
) -> Outcome:
    # Named by the attempt's job, so that an end whose COMMIT was in doubt writes the same again.
    file_id = f"file-{ctx.job.id.rpartition('-')[2]}"
    build = _build(ctx, job, file_id, file) if job.dataset_id is not None else None

    def write(connection: Connection) -> None:
        tenant: UUID = ctx.job.tenant_id
        repository.add_file(
            connection, file_id, tenant, file["filename"], file["bytes"], file["artifact"], ctx.job.id
        )
        if build is not None:
            job_store.submit(connection, build)

    studio = {"label_config": label_studio.config(spec)} if job.format == "label_studio" else {}
    return Outcome(
        result={
            "project_id": job.project_id,
            "file_id": file_id,
            "filename": file["filename"],
            "rows": rows,
            "items": len(chosen),
            "unanswered": sum(one is None for one in chosen),
            "labels": export.balance(spec, chosen),
            "build_job_id": build.id if build is not None else None,
            **studio,
        },
        write=write,
    )


def _build(ctx: JobContext, job: ExportLabels, file_id: str, file: dict[str, Any]) -> NewJob:
    assert job.dataset_id is not None
    assert job.dataset_name is not None
    contract = BuildVersion(
        dataset_id=job.dataset_id,
        dataset_name=job.dataset_name,
        file_id=file_id,
        artifact=file["artifact"],
        filename=file["filename"],
        recipe=job.recipe,
    )
    return NewJob(
        id=f"{contract.id_prefix}{ctx.job.id.rpartition('-')[2]}",
        tenant_id=ctx.job.tenant_id,
        kind=contract.kind,
        queue=contract.queue_for(),
        payload=contract.dump(),
        max_attempts=contract.max_attempts,
        max_crashes=contract.max_crashes,
        time_limit_s=contract.time_limit_s,
        api_key_id=ctx.job.api_key_id,
        traceparent=ctx.span.traceparent,
    )


def label_agreement(platform: Platform, ctx: LiveContext, call: LabelAgreement) -> dict[str, Any]:
    """How far a project's people agree, for somebody who waits."""
    with platform.db.transaction(UUID(ctx.tenant)) as connection:
        project = repository.project(connection, call.project_id)
        rows = repository.labels(connection, call.project_id)
        gold = repository.gold(connection, call.project_id)
    given = [agreement.Given(row["item_id"], row["labeller"], row["value"]) for row in rows]
    with platform.tracing.span("data.label_agreement", parent=ctx.span.traceparent):
        return agreement.summary(given, gold, project["spec"]["task"])


def load(ctx: JobContext, project_id: str) -> list[Labelled]:
    """All items of a project with their labels, in the order of the source."""
    said: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    with ctx.transaction() as connection:
        for row in repository.labels(connection, project_id):
            said.setdefault(row["item_id"], []).append((row["labeller"], row["value"]))
    found: list[Labelled] = []
    after = -1
    while True:
        ctx.check()
        ctx.touch()
        with ctx.transaction() as connection:
            rows = repository.items(connection, project_id, after, PAGE)
        found += [
            Labelled(**{name: row[name] for name in _COLUMNS}, labels=tuple(said.get(row["id"], ())))
            for row in rows
        ]
        if len(rows) < PAGE:
            return found
        after = rows[-1]["position"]


_COLUMNS = ("id", "row_id", "data", "extra", "gold", "final", "final_by", "weak", "agreement")
