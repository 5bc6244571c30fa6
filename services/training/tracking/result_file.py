"""The table of a run's steps, as OpenAI's fine-tuning jobs have it: one CSV row a step. Knows no file store."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

# OpenAI's columns, and where a run's own names stand for them.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "train_loss": ("train_loss",),
    "train_accuracy": ("train_mean_token_accuracy", "train_accuracy"),
    "valid_loss": ("valid_loss",),
    "valid_mean_token_accuracy": ("valid_mean_token_accuracy",),
}
# How fast a run was, and not how well it learned; and what repeats a column where all held-out rows are watched.
_LEFT_OUT = frozenset(
    {
        "learning_rate",
        "tokens_per_second",
        "texts_per_second",
        "epoch",
        "full_valid_loss",
        "full_valid_mean_token_accuracy",
    }
)


def extra_columns(names: Iterable[str]) -> list[str]:
    """Names of what a run told beside OpenAI's columns, sorted: a head's macro F1, a preference's margin, ..."""
    known = {own for columns in COLUMNS.values() for own in columns}
    return sorted(set(names) - known - _LEFT_OUT)


class ResultTable:
    """Writes rows to `target` as they come; `extra` are columns behind OpenAI's. What was not told stays empty."""

    def __init__(self, target: TextIO, extra: Iterable[str] = ()) -> None:
        self._extra = list(extra)
        self._writer = csv.writer(target, lineterminator="\n")
        self._writer.writerow(["step", *COLUMNS, *self._extra])

    def add(self, step: int, values: Mapping[str, float]) -> None:
        row: list[Any] = [
            next((values[own] for own in columns if own in values), "") for columns in COLUMNS.values()
        ]
        self._writer.writerow([step, *row, *(values.get(name, "") for name in self._extra)])
