"""What is planned of a run, and the arithmetic that all ways share: rows, tokens, steps, operations. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.gateway.training.data import TrainingData
from shared.contracts.estimates import Demand, ModelShape


@dataclass(frozen=True)
class Plan:
    """A run before it begins. `steps` and `tokens` (of all epochs) are None where the data is not known.

    `operations` are those of all steps, `reading` those of texts that are only read, once, beside the steps.
    """

    demand: Demand
    batch_size: int
    epochs: float | None
    steps: int | None
    tokens: int | None
    max_seconds: float | None
    operations: float = 0.0
    reading: float = 0.0


def planned(
    demand: Demand,
    wanted: Any,
    batch: int,
    epochs: float | None,
    rows: int | None,
    tokens: int | None,
    *,
    computing: int | None = None,
    read: int | None = 0,
) -> Plan:
    """`computing` are the parameters that a token is multiplied with (no table of tokens), all where it is not given;
    `read` tokens are read once beside the steps."""
    most = None if wanted.max_steps == "auto" else int(wanted.max_steps)
    steps = math.ceil(rows * epochs / batch) if rows and epochs else None
    if most is not None:
        steps = min(steps, most) if steps is not None else most
    seen = tokens * min(epochs, steps * batch / rows) if tokens and epochs and rows and steps else None
    budget = None if wanted.max_seconds == "auto" else float(wanted.max_seconds)
    each = demand.shape.parameters if computing is None else computing
    learning = 6 if demand.trainable >= demand.shape.parameters / 2 else 4
    operations = float(learning) * each * (seen or 0)
    reading = 2.0 * each * (read or 0)
    return Plan(demand, batch, epochs, steps, round(seen) if seen else None, budget, operations, reading)


def epochs_of(wanted: Any, rows: int | None, batch: int, auto: Callable[[], int]) -> float | None:
    """As asked for, else as many as the steps that were asked for come to, else by the rule of the way."""
    if wanted.n_epochs != "auto":
        return int(wanted.n_epochs)
    if rows is None:
        return None
    if wanted.max_steps != "auto":
        return math.ceil(int(wanted.max_steps) * batch / rows)
    return auto()


def looks(rule: tuple[int, int, int], tokens: int | None) -> int:
    """Epochs that bring a corpus near the rule's tokens."""
    return max(1, min(rule[2], round(rule[1] / max(tokens or 1, 1))))


def rows_of_a_step(step_tokens: int, rows: int | None, tokens: int | None) -> int:
    """Rows of a step that come to about `step_tokens`."""
    return max(4, min(64, round(step_tokens * rows / tokens))) if rows and tokens else 16


def size_of(data: TrainingData | None, shape: ModelShape, longest: int) -> tuple[int | None, int | None]:
    """(rows, tokens of one look at all of them)."""
    if data is None:
        return None, None
    return data.rows, round(data.rows * min(longest, data.tokens_a_row(shape.vocabulary)))


def lengths_of(data: TrainingData | None, shape: ModelShape, most: int) -> tuple[int, int]:
    """Tokens of (a text of a batch of long ones, the longest text), at most `most` and what the model takes."""
    most = min(most, shape.positions)
    if data is None:
        return most, most
    return min(most, data.usual(shape.vocabulary)), min(most, data.longest(shape.vocabulary))


def chosen(value: Any, auto: int) -> int:
    return auto if value == "auto" else int(value)
