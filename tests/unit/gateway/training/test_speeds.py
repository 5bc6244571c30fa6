"""How long a run takes: by runs of its way, by others of the machine, or by a guess that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from services.gateway.training.data import TrainingData
from services.gateway.training.demands import plan_of
from services.gateway.training.speeds import (
    LEAST_STEP_S,
    Duration,
    Machine,
    duration_of,
    earlier_of,
    way_of_job,
)
from shared.contracts.estimates import llama_shape
from shared.contracts.heads import TrainHead
from shared.contracts.preferences import TunePreferences
from shared.contracts.training import FineTune, Pretrain

REF = "sha256:" + "a" * 64
DATA = {"id": "dsv-1", "kind": "version", "artifact": REF}
BASE = {"model": "m", "base_artifact": REF}
ROWS = TrainingData(rows=1000, mean=300.0, most=900, dense=0.0, basis="told")
SHAPE = llama_shape(128, 4, 2048)


def tune(**parameters: Any) -> FineTune:
    return FineTune.model_validate({"base": BASE, "training": DATA, "hyperparameters": parameters})


def pretrain(**parameters: Any) -> Pretrain:
    return Pretrain.model_validate({"name": "p", "data": DATA, "hyperparameters": parameters})


LORA = {"hyperparameters": {"method": "lora"}}
CPU = Machine("cpu", "CPU", 2)


def done(
    parameters: float, tokens: float, seconds: float, payload: Any = LORA, **changes: Any
) -> dict[str, Any]:
    """A job that was measured."""
    measured = {
        "device": "cpu",
        "parameters": parameters,
        "tokens_per_step": tokens,
        "seconds_per_step": seconds,
        "other_seconds": 20.0,
    }
    kind = changes.pop("kind", "training.fine_tune")
    return {"kind": kind, "payload": payload, "result": {"measured": {**measured, **changes}}}


def lasts(
    job: FineTune | Pretrain | TrainHead, earlier: Sequence[dict[str, Any]], machine: Machine = CPU
) -> Duration:
    plan = plan_of(job, SHAPE, ROWS)
    assert plan is not None
    return duration_of(plan, way_of_job(job), earlier_of(earlier, machine), machine)


def test_time_is_that_of_earlier_runs_by_work() -> None:
    plan = plan_of(tune(n_epochs=3, batch_size=16), SHAPE, ROWS)
    assert plan is not None
    assert plan.tokens is not None
    # Half the parameters in half the tokens a step: a step of ours is four times the work.
    found = lasts(tune(n_epochs=3, batch_size=16), [done(SHAPE.parameters / 2, 800, 0.1)])
    assert found.seconds == pytest.approx(20.0 + plan.tokens / 1600 * 0.4, rel=0.01)
    assert found.basis == "measured: 1 earlier job of this way and like shape on this pool"


def test_runs_of_another_way_tell_the_speed_of_the_machine() -> None:
    asked = tune(n_epochs=3, batch_size=16)
    plan = plan_of(asked, SHAPE, ROWS)
    assert plan is not None
    assert plan.steps is not None
    full = done(SHAPE.parameters, 1600, 0.6, {"hyperparameters": {"method": "full"}})
    found = lasts(asked, [full])
    # A step of all weights is 6 operations a parameter and token, one of an adapter 4.
    wanted = 20.0 + plan.steps * (0.4 + LEAST_STEP_S)
    assert found.seconds == pytest.approx(wanted, rel=0.02)
    assert found.basis == "measured: the speed of 1 earlier job of other ways on this pool"
    # The likest way goes before the likest shape.
    both = lasts(asked, [full, done(SHAPE.parameters * 2, 1600, 0.1)])
    assert both.basis.startswith("measured: 1 earlier job of this way")
    # What a frozen trunk's head learns from was computed once.
    head = done(
        SHAPE.parameters,
        1600,
        0.01,
        {"choice": {"head": "rank_pairwise", "method": "frozen"}},
        kind="training.head",
    )
    assert lasts(asked, [head]).basis.startswith("a guess")


@pytest.mark.parametrize(
    "unlike",
    [
        done(SHAPE.parameters * 100, 1600, 0.1),
        done(SHAPE.parameters, 16, 0.1),
        done(SHAPE.parameters, 1600, 0.1, device="cuda"),
        done(SHAPE.parameters, 1600, 0.1, seconds_per_step=None),
        {"kind": "training.fine_tune", "payload": LORA, "result": {"measured": None}},
        {"kind": "training.fine_tune", "payload": LORA, "result": {}},
    ],
)
def test_runs_of_another_kind_are_no_measure_and_a_guess_says_that_it_is_one(unlike: dict[str, Any]) -> None:
    found = lasts(tune(n_epochs=3, batch_size=16), [unlike])
    assert found.seconds is not None
    assert found.basis.startswith("a guess: ")


def test_a_gpu_of_another_name_is_no_measure() -> None:
    told = done(SHAPE.parameters, 1600, 0.1, device="cuda", device_name="A")
    bases = [lasts(tune(batch_size=16), [told], Machine("cuda", name, 1)).basis for name in "AB"]
    assert [basis.partition(":")[0] for basis in bases] == ["measured", "a guess"]


def test_a_guess_goes_by_the_cores_there_are() -> None:
    few, many = (lasts(pretrain(n_epochs=20), [], Machine("cpu", None, cores)).seconds for cores in (2, 8))
    assert few is not None
    assert many is not None
    assert 1.5 < few / many < 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tune(), tune(method="full")),
        (tune(), tune(quantization="nf4")),
        (tune(), tune(processes=2)),
        (pretrain(), Pretrain.model_validate({"name": "p", "data": DATA, "base": BASE})),
    ],
)
def test_what_makes_runs_differ_in_speed_makes_another_way(one: Any, other: Any) -> None:
    assert way_of_job(one) != way_of_job(other)
    assert way_of_job(one) == way_of_job(one.model_copy(update={"seed": 5}))


def test_what_is_only_read_costs_no_step() -> None:
    def job(method: str) -> TrainHead:
        choice = {"head": "single_label", "method": method}
        return TrainHead.model_validate({"name": "h", "choice": choice, "base": BASE, "training": DATA})

    frozen, full = (lasts(job(method), []).seconds for method in ("frozen", "full"))
    assert frozen is not None
    assert full is not None
    # Ten times the steps, of a last layer alone.
    assert frozen < full
    pairs = plan_of(TunePreferences.model_validate({"base": BASE, "training": DATA}), SHAPE, ROWS)
    assert pairs is not None
    assert pairs.reading == pytest.approx(pairs.operations / 2 / (pairs.epochs or 1), rel=0.1)


def test_a_budget_bounds_the_steps() -> None:
    found = lasts(tune(n_epochs=1000, batch_size=16, max_seconds=60), [done(SHAPE.parameters, 1600, 10.0)])
    assert (found.seconds, found.basis.endswith("cut to max_seconds")) == (80.0, True)
