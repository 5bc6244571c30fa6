"""From files and a recipe to a published dataset version. Knows no job, no database and no queue.

A plan cuts the inputs into parts and the recipe into stages; a part of a stage is pure work on files of its own, and
between two stages the steps that must see all rows settle them. `build_version` does it all in this process; the queue
(`tasks/builds.py`) hands the same parts to many workers, and `on_ray.py` to a Ray cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from services.data_governance.build.layout import Layout
from services.data_governance.build.part import Counts, PartRun, StepFailed
from services.data_governance.build.plan import PART_BYTES, InputFile, Plan, make_plan
from services.data_governance.build.settle import settle
from services.data_governance.ingest import BATCH_ROWS
from services.data_governance.quality import Quality, operator_versions
from services.data_governance.versions import publish
from shared.contracts.recipe import Recipe
from shared.errors import HeliuError

__all__ = [
    "Counts",
    "InProcess",
    "InputFile",
    "Layout",
    "PartRun",
    "Plan",
    "Progress",
    "StepFailed",
    "Stopped",
    "VersionResult",
    "advance",
    "build_version",
    "finish",
    "planned",
    "run_in_turn",
]


class Stopped(HeliuError):
    """`should_stop` said so; nothing was published, and the same call goes on where this one stopped."""

    code = "cancelled"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a build is: rows and bytes (as stored) of the sources, rows dropped so far, rows written."""

    phase: Literal["reading", "writing"]
    rows_read: int
    rows_dropped: int
    rows_written: int
    bytes_read: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class VersionResult:
    """A published version. `rows` has `total` and each split; `folder` is where its files lie."""

    id: str
    folder: Path
    rows: dict[str, int]
    report: dict[str, Any]
    manifest: dict[str, Any]


class RunParts(Protocol):
    """Runs these parts of a stage, and returns when all are done."""

    def __call__(self, layout: Layout, plan: Plan, stage: int, parts: Sequence[int], /) -> None: ...


def build_version(
    files: Sequence[InputFile],
    recipe: Recipe | None,
    work: Path,
    out_dir: Path,
    *,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    erased: Sequence[str] = (),
    batch_rows: int = BATCH_ROWS,
    part_bytes: int = PART_BYTES,
    rows: int | None = None,
    run_parts: RunParts | None = None,
) -> VersionResult:
    """Runs the recipe (the default one for None) over the files and publishes `out_dir/<version id>`.

    The same bytes, recipe and `part_bytes` give the same id and the same files, whatever `batch_rows` and whoever runs
    the parts; other `part_bytes` give the same id. What `work` holds of the same build is not done again. A failed gate
    is no error: it stands in the report and in the manifest. `erased` are ids of rows that stay out; `rows` stops the
    reading of each file after about so many, to try a recipe. Raises
    InvalidInput (a file or its columns), StepFailed, Stopped.
    """
    total = sum(file.path.stat().st_size for file in files)
    names = ", ".join(f"`{file.name}`" for file in files)
    told = InProcess(on_progress, should_stop, total, names)
    layout, plan = planned(
        files, recipe, work, erased=erased, part_bytes=part_bytes, rows=rows, look=told.planning
    )
    run = run_parts or partial(run_in_turn, [file.path for file in files], told, batch_rows=batch_rows)
    while todo := advance(layout, plan, told.stop_if_asked):
        run(layout, plan, *todo)
    return finish(layout, plan, out_dir)


def planned(
    files: Sequence[InputFile],
    recipe: Recipe | None,
    work: Path,
    *,
    erased: Sequence[str] = (),
    part_bytes: int = PART_BYTES,
    rows: int | None = None,
    look: Callable[[], None],
) -> tuple[Layout, Plan]:
    """The plan that `work` holds, made at first."""
    layout = Layout(work)
    work.mkdir(parents=True, exist_ok=True)
    if not layout.has_plan():
        layout.write_plan(
            make_plan(files, recipe, work, part_bytes=part_bytes, erased=erased, rows=rows, look=look)
        )
    return layout, layout.read_plan()


def advance(layout: Layout, plan: Plan, look: Callable[[], None]) -> tuple[int, list[int]] | None:
    """Settles what can be, and returns the first stage with parts that are not done, and these; None when all are."""
    for stage in range(len(plan.stages)):
        if missing := layout.missing(stage, len(plan.parts)):
            return stage, missing
        if stage < len(plan.stages) - 1:
            settle(layout, plan, stage, look)
    return None


def finish(layout: Layout, plan: Plan, out_dir: Path) -> VersionResult:
    """The version of a build whose parts of all stages are done."""
    quality = Quality(plan.recipe)
    last = len(plan.stages) - 1
    for stage in range(len(plan.stages)):
        for part in range(len(plan.parts)):
            quality.merge(layout.part(stage, part))
    report = quality.report()
    out_dir.mkdir(parents=True, exist_ok=True)
    manifest = publish(
        out_dir,
        plan.recipe,
        operator_versions(plan.recipe.steps),
        [
            {"name": one.name, "sha256": one.sha256, "id": one.id, "bytes": one.bytes, "format": one.format}
            for one in plan.inputs
        ],
        report,
        [(layout.part(last, part), layout.kept(last, part)) for part in range(len(plan.parts))],
        [layout.part(0, part) for part in range(len(plan.parts))],
    )
    version = str(manifest["version_id"])
    return VersionResult(version, out_dir / version, manifest["rows"], report, manifest)


class InProcess:
    """Sums the counts of parts that run in turn, tells them on, and stops when asked."""

    def __init__(
        self, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool], total: int, names: str
    ) -> None:
        self._on_progress, self._should_stop = on_progress, should_stop
        self._total, self._names = total, names
        self._done = Counts()

    def planning(self) -> None:
        self.stop_if_asked()
        self._on_progress(Progress("reading", 0, 0, 0, 0, self._total))

    def look(self, counts: Counts) -> None:
        self.stop_if_asked()
        now = _sum(self._done, counts)
        phase: Literal["reading", "writing"] = "writing" if now.rows_written else "reading"
        progress = Progress(
            phase, now.rows_read, now.rows_dropped, now.rows_written, now.bytes_read, self._total
        )
        self._on_progress(progress)

    def ended(self, counts: Counts) -> None:
        self._done = _sum(self._done, counts)

    def stop_if_asked(self) -> None:
        if self._should_stop():
            read = self._done.rows_read
            raise Stopped(f"stopped after {read} rows of {self._names}; nothing was published")


def run_in_turn(
    paths: Sequence[Path],
    told: InProcess,
    layout: Layout,
    plan: Plan,
    stage: int,
    parts: Sequence[int],
    batch_rows: int = BATCH_ROWS,
) -> None:
    """Runs these parts of a stage, one after the other."""
    for part in parts:
        run = PartRun(layout, plan, paths, stage, part, look=told.look, batch_rows=batch_rows)
        told.ended(run.run())


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(
        one.rows_read + other.rows_read,
        one.rows_dropped + other.rows_dropped,
        one.rows_written + other.rows_written,
        one.bytes_read + other.bytes_read,
    )
