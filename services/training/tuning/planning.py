"""From encoded sequences to what the trainer goes through: how many steps, of which rows or packs, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from services.training.hyperparameters import SftHyperparameters
from services.training.plan import Schedule, epochs_for, order
from services.training.run import Run
from services.training.tokenizer import Encoded
from services.training.tuning.choices import Choices
from services.training.tuning.packing import pack_order
from services.training.tuning.plan import Plan

# A small model is trained on a CPU in minutes, and wants high rates and many looks at its data.
SMALL_TARGET_TOKENS = 220_000
SMALL_MOST_EPOCHS = 20
STEP_TOKENS = 768


def batch_size_for(wanted: SftHyperparameters, lengths: Sequence[int], processes: int, *, small: bool) -> int:
    """Sequences of a step, a multiple of `processes` where nobody asked for a number."""
    if wanted.batch_size is not None:
        return wanted.batch_size
    auto = max(4, min(64, round(STEP_TOKENS * len(lengths) / sum(lengths)))) if small else 8
    step = processes * (wanted.gradient_accumulation_steps or 1)
    return -(-min(auto, max(1, len(lengths))) // step) * step


def make_plan(
    run: Run,
    wanted: SftHyperparameters,
    lengths: Sequence[int],
    batch_size: int,
    chosen: Choices,
    seed: int,
    *,
    small: bool,
) -> tuple[Plan, list[list[int]]]:
    """The plan, and for each row of the trainer the sequences in it: one, or those of a pack."""
    epochs = _epochs(wanted, lengths, batch_size, small=small)
    if chosen.packing:
        packs = [pack for epoch in pack_order(lengths, epochs, chosen.capacity, seed) for pack in epoch]
        step_rows = chosen.parts * chosen.processes
    else:
        packs = [[row] for row in order(lengths, epochs, batch_size, seed).tolist()]
        step_rows = batch_size
    if chosen.processes > 1 and len(packs) > step_rows:
        # Processes take equal shares of whole steps; the last, short one is left out.
        packs = packs[: len(packs) // step_rows * step_rows]
    steps = -(-len(packs) // step_rows)
    total = min(steps, wanted.max_steps or steps)
    packs = packs[: total * step_rows]
    plan = Plan(
        run=run,
        schedule=Schedule.of(total, wanted.warmup_ratio, wanted.max_seconds),
        rows=np.arange(len(packs)),
        lengths=np.asarray([sum(lengths[row] for row in pack) for pack in packs]),
        batch_size=step_rows,
        rows_per_epoch=len(lengths),
        checkpoint_every=wanted.checkpoint_every or max(25, total // 4),
        log_every=wanted.log_every or max(1, total // 50),
        counts=np.asarray([len(pack) for pack in packs]),
        kept=chosen.state(),
    )
    return plan, packs


def _epochs(wanted: SftHyperparameters, lengths: Sequence[int], batch_size: int, *, small: bool) -> int:
    if wanted.n_epochs is None and wanted.max_steps is not None:
        # Packs are rarely quite full, so that a step has a little less than its share: one epoch more is enough.
        return -(-wanted.max_steps * batch_size // len(lengths)) + 1
    if wanted.n_epochs is not None:
        return wanted.n_epochs
    return epochs_for(sum(lengths), SMALL_TARGET_TOKENS, SMALL_MOST_EPOCHS) if small else 3


def dataset(sequences: Sequence[Encoded], packs: Sequence[Sequence[int]], *, packed: bool) -> Dataset:
    """Rows as TRL's collator takes them; `seq_lengths` are the borders inside a pack."""
    if not packed:
        whole = Dataset.from_dict(
            {"input_ids": [e.ids for e in sequences], "labels": [e.labels for e in sequences]}
        )
        # By reference: an epoch more is a list of numbers more.
        return whole.select([row for (row,) in packs])
    columns: dict[str, list[Any]] = {
        "input_ids": [[i for row in pack for i in sequences[row].ids] for pack in packs],
        "labels": [[i for row in pack for i in sequences[row].labels] for pack in packs],
        "seq_lengths": [[len(sequences[row].ids) for row in pack] for pack in packs],
    }
    return Dataset.from_dict(columns)
