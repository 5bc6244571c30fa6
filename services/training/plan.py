"""How long a run is and in which order it sees its rows: pure arithmetic on lengths and a seed, no torch.

The whole order of all epochs is fixed before the first step, so the data position of a run is its step number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.training.hyperparameters import Steps

_MEGABATCH = 32
_UNMEASURED, _MEASURED = 3, 10


def epochs_for(tokens: int, target_tokens: int, most: int) -> int:
    """Epochs that bring a corpus of `tokens` near `target_tokens`, from 1 to `most`."""
    return max(1, min(most, round(target_tokens / max(tokens, 1))))


def order(lengths: Sequence[int], epochs: int, batch_size: int, seed: int) -> npt.NDArray[np.int64]:
    """Row numbers of all epochs one after another, shape (epochs * rows,).

    Shuffled by (seed, epoch); rows of like length are put in one batch (sorted inside spans of 32 batches, whose
    batches are then shuffled), so that little is padded.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    return np.concatenate([_epoch_order(sizes, batch_size, seed, epoch) for epoch in range(epochs)])


def _epoch_order(
    sizes: npt.NDArray[np.int64], batch_size: int, seed: int, epoch: int
) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng((seed, epoch))
    shuffled = rng.permutation(len(sizes))
    batches: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(shuffled), batch_size * _MEGABATCH):
        span = shuffled[start : start + batch_size * _MEGABATCH]
        span = span[np.argsort(sizes[span], kind="stable")]
        batches += [span[i : i + batch_size] for i in range(0, len(span), batch_size)]
    # The one short batch stays last, so that batches of later epochs begin on a multiple of the batch size less it.
    short = [b for b in batches if len(b) < batch_size]
    full = [b for b in batches if len(b) == batch_size]
    mixed = [full[i] for i in rng.permutation(len(full))] + short
    return np.concatenate(mixed)


@dataclass
class Schedule:
    """Linear warm-up, then cosine decay to a tenth. `total` may be cut once, by a time budget."""

    total: int
    warmup: int
    max_seconds: float | None = None
    measured: bool = False
    _first: tuple[int, float] | None = None

    @classmethod
    def of(cls, total: int, warmup_ratio: float, max_seconds: float | None) -> Schedule:
        return cls(total, min(total - 1, math.ceil(total * warmup_ratio)), max_seconds)

    def factor(self, step: int) -> float:
        """Share of the peak learning rate for the step after `step` finished ones."""
        if step < min(self.warmup, self.total):
            return (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def after_step(self, step: int) -> bool:
        """Time the first steps; once measured, cut `total` to what the budget allows. True when it was cut.

        The decision is made once and kept in the checkpoint, so a resumed run keeps the same curve.
        """
        if self.measured or self.max_seconds is None:
            return False
        now = time.perf_counter()
        if self._first is None:
            # The very first steps also warm up caches and allocators; they would make the rest look slow.
            self._first = (step + _UNMEASURED, 0.0)
        start, clock = self._first
        if step == start:
            self._first = (start, now)
        if step != start + _MEASURED:
            return False
        self.measured = True
        affordable = max(step, int(self.max_seconds * _MEASURED / (now - clock)))
        if affordable >= self.total:
            return False
        self.total = affordable
        return True

    def logs_at(self, step: int, every: int) -> bool:
        """Whether the means up to `step` are told now; the last stretch is never shorter than `every` steps."""
        return step % every == 0 and self.total - step >= every

    def state(self) -> dict[str, int | bool]:
        return {"total": self.total, "warmup": self.warmup, "measured": self.measured}

    def restore(self, state: dict[str, int | bool]) -> None:
        self.total, self.warmup = int(state["total"]), int(state["warmup"])
        self.measured = bool(state["measured"])


@dataclass(frozen=True)
class Rhythm:
    """How long and how fast a run goes, how often it tells and saves, and what looks at held-out rows decide."""

    schedule: Schedule
    learning_rate: float
    checkpoint_every: int
    log_every: int
    patience: int | None = None
    keep_best: bool = False

    @classmethod
    def of(
        cls, wanted: Steps, steps: int, learning_rate: float, *, least: int = 25, keeps: bool = True
    ) -> Rhythm:
        """`learning_rate` and `keeps`, whether the best weights are kept, where nothing is asked for; `least` steps
        between two checkpoints then."""
        return cls(
            Schedule.of(steps, wanted.warmup_ratio, wanted.max_seconds),
            wanted.learning_rate or learning_rate,
            wanted.checkpoint_every or max(least, steps // 4),
            wanted.log_every or max(1, steps // 50),
            wanted.early_stopping_patience,
            keeps if wanted.keep_best is None else wanted.keep_best,
        )
