"""Between two stages: what the settling steps make of all keys, and how a part's rows are judged by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from services.data_governance.build.layout import Layout
from services.data_governance.build.plan import Plan
from services.data_governance.build.spill import Keys, whole
from services.data_governance.operators import build_settling
from services.data_governance.rows import Outcome, Row
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
            (folder / f"{index}.json").write_text(json.dumps(_groups(verdicts)))
        if plan.recipe.split.by == "time" and stage == len(plan.stages) - 2 and len(alive):
            times = Keys(folders, TIME, counts).column("time")
            np.save(folder / "split.npy", by_time(times, alive, plan.recipe.split))


class Settled:
    """The verdicts on one part of a stage, applied batch by batch in order."""

    def __init__(self, layout: Layout, plan: Plan, stage: int, part: int) -> None:
        folder = layout.settled(stage)
        start = sum(layout.counts(stage, part))
        rows = slice(start, start + layout.kept(stage, part))
        steps = plan.stages[stage].settling
        self._verdicts = [
            (index, build_settling(plan.recipe.steps[index]), np.load(folder / f"{index}.npy", "r")[rows])
            for index in steps
        ]
        self._largest = {index: json.loads((folder / f"{index}.json").read_text()) for index in steps}
        self.groups = {plan.recipe.steps[index].op: found for index, found in self._largest.items() if found}
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
            yield index, len(rows), Outcome(kept, dropped)
            rows, places = kept, places[~verdicts["drop"]]
        self.left = rows

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
