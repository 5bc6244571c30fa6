"""Queue entries that look at a project's labels: suspects, what to label next, and what functions say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from services.data_governance.labelling import answers, classifier, export, functions
from services.data_governance.labelling.export import Labelled
from services.data_governance.labelling.items import text_of
from services.data_governance.repository import labelling as repository
from services.data_governance.tasks.labelling import load
from shared.contracts.label_values import vote
from shared.contracts.labelling import Answers, ApplyFunctions, FindSuspects, PickItems, ProjectSpec
from shared.db import Connection
from shared.errors import InvalidInput
from shared.job_context import JobContext, Outcome
from shared.worker import Platform

# Rows of one statement, so that none runs into the server's time limit.
CHUNK = 5000


def find_suspects(platform: Platform, ctx: JobContext, job: FindSuspects) -> Outcome:
    """Labels that a classifier doubts that has not seen them; they take the place of those of the look before."""
    spec, items = _project(ctx, job.project_id)
    known = _known(spec, items)
    judged = [item for item in items if item.id in known]
    with platform.tracing.span("data.find_suspects", parent=ctx.span.traceparent):
        doubts = classifier.find_doubts(
            [text_of(item.data) for item in judged], [known[item.id] for item in judged], job.seed
        )[: job.most]
    ctx.check()
    rows = [{"item_id": judged[d.at].id, **{k: v for k, v in asdict(d).items() if k != "at"}} for d in doubts]
    return Outcome(
        result={"project_id": job.project_id, "judged": len(judged), "suspects": len(rows)},
        write=lambda connection: repository.put_suspects(
            connection, ctx.job.tenant_id, job.project_id, ctx.job.id, rows
        ),
    )


def pick_items(platform: Platform, ctx: JobContext, job: PickItems) -> Outcome:
    """What is still to be labelled gets the uncertainty about it as its priority."""
    spec, items = _project(ctx, job.project_id)
    known = _known(spec, items)
    given: dict[str, list[float]] | None = None
    if job.artifact is not None:
        given = answers.probabilities_by_row(platform.artifacts.path(job.artifact), spec.choices, "file_id")
    asked = [item for item in items if item.id not in known and (given is None or item.row_id in given)]
    if not asked:
        raise InvalidInput(
            "nothing to pick from: no item without a label is among these rows",
            code="nothing_to_pick",
            param="file_id",
        )
    with platform.tracing.span("data.pick_items", parent=ctx.span.traceparent):
        if given is not None:
            unsure = classifier.entropies(np.array([given[item.row_id] for item in asked]))
        else:
            judged = [item for item in items if item.id in known]
            unsure = classifier.uncertainties(
                [text_of(item.data) for item in judged],
                [known[item.id] for item in judged],
                [text_of(item.data) for item in asked],
                job.seed,
            )
    rows = [{"id": item.id, "priority": float(one)} for item, one in zip(asked, unsure, strict=True)]
    return Outcome(
        result={
            "project_id": job.project_id,
            "labelled": len(known),
            "picked": len(rows),
            "mean_uncertainty": float(unsure.mean()),
        },
        write=_in_chunks(repository.put_priorities, job.project_id, rows),
    )


def apply_functions(platform: Platform, ctx: JobContext, job: ApplyFunctions) -> Outcome:
    """What functions say of every item, beside what people say and never in its place."""
    spec, items = _project(ctx, job.project_id)
    named: list[tuple[str, functions.Says]] = []
    for at, function in enumerate(job.functions):
        said: dict[str, str] = {}
        if isinstance(function, Answers):
            path = platform.artifacts.path(function.artifact)
            said = answers.labels_by_row(path, spec.choices, f"functions[{at}].file_id")
        named.append((function.name, functions.compiled(function, said)))
    rows = [{"id": item.id, "row_id": item.row_id, "data": item.data, "extra": item.extra} for item in items]
    with platform.tracing.span("data.apply_functions", parent=ctx.span.traceparent):
        weak = functions.weigh(named, rows, spec.choices, _known(spec, items))
    ctx.check()
    written = [
        {"id": item.id, "weak": None if one is None else {"label": one[0], "probability": one[1]}}
        for item, one in zip(items, weak.labels, strict=True)
    ]
    total = max(1, len(items))
    return Outcome(
        result={
            "project_id": job.project_id,
            "items": len(items),
            "coverage": weak.covered / total,
            "conflict": weak.conflicting / total,
            "functions": weak.told,
        },
        write=_in_chunks(repository.put_weak, job.project_id, written),
    )


def _project(ctx: JobContext, project_id: str) -> tuple[ProjectSpec, list[Labelled]]:
    with ctx.transaction() as connection:
        spec = ProjectSpec.model_validate(repository.project(connection, project_id)["spec"])
    return spec, load(ctx, project_id)


def _known(spec: ProjectSpec, items: Sequence[Labelled]) -> dict[str, str]:
    """What people say of items: what is known or settled, else the vote of most."""
    chosen = export.choose(spec, items, "majority", None)
    return {item.id: vote(one.value) for item, one in zip(items, chosen, strict=True) if one is not None}


def _in_chunks(
    put: Callable[[Connection, str, Sequence[dict[str, Any]]], None],
    project_id: str,
    rows: Sequence[dict[str, Any]],
) -> Callable[[Connection], None]:
    def write(connection: Connection) -> None:
        for start in range(0, len(rows), CHUNK):
            put(connection, project_id, rows[start : start + CHUNK])

    return write
