"""How long a run is and how long it takes, before it begins: by arithmetic, and by measures of earlier runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from services.gateway.training.data import TrainingData, of_file, of_version
from services.gateway.training.demands import plan_of
from services.gateway.training.places import Place
from services.gateway.training.speeds import (
    LEAST_STEP_S,
    Duration,
    Machine,
    duration_of,
    earlier_of,
    way_of_job,
)
from shared.contracts.encoders import TrainEncoder
from shared.contracts.estimates import llama_shape, memory_of
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


def test_steps_are_rows_times_epochs_over_the_batch() -> None:
    plan = plan_of(tune(n_epochs=3, batch_size=16), SHAPE, ROWS)
    assert plan is not None
    assert (plan.steps, plan.epochs, plan.tokens) == (188, 3, 300_000)
    short = plan_of(tune(n_epochs=3, batch_size=16, max_steps=10), SHAPE, ROWS)
    assert short is not None
    assert (short.steps, short.tokens) == (10, 16_000)


def test_the_shape_of_a_base_from_scratch_comes_from_what_is_asked_for() -> None:
    small, wide = plan_of(pretrain(), None, ROWS), plan_of(pretrain(hidden_size=512, layers=8), None, ROWS)
    assert small is not None
    assert wide is not None
    assert small.demand.shape == SHAPE
    assert small.demand.trainable == SHAPE.parameters
    assert wide.demand.shape.parameters > 15 * SHAPE.parameters
    assert small.demand.rows * small.demand.length <= 4096


def test_an_adapter_trains_little_and_all_weights_train_all() -> None:
    lora, full = plan_of(tune(lora_r=8), SHAPE, ROWS), plan_of(tune(method="full"), SHAPE, ROWS)
    assert lora is not None
    assert full is not None
    assert lora.demand.trainable < SHAPE.parameters / 5
    assert full.demand.trainable == SHAPE.parameters


@pytest.mark.parametrize("method", ["full", "lora", "frozen", "lstm"])
def test_every_method_of_a_head_has_a_plan(method: str) -> None:
    job = TrainHead.model_validate(
        {
            "name": "h",
            "choice": {"head": "single_label", "method": method},
            "base": None if method == "lstm" else BASE,
            "training": DATA,
        }
    )
    plan = plan_of(job, None if method == "lstm" else SHAPE, ROWS)
    assert plan is not None
    assert (plan.batch_size, plan.demand.trainable > 0) == (32, True)
    assert plan.steps == {"full": 625, "lora": 625, "lstm": 1875, "frozen": 6250}[method]


def test_an_encoder_has_a_plan_and_what_is_not_known_has_none() -> None:
    job = TrainEncoder.model_validate({"name": "e", "training": DATA})
    plan = plan_of(job, None, ROWS)
    assert plan is not None
    assert 1_500_000 < plan.demand.shape.parameters < 1_800_000
    assert plan_of(tune(), None, ROWS) is None
    unread = plan_of(tune(), SHAPE, None)
    assert unread is not None
    assert (unread.steps, unread.tokens) == (None, None)


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


def line(text: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False).encode() + b"\n"


def test_a_file_is_known_by_its_first_rows() -> None:
    content = line("x" * 96) * 50
    whole = of_file(content, len(content))
    assert whole is not None
    assert (whole.rows, whole.mean, whole.most, whole.dense) == (50, 100.0, 100, 0.0)
    part = of_file(content[:1000], len(content))
    assert part is not None
    assert (part.rows, part.mean) == (50, 100.0)
    assert of_file(b'{"messages": [', 10_000) is None
    assert of_file(b"\xff\xfe\n\n", 4) is None


def test_labelled_rows_are_known_by_their_texts_alone() -> None:
    row = json.dumps({"text": "x" * 40, "label": "y" * 60}).encode() + b"\n"
    told = [of_file(row * 9, len(row) * 9, labelled=labelled) for labelled in (False, True)]
    assert [one.mean for one in told if one is not None] == [100.0, 40.0]


def test_chinese_takes_more_tokens_than_latin_script() -> None:
    chinese = of_file(line("退" * 400), len(line("退" * 400)))
    assert chinese is not None
    assert chinese.dense > 0.9
    assert chinese.tokens_a_row(2048) > 2.5 * ROWS.tokens_a_row(2048) * 404 / 300
    assert chinese.tokens_a_row(150_000) < chinese.tokens_a_row(2048)


def test_a_version_is_known_by_its_report() -> None:
    report = {
        "chars": {"mean": 20.5, "max": 90},
        "scripts": {"chinese": 0.5, "mixed": 0.2, "latin": 0.3},
    }
    found = of_version({"report": report, "train_rows": 70})
    assert found is not None
    assert (found.rows, found.mean, found.most, found.dense) == (70, 20.5, 90, pytest.approx(0.6))
    assert of_version({"report": {"rows_in": 4}, "train_rows": 2}) is None


@pytest.mark.parametrize(
    ("processes", "room"), [("auto", 4 * 80), (1, 80), (2, 160), (64, 4 * 80), (None, 80)]
)
def test_a_run_has_a_gpu_for_each_of_its_processes(processes: Any, room: int) -> None:
    place = Place.of(
        "w", {"device": "cuda", "device_name": "GPU", "devices": 4, "memory_bytes": 4 * 80 * 2**30}
    )
    job = pretrain() if processes is None else tune(processes=processes)
    assert place.room(job) == room * 2**30


def test_a_processor_s_memory_is_that_of_the_whole_run_and_may_be_unknown() -> None:
    assert Place.of("w", {"device": "cpu", "devices": 8, "memory_bytes": 100}).room(tune(processes=2)) == 100
    assert Place.of("w", {}).room(tune()) is None


def test_a_quantized_base_takes_less() -> None:
    plain, small = (plan_of(tune(quantization=name), SHAPE, ROWS) for name in ("none", "nf4"))
    assert plain is not None
    assert small is not None
    weights = [memory_of(p.demand, "cuda", 1, recompute=False).weights for p in (plain, small)]
    assert weights[1] < weights[0] / 3


def test_a_pair_is_two_sequences_that_share_their_question() -> None:
    job = TunePreferences.model_validate(
        {"base": BASE, "training": DATA, "hyperparameters": {"batch_size": 4}}
    )
    pairs, single = plan_of(job, SHAPE, ROWS), plan_of(tune(batch_size=4), SHAPE, ROWS)
    assert pairs is not None
    assert single is not None
    assert (pairs.demand.rows, pairs.demand.least_rows) == (8, 2)
    assert pairs.demand.length == pytest.approx(single.demand.length * 2 / 3, abs=1)
    assert pairs.tokens is not None
    assert single.tokens is not None
    assert pairs.tokens / pairs.steps == pytest.approx(single.tokens / single.steps * 4 / 3, rel=0.01)  # type: ignore[operator]
