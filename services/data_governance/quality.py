"""Gathers the quality report while rows pass: what each step did, and what the kept rows are like.

Everything in it depends on the rows, the recipe and the seed, never on batches or time.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from services.data_governance.gates import Measured, evaluate
from services.data_governance.ingest import BadRows
from services.data_governance.operators.mask_pii import count_pii
from services.data_governance.rows import Outcome, Row, hash128
from services.data_governance.samples import Samples
from services.data_governance.split import TRAIN, VALIDATION
from shared.contracts.recipe import Recipe
from shared.contracts.steps import Step
from shared.text.language import script_of

MAX_LABELS = 1000
MAX_LABEL_CHARS = 200
_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(slots=True)
class StepCount:
    """Rows in and kept of one step, rows dropped and changed by rule."""

    op: str
    version: int
    rows_in: int = 0
    rows_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)


class Quality:
    """Feed it every outcome and every kept row; `report` then draws the sums and asks the gates."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.steps = [StepCount(step.op, step.version) for step in recipe.steps]
        self._dropped = Samples(recipe.seed)
        self._changed = Samples(recipe.seed)
        self._pii_masked: Counter[str] = Counter()
        self._pii_left: Counter[str] = Counter()
        self._chars, self._turns = array("Q"), array("Q")
        self._scripts: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._labels_beyond = 0
        self._questions = {TRAIN: array("Q"), VALIDATION: array("Q")}

    def step(self, index: int, rows_in: Sequence[Row], outcome: Outcome) -> None:
        """Takes down what step `index` did to a batch."""
        count = self.steps[index]
        count.rows_in += len(rows_in)
        count.rows_kept += len(outcome.kept)
        for drop in outcome.dropped:
            count.dropped[drop.rule] += 1
            self._dropped.add(drop.rule, drop.row, drop)
        for change in outcome.changed:
            for rule, times in change.rules.items():
                count.changed[rule] += 1
                if rule.startswith("pii_"):
                    self._pii_masked[rule.removeprefix("pii_")] += times
                self._changed.add(rule, change.before, change)

    def kept(self, row: Row, split: str, question: str) -> None:
        """Takes down a row of the version, with the key of its question."""
        texts = row.texts()
        self._chars.append(sum(map(len, texts)))
        if row.messages is not None:
            self._turns.append(sum(m.role == "user" for m in row.messages))
        self._scripts[script_of(texts)] += 1
        if row.label is not None:
            # A column of whole texts may be called a label; the report goes into a row of Postgres.
            label = row.label[:MAX_LABEL_CHARS]
            if label in self._labels or len(self._labels) < MAX_LABELS:
                self._labels[label] += 1
            else:
                self._labels_beyond += 1
        self._questions[split].append(int.from_bytes(hash128(question)[:8], "big"))
        if left := count_pii(row):
            self._pii_left.update(left)

    @property
    def rows_dropped(self) -> int:
        return sum(step.dropped.total() for step in self.steps)

    def report(self, bad: BadRows, rows_in: int) -> dict[str, Any]:
        """The report as JSON values. `rows_in` = `rows_kept` + the sum of `dropped`, always."""
        kept = len(self._chars)
        dropped = Counter(bad.counts)
        for step in self.steps:
            dropped.update(step.dropped)
        assert rows_in == kept + dropped.total(), "a row was lost or doubled on its way through the recipe"
        questions = {split: np.frombuffer(held, dtype=np.uint64) for split, held in self._questions.items()}
        leaked = len(np.intersect1d(questions[TRAIN], questions[VALIDATION]))
        validation = len(questions[VALIDATION])
        measured = Measured(
            rows_in=rows_in,
            rows_kept=kept,
            rows_validation=validation,
            rows_bad=bad.total,
            rows_duplicate=dropped["exact_duplicates"],
            rows_conflicting=dropped["conflicting_labels"],
            pii_left=self._pii_left.total(),
            leaked_questions=leaked,
        )
        changed = Counter[str]()
        for step in self.steps:
            changed.update(step.changed)
        return {
            "rows_in": rows_in,
            "rows_kept": kept,
            "dropped": _sorted(dropped),
            "changed": _sorted(changed),
            "splits": {TRAIN: kept - validation, VALIDATION: validation},
            "steps": [_step(step) for step in self.steps],
            "bad_rows": {"total": bad.total, "listed": [asdict(note) for note in bad.listed]},
            "samples": {"dropped": self._dropped.report(), "changed": self._changed.report()},
            "pii": {"masked": _sorted(self._pii_masked), "left": _sorted(self._pii_left)},
            "chars": _percentiles(self._chars),
            "turns": _percentiles(self._turns),
            "scripts": {name: round(count / kept, 4) for name, count in _sorted(self._scripts).items()},
            "labels": {
                "distinct": len(self._labels),
                "counts": _sorted(self._labels),
                "rows_beyond_listed": self._labels_beyond,
                "balance": _balance(self._labels),
            },
            "leakage": {"questions_in_both_splits": leaked},
            "gate": evaluate(self._recipe.gates, measured),
        }


def operator_versions(steps: Sequence[Step]) -> dict[str, int]:
    """The version of each operator that a recipe uses."""
    return {step.op: step.version for step in steps}


def _step(step: StepCount) -> dict[str, Any]:
    return {**asdict(step), "dropped": _sorted(step.dropped), "changed": _sorted(step.changed)}


def _sorted(counts: Counter[Any]) -> dict[str, int]:
    """Most frequent first, then by name: a dict that reads well and is always the same."""
    ranked = sorted(((str(k), v) for k, v in counts.items() if v), key=lambda pair: (-pair[1], pair[0]))
    return dict(ranked)


def _percentiles(values: array[int]) -> dict[str, float]:
    if not values:
        return {}
    numbers = np.frombuffer(values, dtype=np.uint64)
    cuts = np.percentile(numbers, _PERCENTILES, method="inverted_cdf")
    named = {f"p{p}": int(cut) for p, cut in zip(_PERCENTILES, cuts, strict=True)}
    return {
        "min": int(numbers.min()),
        **named,
        "max": int(numbers.max()),
        "mean": round(float(numbers.mean()), 2),
    }


def _balance(labels: Counter[str]) -> float | None:
    """Entropy of the labels over its maximum: 1 when all are as frequent, 0 when there is one. None without labels."""
    if not labels:
        return None
    if len(labels) == 1:
        return 0.0
    shares = np.array(sorted(labels.values()), dtype=np.float64) / labels.total()
    return round(float(-(shares * np.log(shares)).sum() / np.log(len(labels))), 4)
