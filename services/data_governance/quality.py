"""Gathers the quality report while rows pass: what each step did, and what the kept rows are like.

Everything in it depends on the rows, the recipe and the seed, never on batches or time. What the parts of a build
have gathered is put together by `merge`, in their order.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from services.data_governance.gates import Measured, evaluate
from services.data_governance.ingest import BadRows
from services.data_governance.ingest.bad_rows import MAX_LISTED
from services.data_governance.operators.mask_pii import count_pii
from services.data_governance.rows import Outcome, Row, hash128
from services.data_governance.samples import Samples
from services.data_governance.split import SPLITS, TRAIN
from shared.contracts.recipe import Recipe
from shared.contracts.steps import Step
from shared.text.language import script_of

MAX_LABELS = 1000
MAX_LABEL_CHARS = 200
MAX_SLICED_LABELS = 50
_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
# Lower bounds of the buckets of lengths; fixed, so that those of two versions can be compared.
_LENGTHS = (0, *(2**power for power in range(21)))
_FILE = "quality.json"


@dataclass(slots=True)
class StepCount:
    """Rows in and kept of one step, rows dropped and changed by rule."""

    op: str
    version: int
    rows_in: int = 0
    rows_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)

    def add(self, other: dict[str, Any]) -> None:
        self.rows_in += other["rows_in"]
        self.rows_kept += other["rows_kept"]
        self.dropped.update(other["dropped"])
        self.changed.update(other["changed"])


class Quality:
    """Feed it every outcome and every kept row; `report` then draws the sums and asks the gates."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.steps = [StepCount(step.op, step.version) for step in recipe.steps]
        self.rows_in = 0
        self._dropped = Samples(recipe.seed)
        self._changed = Samples(recipe.seed)
        self._pii_masked: Counter[str] = Counter()
        self._pii_left: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()
        self._erased = 0
        self._bad_listed: list[dict[str, Any]] = []
        self._nulls: Counter[str] = Counter()
        self._scripts: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._labels_beyond = 0
        self._by_script: dict[str, Counter[str]] = {}
        self._groups: dict[str, dict[str, Any]] = {}
        self._arrays = {name: array("Q") for name in ("chars", "turns", *SPLITS)}

    def read(self, rows: int, erased: int, bad: BadRows, source: int) -> None:
        """Takes down what came in: good rows, how many of them were erased, and the bad ones of input `source`."""
        self.rows_in += rows + bad.total
        self._erased += erased
        self._bad.update(bad.counts)
        place = {"source": source} if source else {}
        self._bad_listed.extend({**asdict(note), **place} for note in bad.listed)

    def step(self, index: int, rows_in: int, outcome: Outcome) -> None:
        """Takes down what step `index` did to a batch."""
        count = self.steps[index]
        count.rows_in += rows_in
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
        self._arrays["chars"].append(sum(map(len, texts)))
        if row.messages is not None:
            self._arrays["turns"].append(sum(m.role == "user" for m in row.messages))
        script = script_of(texts)
        self._scripts[script] += 1
        if row.label is None:
            self._nulls["label"] += 1
        else:
            self._label(row.label, script)
        self._arrays[split].append(int.from_bytes(hash128(question)[:8], "big"))
        if left := count_pii(row):
            self._pii_left.update(left)

    def _label(self, label: str, script: str) -> None:
        # A column of whole texts may be called a label; the report goes into a row of Postgres.
        label = label[:MAX_LABEL_CHARS]
        if label in self._labels or len(self._labels) < MAX_LABELS:
            self._labels[label] += 1
            self._by_script.setdefault(script, Counter())[label] += 1
        else:
            self._labels_beyond += 1

    def groups(self, op: str, summary: dict[str, Any]) -> None:
        """Takes down the groups of alike rows that a step found; `largest` may come again with more examples."""
        known = self._groups.setdefault(op, summary)
        for held, more in zip(known["largest"], summary["largest"], strict=True):
            if held is not more:
                held["examples"] = [*held["examples"], *more["examples"]][:3]

    @property
    def rows_dropped(self) -> int:
        return sum(step.dropped.total() for step in self.steps) + self._bad.total() + self._erased

    def save(self, folder: Path) -> None:
        """Writes all that was gathered, for `merge`."""
        plain = {
            "rows_in": self.rows_in,
            "erased": self._erased,
            "steps": [_step(step) for step in self.steps],
            "samples": [self._dropped.dump(), self._changed.dump()],
            "bad_listed": self._bad_listed[:MAX_LISTED],
            "labels_beyond": self._labels_beyond,
            "by_script": self._by_script,
            "groups": self._groups,
            **{name: getattr(self, f"_{name}") for name in _COUNTERS},
        }
        (folder / _FILE).write_text(json.dumps(plain, ensure_ascii=False), encoding="utf-8")
        for name, values in self._arrays.items():
            np.save(folder / f"quality-{name}.npy", np.frombuffer(values, dtype=np.uint64))

    def merge(self, folder: Path) -> None:
        """Adds what another has saved."""
        found = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        self.rows_in += found["rows_in"]
        self._erased += found["erased"]
        for step, other in zip(self.steps, found["steps"], strict=True):
            step.add(other)
        self._dropped.merge(found["samples"][0])
        self._changed.merge(found["samples"][1])
        self._bad_listed.extend(found["bad_listed"])
        for name in ("pii_masked", "pii_left", "bad", "nulls", "scripts"):
            getattr(self, f"_{name}").update(found[name])
        for label, count in found["labels"].items():
            if label in self._labels or len(self._labels) < MAX_LABELS:
                self._labels[label] += count
            else:
                self._labels_beyond += count
        self._labels_beyond += found["labels_beyond"]
        for script, labels in found["by_script"].items():
            self._by_script.setdefault(script, Counter()).update(labels)
        for op, summary in found["groups"].items():
            self.groups(op, summary)
        for name, values in self._arrays.items():
            values.frombytes(np.load(folder / f"quality-{name}.npy").tobytes())

    def report(self) -> dict[str, Any]:
        """The report as JSON values. `rows_in` = `rows_kept` + the sum of `dropped`, always."""
        kept = len(self._arrays["chars"])
        dropped = Counter(self._bad)
        dropped["erased"] += self._erased
        changed = Counter[str]()
        for step in self.steps:
            dropped.update(step.dropped)
            changed.update(step.changed)
        assert self.rows_in == kept + dropped.total(), (
            "a row was lost or doubled on its way through the recipe"
        )
        leaked = self._leaked()
        measured = Measured(
            rows_in=self.rows_in,
            rows_kept=kept,
            rows_validation=len(self._arrays["validation"]),
            rows_bad=self._bad.total(),
            rows_duplicate=dropped["exact_duplicates"] + dropped["near_duplicates"],
            rows_conflicting=dropped["conflicting_labels"],
            pii_left=self._pii_left.total(),
            leaked_questions=leaked,
        )
        return {
            "rows_in": self.rows_in,
            "rows_kept": kept,
            "dropped": _sorted(dropped),
            "changed": _sorted(changed),
            "splits": {split: len(self._arrays[split]) for split in SPLITS},
            "steps": [_step(step) for step in self.steps],
            "bad_rows": {"total": self._bad.total(), "listed": self._bad_listed[:MAX_LISTED]},
            "samples": {"dropped": self._dropped.report(), "changed": self._changed.report()},
            "groups": self._groups,
            "pii": {"masked": _sorted(self._pii_masked), "left": _sorted(self._pii_left)},
            "chars": _percentiles(self._arrays["chars"]),
            "lengths": _lengths(self._arrays["chars"]),
            "turns": _percentiles(self._arrays["turns"]),
            "nulls": _sorted(self._nulls),
            "scripts": {name: round(count / kept, 4) for name, count in _sorted(self._scripts).items()},
            "labels": {
                "distinct": len(self._labels),
                "counts": _sorted(self._labels),
                "rows_beyond_listed": self._labels_beyond,
                "balance": _balance(self._labels),
                "by_script": {
                    script: dict(list(_sorted(labels).items())[:MAX_SLICED_LABELS])
                    for script, labels in sorted(self._by_script.items())
                },
            },
            "leakage": {"questions_in_both_splits": leaked},
            "gate": evaluate(self._recipe.gates, measured),
        }

    def _leaked(self) -> int:
        """Distinct questions that stand in training and in a split that measures it."""
        held = {split: np.frombuffer(self._arrays[split], dtype=np.uint64) for split in SPLITS}
        measures = np.concatenate([held[split] for split in SPLITS if split != TRAIN])
        return len(np.intersect1d(held[TRAIN], measures))


_COUNTERS = ("pii_masked", "pii_left", "bad", "nulls", "scripts", "labels")


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


def _lengths(chars: array[int]) -> dict[str, int]:
    """Rows by the lower bound of their bucket of characters, in ascending order; buckets without a row are left out."""
    if not chars:
        return {}
    places = np.searchsorted(_LENGTHS, np.frombuffer(chars, dtype=np.uint64), side="right") - 1
    counts = np.bincount(places, minlength=len(_LENGTHS)).tolist()
    return {str(bound): count for bound, count in zip(_LENGTHS, counts, strict=True) if count}


def _balance(labels: Counter[str]) -> float | None:
    """Entropy of the labels over its maximum: 1 when all are as frequent, 0 when there is one. None without labels."""
    if not labels:
        return None
    if len(labels) == 1:
        return 0.0
    shares = np.array(sorted(labels.values()), dtype=np.float64) / labels.total()
    return round(float(-(shares * np.log(shares)).sum() / np.log(len(labels))), 4)
