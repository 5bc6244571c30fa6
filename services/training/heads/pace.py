"""How long and how fast a head is trained: chosen from rows, method and width where nothing is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.training.heads.rows import Rows
from services.training.hyperparameters import HeadHyperparameters
from services.training.plan import Schedule, order
from shared.contracts.heads import HeadChoice

# By method: rows that all epochs together should come to, the fewest and the most epochs.
_EPOCHS = {
    "full": (32_000, 3, 20),
    "lora": (32_000, 3, 20),
    "lstm": (100_000, 8, 60),
    "frozen": (400_000, 20, 200),
}
_LSTM_RATE, _FROZEN_RATE = 3e-3, 1e-2
# The last layer begins from nothing, and so learns faster than a trunk that knows its texts.
_LAYER_FACTOR = 10.0


@dataclass(frozen=True)
class Pace:
    """How long and how fast: `rows` are all epochs' row numbers in order."""

    rows: npt.NDArray[np.int64]
    batch_size: int
    schedule: Schedule
    learning_rate: float
    layer_factor: float
    weight_decay: float
    checkpoint_every: int
    log_every: int


def pace_of(rows: Rows, choice: HeadChoice, wanted: HeadHyperparameters, width: int, seed: int) -> Pace:
    count = len(rows)
    batch_size = wanted.batch_size or min(32, max(4, count // 8))
    target, fewest, most = _EPOCHS[choice.method]
    if wanted.n_epochs is None and wanted.max_steps is not None:
        epochs = -(-wanted.max_steps * batch_size // count)
    else:
        epochs = wanted.n_epochs or max(fewest, min(most, round(target / count)))
    ordered = order(rows.lengths, epochs, batch_size, seed)
    steps = -(-len(ordered) // batch_size)
    total = min(steps, wanted.max_steps or steps)
    return Pace(
        ordered[: total * batch_size],
        batch_size,
        Schedule.of(total, wanted.warmup_ratio, wanted.max_seconds),
        wanted.learning_rate or _learning_rate(choice, width),
        _LAYER_FACTOR if choice.method in ("full", "lora") else 1.0,
        wanted.weight_decay,
        wanted.checkpoint_every or max(25, total // 4),
        wanted.log_every or max(1, total // 50),
    )


def _learning_rate(choice: HeadChoice, width: int) -> float:
    """As of fine-tuning for a trunk that is tuned: 2e-5 (LoRA 2e-4) at a width of 4096, higher for narrower ones."""
    if choice.method == "lstm":
        return _LSTM_RATE
    if choice.method == "frozen":
        return _FROZEN_RATE
    narrow = max(1.0, 4096 / width)
    return float((2e-4 if choice.method == "lora" else 2e-5) * narrow**0.75)
