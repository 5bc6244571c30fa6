"""Runs one part of one stage: rows of the input or of the stage before, through its steps, to disk. Pure but for that:
the same part of the same plan leaves the same files, whoever runs it and however often.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.data_governance.build.layout import Layout
from services.data_governance.build.plan import Plan
from services.data_governance.build.settle import TIME, Settled
from services.data_governance.build.spill import ROWS, KeyWriter, RowFile, read_rows, whole
from services.data_governance.ingest import BATCH_ROWS
from services.data_governance.operators import build as build_operator
from services.data_governance.operators import build_settling
from services.data_governance.quality import Quality
from services.data_governance.rows import Operator, Outcome, Row, question_key
from services.data_governance.split import assign, time_of
from services.data_governance.versions import BadRowWriter, PartWriter
from shared.errors import InvalidInput

Batch = list[Row]
Array = np.ndarray[Any, Any]


class StepFailed(InvalidInput):
    """A step with `on_drop: fail` would have dropped a row."""

    code = "step_failed"


@dataclass(slots=True)
class Counts:
    """Rows of the source that were read, bad ones too, rows dropped, rows written; bytes of the source as stored."""

    rows_read: int = 0
    rows_dropped: int = 0
    rows_written: int = 0
    bytes_read: int = 0


class PartRun:
    """One run of one part. `look` is called all the time and may raise, to stop."""

    def __init__(
        self,
        layout: Layout,
        plan: Plan,
        paths: Sequence[Path],
        stage: int,
        part: int,
        *,
        look: Callable[[Counts], None],
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        self._layout, self._plan, self._paths = layout, plan, paths
        self._stage, self._part = stage, part
        self._look, self._batch_rows = look, batch_rows
        self._quality = Quality(plan.recipe)
        self.counts = Counts()

    def run(self) -> Counts:
        """Leaves the part's folder. Raises StepFailed, InvalidInput (the file), and what `look` raises."""
        stage = self._plan.stages[self._stage]
        local = [(index, build_operator(self._plan.recipe.steps[index])) for index in stage.local]
        with (
            whole(self._layout.part(self._stage, self._part)) as folder,
            # Closed before the folder goes, should a step fail while rows are being read.
            closing(self._read(folder) if self._stage == 0 else self._settled()) as rows,
        ):
            batches = self._through(rows, local)
            if self._stage == len(self._plan.stages) - 1:
                self._write_version(folder, batches)
            else:
                self._spill(folder, batches)
            self._quality.save(folder)
        return self.counts

    def _told(self) -> None:
        self.counts.rows_dropped = self._quality.rows_dropped
        self._look(self.counts)

    def _read(self, folder: Path) -> Generator[Batch]:
        """The rows of the source."""
        part = self._plan.parts[self._part]
        planned = self._plan.inputs[part.input]
        path = self._layout.unpacked(part.input) if planned.unpacked else self._paths[part.input]
        source = planned.source(path, part, self._told)
        erased = frozenset(self._plan.erased)
        gone = 0
        with BadRowWriter(folder, part.input) as bad:
            source.bad.sink = bad.add
            batch_rows = min(self._batch_rows, self._plan.rows or self._batch_rows)
            for rows in source.batches(batch_rows):
                self.counts.rows_read, self.counts.bytes_read = source.rows_read, source.bytes_read
                self._told()
                left = [row for row in rows if row.row_id not in erased] if erased else rows
                gone += len(rows) - len(left)
                yield left
                if self._plan.rows is not None and source.rows_read >= self._plan.rows:
                    break
        self._quality.read(source.rows_good, gone, source.bad, part.input)

    def _settled(self) -> Generator[Batch]:
        """The rows of the stage before, without those that its settling steps drop."""
        before = self._stage - 1
        settled = Settled(self._layout, self._plan, before, self._part)
        batches = read_rows(self._layout.part(before, self._part) / ROWS)
        if settled.gathers:
            # Rows of all batches may become one.
            batches = iter([[row for batch in batches for row in batch]])
        for rows in batches:
            for index, rows_in, outcome in settled.apply(rows):
                self._fail(index, outcome)
                self._quality.step(index, rows_in, outcome)
            self._told()
            yield settled.left
        for op, summary in settled.groups.items():
            self._quality.groups(op, summary)

    def _through(self, batches: Iterator[Batch], local: Sequence[tuple[int, Operator]]) -> Iterator[Batch]:
        for batch in batches:
            rows = batch
            for index, operator in local:
                outcome = operator(rows)
                self._fail(index, outcome)
                self._quality.step(index, len(rows), outcome)
                rows = outcome.kept
            yield rows

    def _fail(self, index: int, outcome: Outcome) -> None:
        step = self._plan.recipe.steps[index]
        if outcome.dropped and step.on_drop == "fail":
            first = outcome.dropped[0]
            raise StepFailed(
                f"step {index} `{step.op}` may not drop a row, but line {first.row.line} breaks `{first.rule}`: "
                f"{first.reason}; mend the source, or let the step drop",
                param=f"steps[{index}].on_drop",
            )

    def _spill(self, folder: Path, batches: Iterator[Batch]) -> None:
        recipe, stage = self._plan.recipe, self._plan.stages[self._stage]
        settling = [(index, build_settling(recipe.steps[index]), KeyWriter()) for index in stage.settling]
        times = KeyWriter()
        by_time = recipe.split.by == "time" and self._stage == len(self._plan.stages) - 2
        count = 0
        with RowFile(folder / ROWS) as out:
            for rows in batches:
                if not rows:
                    continue
                count += len(rows)
                out.write(rows)
                for _, operator, keys in settling:
                    keys.add(operator.keys(rows))
                if by_time:
                    times.add({"time": np.array([time_of(row, recipe.split) for row in rows])})
        for index, _, keys in settling:
            keys.write(folder, index)
        times.write(folder, TIME)
        self._layout.write_counts(folder, rows=count)

    def _write_version(self, folder: Path, batches: Iterator[Batch]) -> None:
        recipe = self._plan.recipe
        with PartWriter(folder) as writer:
            for rows in batches:
                for row in rows:
                    question = question_key(row)
                    split = row.split or assign(question, row, recipe.split, recipe.seed)
                    writer.add(row, split)
                    self._quality.kept(row, split, question)
                self.counts.rows_written += len(rows)
                self._told()
        self._layout.write_counts(folder, rows=self.counts.rows_written)
