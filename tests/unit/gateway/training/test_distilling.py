"""A distillation before it begins: whose training it is, of how many prompts, and how long its models answer."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.training.data import TrainingData
from services.gateway.training.distilling import Answered, answered_of, asking, prompts_in, trained_by
from services.gateway.training.speeds import Machine
from shared.contracts.distillation import Distill
from shared.contracts.inference import ModelRef
from shared.contracts.training import FineTune

REF = "sha256:" + "a" * 64
ROWS = TrainingData(rows=1000, mean=300.0, most=900, dense=0.0, basis="told")
VOCABULARY = 2048
CPU = Machine("cpu", None, 2)


def distill(kind: str = "version", **changes: Any) -> Distill:
    data = {"id": "d", "kind": kind, "artifact": REF}
    base = {"model": "small", "base_artifact": REF}
    return Distill.model_validate(
        {
            "teacher": "large",
            "models": {"large": ModelRef(name="large", base_artifact=REF)},
            "base": base,
            "untrained": ModelRef(name="small", base_artifact=REF),
            "training": data,
            "held_out_rows": 50,
            "generation": {"max_tokens": 40},
            **changes,
        }
    )


def batch(model: str | None, rows: int, tokens: int, seconds: float) -> dict[str, Any]:
    counts, usage = {"completed": rows}, {"output_tokens": tokens}
    return {"result": {"model": model, "request_counts": counts, "usage": usage}, "seconds": seconds}


def test_it_trains_as_its_student_does() -> None:
    job = distill(hyperparameters={"n_epochs": 2}, decoding={"temperature": 0})
    trained = trained_by(job)
    assert isinstance(trained, FineTune)
    assert (trained.base, trained.hyperparameters, trained.decoding) == (
        job.base,
        job.hyperparameters,
        job.decoding,
    )
    assert trained_by(trained) is trained


@pytest.mark.parametrize(
    ("job", "rows"),
    [
        (distill(), 1000),
        (distill(max_prompts=300), 300),
        # Of a file without held-out rows a tenth is held out, or as many as are asked for.
        (distill("file"), 950),
        (distill("file", held_out_rows=200), 900),
        (distill("file", validation={"id": "v", "kind": "file", "artifact": REF}), 1000),
    ],
)
def test_it_learns_from_the_prompts_that_are_not_held_out(job: Distill, rows: int) -> None:
    assert prompts_in(job, ROWS).rows == rows


def test_answers_take_as_long_as_in_earlier_batches_of_the_same_models() -> None:
    earlier = answered_of(
        [batch("large", 10, 200, 40.0), batch("small", 10, 300, 30.0), batch(None, 5, 5, 9.0)]
    )
    assert earlier == [Answered("large", 10, 200, 40.0), Answered("small", 10, 300, 30.0)]
    found = asking(distill(), ROWS, {}, VOCABULARY, earlier, CPU)
    # 20 tokens an answer, as the teacher gave: 0.2 s each of its own, 0.1 s of the student's and its base's.
    assert found.seconds == pytest.approx(6 + 1050 * 20 * 0.2 + 100 * 20 * 0.1)
    assert found.basis.startswith("measured: earlier batches of the same models; 20 tokens an answer")


def test_a_guess_goes_by_the_sizes_of_the_models_and_says_what_nobody_knows() -> None:
    small = asking(distill(), ROWS, {"large": 10**6, "small": 10**6}, VOCABULARY, [], CPU)
    large = asking(distill(), ROWS, {"large": 10**8, "small": 10**6}, VOCABULARY, [], CPU)
    assert small.seconds is not None
    assert large.seconds is not None
    assert 50 < (large.seconds - 6) / (small.seconds - 6) < 100
    assert small.basis.startswith("a guess; 40 tokens an answer, which nobody knows yet")
    unknown = asking(distill(), ROWS, {"large": None, "small": 10**6}, VOCABULARY, [], CPU)
    assert unknown.seconds is None
    assert "how fast 'large' answers was never measured" in unknown.basis
