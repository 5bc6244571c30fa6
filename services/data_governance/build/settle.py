"""Between two stages: what the settling steps make of all keys, and how a part's rows are judged by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from services.data_governance.build.layout import Layout
from services.data_governance.build.plan import Plan
from services.data_governance.build.spill import ROWS, Keys, RowFile, read_rows, whole
from services.data_governance.operators import GATHERING, build_settling
from services.data_governance.rows import Changed, Outcome, Row
from services.data_governance.samples import shown_text
from services.data_governance.split import SPLITS, by_time

Array = np.ndarray[Any, Any]
# Not a step: the keys of a split by time.
TIME = -1
LARGEST = 10
EXAMPLES = 3


def settle(layout: Layout, plan: Plan, stage: int, look: Callable[[], None]) -> None:
    """Judges all rows of a stage whose parts are done; done already, it does nothing."""
    target = layout.settled(stage)
    if target.is_dir():
        return
    counts = layout.counts(stage, len(plan.parts))
    folders = [layout.part(stage, part) for part in range(len(plan.parts))]
    alive = np.ones(sum(counts), bool)
    with whole(target) as folder:
        for index in plan.stages[stage].settling:
            look()
            verdicts = np.zeros(0, np.dtype([("drop", "?")]))
            if len(alive):
                operator = build_settling(plan.recipe.steps[index])
                verdicts = operator.settle(Keys(folders, index, counts), alive)
                alive &= ~verdicts["drop"]
            np.save(folder / f"{index}.npy", verdicts)
            gathers = plan.recipe.steps[index].op in GATHERING
            (folder / f"{index}.json").write_text(json.dumps({} if gathers else _groups(verdicts)))
            if gathers:
                _move(layout, stage, counts, verdicts, folder, look)
        if plan.recipe.split.by == "time" and stage == len(plan.stages) - 2 and len(alive):
            times = Keys(folders, TIME, counts).column("time")
            np.save(folder / "split.npy", by_time(times, alive, plan.recipe.split))


def _move(
    layout: Layout, stage: int, counts: list[int], verdicts: Array, folder: Path, look: Callable[[], None]
) -> None:
    """Copies each row whose new place is in another part to that part's `moved-<part>`, with its number."""
    ends = np.cumsum(counts)
    first = verdicts["first"] if len(verdicts) else np.zeros(0, np.uint32)
    targets = np.searchsorted(ends, first, side="right")
    start = 0
    for part, count in enumerate(counts):
        leaving = np.flatnonzero(targets[start : start + count] != part)
        if len(leaving):
            look()
            rows = [row for batch in read_rows(layout.part(stage, part) / ROWS) for row in batch]
            for target in np.unique(targets[start + leaving]):
                chosen = leaving[targets[start + leaving] == target]
                name = f"moved-{target:05d}-{part:05d}"
                with RowFile(folder / f"{name}.arrow") as out:
                    out.write([rows[at] for at in chosen])
                np.save(folder / f"{name}.npy", start + chosen)
        start += count


class Settled:
    """The verdicts on one part of a stage, applied batch by batch in order."""

    def __init__(self, layout: Layout, plan: Plan, stage: int, part: int) -> None:
        folder = self._folder = layout.settled(stage)
        self._part = part
        start = self._start = sum(layout.counts(stage, part))
        rows = slice(start, start + layout.kept(stage, part))
        steps = plan.stages[stage].settling
        self._verdicts = [
            (index, build_settling(plan.recipe.steps[index]), np.load(folder / f"{index}.npy", "r")[rows])
            for index in steps
        ]
        self._largest = {index: json.loads((folder / f"{index}.json").read_text()) for index in steps}
        self.groups = {plan.recipe.steps[index].op: found for index, found in self._largest.items() if found}
        last = plan.recipe.steps[steps[-1]] if steps else None
        self.gathers = last is not None and last.op in GATHERING
        self._gathering = GATHERING[last.op](last) if last is not None and self.gathers else None
        split = folder / "split.npy"
        self._splits: Array | None = np.load(split, "r")[rows] if split.is_file() else None
        self._at = 0
        self.left: list[Row] = []

    def apply(self, rows: list[Row]) -> Iterator[tuple[int, int, Outcome]]:
        """(step, rows in, outcome) of each settling step on the next rows; `left` is then what none has dropped."""
        batch = slice(self._at, self._at + len(rows))
        self._at = batch.stop
        splits = None if self._splits is None else self._splits[batch]
        if splits is not None:
            rows = [replace(row, split=SPLITS[split]) for row, split in zip(rows, splits, strict=True)]
        places = np.arange(len(rows))
        for index, operator, all_verdicts in self._verdicts:
            verdicts = all_verdicts[batch][places]
            kept: list[Row] = []
            dropped = []
            for row, verdict in zip(rows, verdicts, strict=True):
                if verdict["drop"]:
                    dropped.append(operator.dropped(row, verdict))
                else:
                    kept.append(row)
            self._exemplify(index, rows, verdicts)
            changed: list[Changed] = []
            if self._gathering is not None and index == self._verdicts[-1][0]:
                kept, changed = self._gathered(rows, places, verdicts, index)
            yield index, len(rows), Outcome(kept, dropped, changed)
            rows, places = kept, places[~verdicts["drop"]]
        self.left = rows

    def _gathered(
        self, rows: list[Row], places: Array, verdicts: Array, index: int
    ) -> tuple[list[Row], list[Changed]]:
        """The new rows of the part, in the order of the rows whose places they take. The batch is the whole part."""
        assert self._gathering is not None
        groups: dict[int, list[tuple[Row, np.void]]] = {}
        for row, verdict in zip(rows, verdicts, strict=True):
            groups.setdefault(int(verdict["first"]), []).append((row, verdict))
        whole_verdicts = np.load(self._folder / f"{index}.npy", "r")
        for path in sorted(self._folder.glob(f"moved-{self._part:05d}-*.arrow")):
            moved = [row for batch in read_rows(path) for row in batch]
            for row, ordinal in zip(moved, np.load(path.with_suffix(".npy")), strict=True):
                verdict = whole_verdicts[ordinal]
                groups.setdefault(int(verdict["first"]), []).append((row, verdict))
        kept: list[Row] = []
        changed: list[Changed] = []
        for row, place, verdict in zip(rows, places.tolist(), verdicts, strict=True):
            if not verdict["drop"]:
                made = self._gathering.gathered(row, groups[self._start + place])
                kept.append(made)
                if made is not row:
                    changed.append(Changed(row, made, {"assembled": 1}))
        return kept, changed

    def _exemplify(self, index: int, rows: list[Row], verdicts: Array) -> None:
        """Texts of rows of the largest groups, for the report."""
        largest = {group["first"]: group for group in self._largest[index].get("largest", ())}
        if not largest:
            return
        for at in np.flatnonzero(np.isin(verdicts["first"], list(largest))):
            group = largest[int(verdicts[at]["first"])]
            if len(group["examples"]) < EXAMPLES:
                group["examples"].append(shown_text(rows[at]))


def _groups(verdicts: Array) -> dict[str, Any]:
    """How many groups of alike rows there are, and the largest; nothing of a step that forms none."""
    if verdicts.dtype.names is None or "first" not in verdicts.dtype.names:
        return {}
    firsts = np.unique(verdicts["first"][verdicts["drop"]])
    sizes = verdicts["size"][firsts]
    ranked = np.lexsort((firsts, -sizes.astype(np.int64)))[:LARGEST]
    largest = [{"first": int(firsts[at]), "size": int(sizes[at]), "examples": []} for at in ranked]
    return {"groups": len(firsts), "rows": int(sizes.sum()), "largest": largest}
