"""A distillation before it begins: the training of its student, and how long teacher, student and base will answer.

Knows no SQL. Of answers that nobody has given yet the length is a guess, which is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.gateway.training.data import TrainingData
from services.gateway.training.speeds import Duration, Machine
from shared.contracts.base import JobContract
from shared.contracts.distillation import Distill
from shared.contracts.training import FineTune

# Of the rows of a file, where nothing else is held out.
HELD_OUT_SHARE = 0.1
DEFAULT_TOKENS = 256
# A token at a time an engine does so much of what it does with whole texts; a batch is planned, cut and put together.
_DECODES, _BATCH_S = 0.1, 3.0
_MOST = 3


@dataclass(frozen=True)
class Answered:
    """An earlier batch of one model: rows, tokens of its answers, and seconds until all were there."""

    model: str
    rows: int
    tokens: int
    seconds: float


def trained_by(contract: JobContract) -> JobContract:
    """The job that trains: of a distillation, its student's."""
    if not isinstance(contract, Distill):
        return contract
    return FineTune(
        base=contract.base,
        training=contract.training,
        validation=contract.validation,
        seed=contract.seed,
        hyperparameters=contract.hyperparameters,
        decoding=contract.decoding,
    )


def prompts_in(job: Distill, data: TrainingData) -> TrainingData:
    """The rows that the student learns from, were all prompts different and all answers of use."""
    rows = data.rows
    if job.validation is None and job.training.kind == "file":
        rows -= min(job.held_out_rows, max(1, round(HELD_OUT_SHARE * rows)))
    return replace(data, rows=max(1, min(rows, job.max_prompts)))


def answered_of(rows: Sequence[Mapping[str, Any]]) -> list[Answered]:
    """Of batches (`result`, `seconds`), those that asked one model."""
    found = []
    for row in rows:
        told = row["result"]
        model, done = told.get("model"), (told.get("request_counts") or {}).get("completed") or 0
        tokens = (told.get("usage") or {}).get("output_tokens") or 0
        if model and done and tokens:
            found.append(Answered(str(model), int(done), int(tokens), float(row["seconds"])))
    return found


def asking(
    job: Distill,
    prompts: TrainingData,
    parameters: Mapping[str, int | None],
    vocabulary: int,
    earlier: Sequence[Answered],
    machine: Machine,
) -> Duration:
    """What the teacher's batch and the exam take. `parameters` are those of `job.teacher` and `job.untrained`, where
    they are known."""
    most = DEFAULT_TOKENS if job.generation.max_tokens == "auto" else job.generation.max_tokens
    row = prompts.tokens_a_row(vocabulary)
    own = _of(job.teacher, earlier)
    each = sum(one.tokens for one in own) / sum(one.rows for one in own) if own else row / 2
    each = min(float(most), each)
    seconds, guessed = 2 * _BATCH_S, False
    for model, rows in (
        (job.teacher, prompts.rows + job.held_out_rows),
        # The student is as large as its base.
        (job.untrained.name, 2 * job.held_out_rows),
    ):
        known = _of(model, earlier)
        if known:
            per_token = math.fsum(one.seconds for one in known) / sum(one.tokens for one in known)
            seconds += rows * each * per_token
            continue
        size, guessed = parameters.get(model), True
        if size is None:
            return Duration(
                None, f"unknown: how fast {model!r} answers was never measured, nor is its size known"
            )
        seconds += rows * 2 * size * (row / 2 + each / _DECODES) / machine.guessed
    how = "a guess" if guessed else "measured: earlier batches of the same models"
    length = f"{each:.0f} tokens an answer, " + ("as in earlier batches" if own else "which nobody knows yet")
    return Duration(
        seconds, f"{how}; {length}; prompts that are the same are asked once, which is not known either"
    )


def _of(model: str, earlier: Sequence[Answered]) -> list[Answered]:
    """Its newest batches."""
    return [one for one in earlier if one.model == model][:_MOST]
