"""How long a run is and how long it takes, before it begins: by arithmetic, and by measures of earlier runs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from services.gateway.training.data import TrainingData, of_file, of_version
from services.gateway.training.demands import plan_of
from services.gateway.training.places import Place
from shared.contracts.encoders import TrainEncoder
from shared.contracts.estimates import llama_shape, memory_of
from shared.contracts.heads import TrainHead
from shared.contracts.multi_task import TrainMultiTask
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


def test_steps_of_several_tasks_are_by_all_rows_and_the_smallest_file() -> None:
    tasks = [{"name": n, "head": "single_label", "training": DATA} for n in "ab"]
    job = TrainMultiTask.model_validate({"name": "m", "base": BASE, "method": "lora", "parts": tasks})
    parts = [replace(ROWS, rows=104), replace(ROWS, rows=312)]
    plan = plan_of(job, SHAPE, parts[0], parts)
    assert plan is not None
    assert (plan.batch_size, plan.epochs, plan.steps) == (13, 20, 640)
    unread = plan_of(job, SHAPE, parts[0], [parts[0], None])
    assert unread is not None
    assert (unread.steps, unread.tokens) == (None, None)


def test_an_encoder_has_a_plan_and_what_is_not_known_has_none() -> None:
    job = TrainEncoder.model_validate({"name": "e", "training": DATA})
    plan = plan_of(job, None, ROWS)
    assert plan is not None
    assert 1_500_000 < plan.demand.shape.parameters < 1_800_000
    assert plan_of(tune(), None, ROWS) is None
    unread = plan_of(tune(), SHAPE, None)
    assert unread is not None
    assert (unread.steps, unread.tokens) == (None, None)


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
