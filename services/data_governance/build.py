"""From an uploaded file and a recipe to a published dataset version. Knows no job, no database and no queue."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from services.data_governance.ingest import BATCH_ROWS, Source, peek
from services.data_governance.operators import build as build_operator
from services.data_governance.quality import Quality, operator_versions
from services.data_governance.rows import Message, Operator, Row, question_key
from services.data_governance.split import assign
from services.data_governance.versions import VersionWriter
from shared.contracts.recipe import Recipe
from shared.contracts.recipe_infer import default_recipe
from shared.contracts.steps import Step
from shared.errors import HeliuError, InvalidInput

Batches = Iterator[list[Row]]


class Stopped(HeliuError):
    """`should_stop` said so; nothing was published, and the same call starts over."""

    code = "cancelled"


class StepFailed(InvalidInput):
    """A step with `on_drop: fail` would have dropped a row."""

    code = "step_failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a build is: rows and bytes (as stored) of the source, rows dropped so far, rows written."""

    phase: Literal["reading", "writing"]
    rows_read: int
    rows_dropped: int
    rows_written: int
    bytes_read: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class VersionResult:
    """A published version. `rows` has `total`, `train` and `validation`; `folder` is where its files lie."""

    id: str
    folder: Path
    rows: dict[str, int]
    report: dict[str, Any]
    manifest: dict[str, Any]


def build_version(
    input_path: Path,
    recipe: Recipe | None,
    out_dir: Path,
    *,
    source_name: str,
    source_sha256: str,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    batch_rows: int = BATCH_ROWS,
) -> VersionResult:
    """Runs the recipe (the default one for None) over the file and publishes `out_dir/<version id>`.

    The same bytes and recipe give the same id and the same files, whatever `batch_rows`. A failed gate is no
    error: it stands in the report and in the manifest. Raises InvalidInput (the file or its columns), StepFailed,
    Stopped.
    """

    def look() -> None:
        if should_stop():
            raise Stopped(f"stopped while reading `{source_name}`; nothing was published")
        on_progress(Progress("reading", 0, 0, 0, 0, input_path.stat().st_size))

    recipe = resolve(recipe, input_path, source_name, look)
    assert recipe.input != "auto"
    source = Source.open(input_path, source_name, recipe.input, source_sha256, look)
    quality = Quality(recipe)
    out_dir.mkdir(parents=True, exist_ok=True)
    with VersionWriter(out_dir) as writer:

        def report_progress(phase: Literal["reading", "writing"]) -> None:
            if should_stop():
                raise Stopped(
                    f"stopped after {source.rows_read} rows of `{source_name}`; nothing was published"
                )
            written = sum(writer.counts.values())
            dropped = quality.rows_dropped + source.bad.total
            on_progress(
                Progress(phase, source.rows_read, dropped, written, source.bytes_read, source.bytes_total)
            )

        # Also between batches: a file may go on for gigabytes without one good row.
        source.on_read = lambda: report_progress("reading")
        source.bad.sink = writer.add_bad
        rows = _watched(source.batches(batch_rows), source.on_read)
        for index, step in enumerate(recipe.steps):
            operator = build_operator(step)
            if operator.needs_all:
                spill = writer.folder / f"spill-{index}"
                rows = _replayed(rows, operator, spill)
            rows = _applied(rows, operator, step, index, quality)
        for batch in rows:
            for row in batch:
                question = question_key(row)
                split = assign(question, row.id, recipe.split, recipe.seed)
                writer.add(row, split)
                quality.kept(row, split, question)
            report_progress("writing")
        report = quality.report(source.bad, source.rows_read)
        about = {
            "name": source_name,
            "sha256": source_sha256,
            "bytes": source.bytes_total,
            "format": source.format,
            "rows": source.rows_read,
        }
        manifest = writer.publish(recipe, operator_versions(recipe.steps), about, report)
    version = str(manifest["version_id"])
    return VersionResult(version, out_dir / version, manifest["rows"], report, manifest)


def resolve(
    recipe: Recipe | None, path: Path, name: str, on_read: Callable[[], None] | None = None
) -> Recipe:
    """The recipe with its mapping written out: inferred from the file where it says `auto`."""
    if recipe is not None and recipe.input != "auto":
        return recipe
    mapping = peek(path, name, on_read=on_read).mapping()
    return default_recipe(mapping) if recipe is None else recipe.model_copy(update={"input": mapping})


def _watched(batches: Batches, look: Callable[[], None]) -> Batches:
    for batch in batches:
        look()
        yield batch


def _applied(batches: Batches, operator: Operator, step: Step, index: int, quality: Quality) -> Batches:
    for batch in batches:
        outcome = operator(batch)
        if outcome.dropped and step.on_drop == "fail":
            first = outcome.dropped[0]
            raise StepFailed(
                f"step {index} `{step.op}` may not drop a row, but line {first.row.line} breaks `{first.rule}`: "
                f"{first.reason}; mend the source, or let the step drop",
                param=f"steps[{index}].on_drop",
            )
        quality.step(index, batch, outcome)
        yield outcome.kept


def _replayed(batches: Batches, operator: Operator, spill: Path) -> Batches:
    """Shows every row to the operator before the first comes out again; they wait on disk, not in memory."""
    sizes: list[int] = []
    with spill.open("wb") as out:
        for batch in batches:
            operator.observe(batch)
            sizes.append(out.write(marshal.dumps([_flat(row) for row in batch])))
    with spill.open("rb") as held:
        for size in sizes:
            yield [_row(values) for values in marshal.loads(held.read(size))]
    spill.unlink()


def _flat(row: Row) -> tuple[Any, ...]:
    turns = None if row.messages is None else [tuple(turn) for turn in row.messages]
    return row.row_id, row.line, row.id, turns, row.text, row.label, row.meta


def _row(values: tuple[Any, ...]) -> Row:
    row_id, line, identity, turns, text, label, meta = values
    messages = None if turns is None else tuple([Message(*turn) for turn in turns])
    return Row(row_id, line, identity, messages, text, label, meta)
