"""Queue entry that brings items of labelling in, from files, versions and Label Studio."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from services.data_governance.labelling import label_studio, reading
from services.data_governance.labelling.items import Item, SourceRow, make_item
from services.data_governance.repository import labelling as repository
from shared.contracts.label_values import check_value, outcome
from shared.contracts.labelling import ImportItems, ProjectSpec
from shared.db import Connection
from shared.errors import InvalidInput
from shared.job_context import JobContext, Outcome
from shared.jobs import new_id
from shared.worker import Platform

MOST_ITEMS = 1_000_000
MOST_LABEL_STUDIO_BYTES = 256 * 1024 * 1024
REASONS = 20


def import_items(platform: Platform, ctx: JobContext, job: ImportItems) -> Outcome:
    """Items of every row that fits the project, in batches: a killed import goes on where it was."""
    with ctx.transaction() as connection:
        spec = ProjectSpec.model_validate(repository.project(connection, job.project_id)["spec"])
    take = _LabelStudio(platform, ctx, job, spec) if job.source == "label_studio" else _Rows(ctx, job, spec)
    bad = 0
    if isinstance(take, _LabelStudio):
        take.all()
    else:
        for batch in take.batches(platform):
            take.add(batch)
        bad = take.bad_rows
    return Outcome(
        result={
            "project_id": job.project_id,
            "items": take.seen,
            "added": take.added,
            "unusable": take.unusable,
            "reasons": take.reasons,
            "bad_rows": bad,
        }
    )


class _Taken:
    """Counts what came of rows."""

    def __init__(self, ctx: JobContext, job: ImportItems, spec: ProjectSpec) -> None:
        self._ctx, self._job, self._spec = ctx, job, spec
        self.seen = self.added = self.unusable = self.bad_rows = 0
        self.reasons: list[str] = []

    def item(self, row: SourceRow) -> Item | None:
        self.seen += 1
        if self.seen > MOST_ITEMS:
            raise InvalidInput(f"a project takes {MOST_ITEMS} items; sample the rest", param="file_id")
        try:
            return make_item(self._job.project_id, self._spec, row)
        except InvalidInput as exc:
            self.refuse(f"row {row.row_id}: {exc.message}")
            return None

    def refuse(self, reason: str) -> None:
        self.unusable += 1
        if len(self.reasons) < REASONS:
            self.reasons.append(reason)

    def insert(self, connection: Connection, items: Sequence[Item]) -> set[str]:
        rows = [
            {
                "id": item.id,
                "row_id": item.row_id,
                "data": item.data,
                "extra": item.extra,
                "gold": item.gold,
            }
            for item in {item.id: item for item in items}.values()
        ]
        new = repository.add_items(
            connection, self._ctx.job.tenant_id, self._job.project_id, rows, self._spec.labels_per_item
        )
        self.added += len(new)
        return new


class _Rows(_Taken):
    """Rows of a file or version."""

    def batches(self, platform: Platform) -> Iterator[list[SourceRow]]:
        job = self._job
        if job.source == "version":
            folder = platform.artifacts.materialize(job.artifact, platform.settings.home / "cache")
            yield from reading.of_version(folder, self._spec.fields.text)
            return
        path = platform.artifacts.path(job.artifact)
        source, rows = reading.of_file(path, job.filename, job.artifact.removeprefix("sha256:"), self._spec)
        yield from rows
        self.bad_rows = source.bad.total

    def add(self, batch: Sequence[SourceRow]) -> None:
        self._ctx.check()
        items = [item for row in batch if (item := self.item(row)) is not None]
        with self._ctx.transaction() as connection:
            self.insert(connection, items)
        self._ctx.progress(items=self.seen)


class _LabelStudio(_Taken):
    """Tasks of a Label Studio export with what people said of them."""

    def __init__(self, platform: Platform, ctx: JobContext, job: ImportItems, spec: ProjectSpec) -> None:
        super().__init__(ctx, job, spec)
        self._tasks = _tasks(platform, job)
        self._labellers: dict[str, str] = {}

    def all(self) -> None:
        for start in range(0, len(self._tasks), 200):
            self._ctx.check()
            with self._ctx.transaction() as connection:
                for number in range(start, min(start + 200, len(self._tasks))):
                    self._add(connection, number)
            self._ctx.progress(items=self.seen)

    def _add(self, connection: Connection, number: int) -> None:
        try:
            task = label_studio.annotated(self._spec, self._tasks[number], f"[{number}]", self._job.source_id)
        except InvalidInput as exc:
            self.seen += 1
            self.refuse(exc.message)
            return
        item = self.item(task.row)
        if item is None:
            return
        try:
            said = [(name, check_value(self._spec, item.data, value)) for name, value in task.labels]
            gold = check_value(self._spec, item.data, task.gold) if task.gold is not None else item.gold
            final = check_value(self._spec, item.data, task.final) if task.final is not None else None
        except InvalidInput as exc:
            self.refuse(f"[{number}]: {exc.message}")
            return
        made = Item(item.id, item.row_id, item.data, item.extra, gold)
        if self.insert(connection, [made]):
            self._label(connection, made, said, final, task.final_by)

    def _label(
        self,
        connection: Connection,
        item: Item,
        said: Sequence[tuple[str, dict[str, Any]]],
        final: dict[str, Any] | None,
        final_by: str | None,
    ) -> None:
        tenant, project = self._ctx.job.tenant_id, self._job.project_id
        for name, value in said:
            if name not in self._labellers:
                self._labellers[name] = repository.ensure_labeller(
                    connection, tenant, project, new_id("labr-"), name
                )
            values = {"item": item.id, "labeller": self._labellers[name], "value": value}
            repository.add_label(connection, {**values, "tenant": tenant, "project": project})
        if item.gold is None:
            settled = _settled(self._spec, [value for _, value in said], final, final_by)
            repository.settle(
                connection, {**settled, "id": item.id, "taken": len({name for name, _ in said})}
            )


def _settled(
    spec: ProjectSpec, said: Sequence[dict[str, Any]], final: dict[str, Any] | None, final_by: str | None
) -> dict[str, Any]:
    """What an imported item's labels come to; an adjudicator's decision stands."""
    open_ = {"agreement": None, "state": "open", "final": None, "final_by": None}
    settled = outcome(said, spec.labels_per_item, spec.agreement) or open_
    if final is not None and final_by == "adjudicator":
        return {**settled, "state": "done", "final": final, "final_by": "adjudicator"}
    return settled


def _tasks(platform: Platform, job: ImportItems) -> list[Any]:
    path = platform.artifacts.path(job.artifact)
    if path.stat().st_size > MOST_LABEL_STUDIO_BYTES:
        raise InvalidInput(
            f"the export has more than {MOST_LABEL_STUDIO_BYTES} bytes; import it in parts", param="file_id"
        )
    try:
        tasks = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(
            f"{job.filename} is not JSON: {str(exc)[:200]}", code="not_json", param="file_id"
        ) from exc
    if not isinstance(tasks, list):
        raise InvalidInput(
            f"{job.filename} must be a list of tasks, as Label Studio's export as JSON is", param="file_id"
        )
    return tasks
