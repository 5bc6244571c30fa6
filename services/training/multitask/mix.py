"""Which task each step learns, and from which of its rows: decided by sizes, temperature and seed alone. No torch.

A task of n rows has the share p ~ n^(1/T) of the steps (temperature sampling: Devlin et al. 2018 for multilingual
BERT, Arivazhagan et al. 2019, arXiv:1907.05019): T = 1 is in proportion to the rows, a high one evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.training.heads.pace import Pace
from shared.errors import InvalidInput

# (task, epochs) to row numbers of all these epochs.
Ordered = Callable[[int, int], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Mix(Pace):
    """`tasks` is the task of every step; `rows` are each task's row numbers in the order of its own steps."""

    tasks: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    rows: tuple[npt.NDArray[np.int64], ...]

    def batch(self, step: int) -> tuple[int, npt.NDArray[np.int64]]:
        task, place = int(self.tasks[step]), int(self.places[step])
        return task, self.rows[task][place * self.batch_size : (place + 1) * self.batch_size]

    def seen(self, step: int) -> int:
        return step * self.batch_size


def shares(sizes: Sequence[int], temperature: float) -> npt.NDArray[np.float64]:
    """Each task's share of the steps; they sum to 1."""
    # Of the largest, so that no power overflows.
    raised = (np.asarray(sizes, dtype=np.float64) / max(sizes)) ** (1 / temperature)
    found: npt.NDArray[np.float64] = raised / raised.sum()
    return found


def steps_of(
    sizes: Sequence[int], temperature: float, total: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(task, place among the task's own steps) of `total` steps.

    Each task gets its share to a step, and one step at least, in a shuffled order: independent draws would give a
    small task more or fewer by luck.
    """
    if total < len(sizes):
        raise InvalidInput(
            f"{total} steps are fewer than the {len(sizes)} tasks; each needs one at least",
            param="hyperparameters.max_steps",
        )
    wanted = shares(sizes, temperature) * (total - len(sizes))
    counts = 1 + np.floor(wanted).astype(np.int64)
    left = total - int(counts.sum())
    counts[np.argsort(np.floor(wanted) - wanted, kind="stable")[:left]] += 1
    tasks = np.random.default_rng((seed, 3)).permutation(np.repeat(np.arange(len(sizes)), counts))
    places = np.zeros(total, dtype=np.int64)
    for task in range(len(sizes)):
        own = tasks == task
        places[own] = np.arange(int(own.sum()))
    return tasks, places


def rows_of_tasks(
    sizes: Sequence[int], tasks: npt.NDArray[np.int64], batch_size: int, ordered: Ordered
) -> tuple[npt.NDArray[np.int64], ...]:
    """Each task's row numbers for all of its steps, epoch after epoch; a batch may hold the border of two."""
    found = []
    for task, size in enumerate(sizes):
        needed = int((tasks == task).sum()) * batch_size
        found.append(ordered(task, -(-needed // size))[:needed])
    return tuple(found)
