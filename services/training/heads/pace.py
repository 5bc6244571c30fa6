"""How long and how fast a head is trained: chosen from rows, method and width where nothing is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.training.heads.losses import CONTRASTIVE
from services.training.heads.rows import Rows
from services.training.hyperparameters import HeadHyperparameters
from services.training.plan import Rhythm, order
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
LAYER_FACTOR = 10.0


@dataclass(frozen=True)
class Pace(ABC):
    """The last layers learn `layer_factor` times as fast as the trunk, which the rhythm's rate is of."""

    batch_size: int
    rhythm: Rhythm
    layer_factor: float
    weight_decay: float

    @abstractmethod
    def batch(self, step: int) -> tuple[int, npt.NDArray[np.int64]]:
        """Of the step after `step` finished ones: which part learns, and from which of its rows."""

    @abstractmethod
    def seen(self, step: int) -> int:
        """Rows that `step` steps have learned from."""


@dataclass(frozen=True)
class PaceOfOne(Pace):
    """`rows` are all epochs' row numbers in order."""

    rows: npt.NDArray[np.int64]

    def batch(self, step: int) -> tuple[int, npt.NDArray[np.int64]]:
        return 0, self.rows[step * self.batch_size : (step + 1) * self.batch_size]

    def seen(self, step: int) -> int:
        return min(step * self.batch_size, len(self.rows))


def pace_of(rows: Rows, choice: HeadChoice, wanted: HeadHyperparameters, width: int, seed: int) -> PaceOfOne:
    count = len(rows)
    batch_size = wanted.batch_size or min(32, max(4, count // 8))
    target, fewest, most = _EPOCHS[choice.method]
    if wanted.n_epochs is None and wanted.max_steps is not None:
        epochs = -(-wanted.max_steps * batch_size // count)
    else:
        epochs = wanted.n_epochs or max(fewest, min(most, round(target / count)))
    ordered = ordered_rows(rows, choice, epochs, batch_size, seed)
    steps = -(-len(ordered) // batch_size)
    total = min(steps, wanted.max_steps or steps)
    return PaceOfOne(
        batch_size,
        Rhythm.of(wanted, total, learning_rate(choice.method, width)),
        LAYER_FACTOR if choice.method in ("full", "lora") else 1.0,
        wanted.weight_decay,
        ordered[: total * batch_size],
    )


def ordered_rows(
    rows: Rows, choice: HeadChoice, epochs: int, batch_size: int, seed: int
) -> npt.NDArray[np.int64]:
    """Row numbers of all epochs, (epochs * rows,): by length, or two of a label together where the loss wants that."""
    if choice.named_loss == CONTRASTIVE:
        return paired(rows.targets.tolist(), epochs, seed)
    return order(rows.lengths, epochs, batch_size, seed)


def paired(labels: Sequence[int], epochs: int, seed: int) -> npt.NDArray[np.int64]:
    """Row numbers of all epochs, shape (epochs * rows,): two rows of one label always stand together, so that each
    finds its like in its batch; only the last of an odd number stands alone."""
    return np.concatenate([_paired_epoch(labels, np.random.default_rng((seed, e))) for e in range(epochs)])


def _paired_epoch(labels: Sequence[int], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    of_label: dict[int, list[int]] = defaultdict(list)
    for row in rng.permutation(len(labels)):
        of_label[labels[row]].append(int(row))
    twos = [rows[at : at + 2] for _, rows in sorted(of_label.items()) for at in range(0, len(rows), 2)]
    whole, alone = [two for two in twos if len(two) == 2], [two for two in twos if len(two) == 1]
    # Those alone come last, so that the border between two even batches cuts no pair.
    mixed = [whole[i] for i in rng.permutation(len(whole))] + [alone[i] for i in rng.permutation(len(alone))]
    return np.array([row for two in mixed for row in two], dtype=np.int64)


def learning_rate(method: str, width: int) -> float:
    """As of fine-tuning for a trunk that is tuned: 2e-5 (LoRA 2e-4) at a width of 4096, higher for narrower ones."""
    if method == "lstm":
        return _LSTM_RATE
    if method == "frozen":
        return _FROZEN_RATE
    narrow = max(1.0, 4096 / width)
    return float((2e-4 if method == "lora" else 2e-5) * narrow**0.75)
