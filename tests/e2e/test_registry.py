"""From governed data to a promoted model on the real platform: lineage, evals, gate, promotion, roll-back, card."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.stage import Stage
from tests.harness import wait_for

pytestmark = pytest.mark.timeout(900)

ITEMS = [{"item": {"question": f"退款 {number}", "answer": "好", "language": "zh"}} for number in range(12)]


def run_eval(stage: Stage, eval_id: str, model: str) -> Any:
    """A run of the eval that has succeeded."""
    client = stage.openai()
    source: Any = {
        "type": "completions",
        "model": model,
        "source": {"type": "file_content", "content": ITEMS},
        "input_messages": {
            "type": "template",
            "template": [{"role": "user", "content": "{{item.question}}"}],
        },
        "sampling_params": {"max_completion_tokens": 4, "temperature": 0},
    }
    run = client.evals.runs.create(eval_id, data_source=source)
    wait_for(
        lambda: client.evals.runs.retrieve(run.id, eval_id=eval_id).status in ("completed", "failed"),
        240,
        "the run",
    )
    done = client.evals.runs.retrieve(run.id, eval_id=eval_id)
    assert done.status == "completed", done
    return done


def test_a_tuned_model_goes_into_production_by_its_gate_and_out_by_a_rollback(stage: Stage) -> None:
    client = stage.openai()
    schema = {"type": "object", "properties": {"question": {"type": "string"}, "answer": {"type": "string"}}}
    criterion: Any = {
        "type": "text_similarity",
        "name": "near",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
        "evaluation_metric": "fuzzy_match",
        "pass_threshold": 0.5,
    }
    made = client.evals.create(
        name="service",
        data_source_config={"type": "custom", "item_schema": schema, "include_sample_schema": True},
        testing_criteria=[criterion],
    )
    rules = {
        "eval_id": made.id,
        "min_items": 10,
        "margin": 1,
        "slice_margin": 1,
        "slices": [],
    }
    stage.post("/v1/registry", {"name": "release", "gates": rules})
    for number, model in enumerate((stage.base, stage.tuned), 1):
        stage.post("/v1/registry/release/versions", {"model": model})
        stage.post(f"/v1/registry/release/versions/{number}/stage")
        run_eval(stage, made.id, f"registry:release@{number}")
        promoted = stage.post(f"/v1/registry/release/versions/{number}/promote")
        assert promoted["production_version"] == number
        said = client.chat.completions.create(
            model="registry:release", messages=[{"role": "user", "content": "退款"}], max_tokens=4
        )
        assert said.model == f"registry:release@{number}"
    decision = stage.get("/v1/registry/release/decisions", version=2)["data"][0]
    told = stage.get(f"/v1/registry/release/decisions/{decision['id']}", replay="true")
    outcomes = {check["name"]: check["outcome"] for check in told["checks"]}
    # All that the gate asks of a trained model is there: parity, governed data, and pairs of answers.
    assert [outcomes[n] for n in ("parity", "data_gate", "leakage", "same_items", "quality")] == [
        "passed"
    ] * 5
    assert (told["replay"]["same"], told["replay"]["intact"]) == (True, True)

    lineage = stage.openai().models.retrieve(stage.tuned).model_dump()["info"]["lineage"]
    assert (lineage["dataset_version"], lineage["base"], lineage["seed"]) == (stage.version, stage.base, 7)
    assert lineage["hyperparameters"]["lora_r"] == 4
    assert {"torch", "transformers", "peft", "trl"} <= lineage["libraries"].keys()
    assert len(lineage["code"]["source"]) == 64
    assert (lineage["job_id"], lineage["trace_id"]) == (
        stage.tuning,
        stage.get(f"/v1/jobs/{stage.tuning}")["trace_id"],
    )

    card = stage.get("/v1/registry/release/versions/2/card")
    assert card["data"]["version"] == stage.version
    assert card["data"]["recipe"]["steps"]
    assert card["training"]["method"] == "training.fine_tune"
    assert {run["eval"] for run in card["evaluations"]} == {made.id}
    assert card["parity"]["passed"]

    assert stage.post("/v1/registry/release/rollback")["production_version"] == 1
    said = client.chat.completions.create(
        model="registry:release", messages=[{"role": "user", "content": "退款"}], max_tokens=4
    )
    assert said.model == "registry:release@1"


def test_rows_of_a_batch_say_which_version_answered(stage: Stage) -> None:
    stage.post("/v1/registry", {"name": "rows", "gates": {"data_gate": "where_known"}})
    stage.post("/v1/registry/rows/versions", {"model": stage.tuned})
    stage.post("/v1/registry/rows/versions/1/stage")
    stage.post("/v1/registry/rows/versions/1/promote")
    body = {"messages": [{"role": "user", "content": "退款"}], "max_tokens": 2}
    file = stage.batch_file(
        [("a", {"model": "registry:rows", **body}), ("b", {"model": "registry:rows@1", **body})]
    )
    client = stage.openai()
    made = client.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h")
    wait_for(lambda: client.batches.retrieve(made.id).status in ("completed", "failed"), 240, "the batch")
    batch = client.batches.retrieve(made.id)
    assert batch.status == "completed", batch.errors
    assert batch.output_file_id is not None
    lines = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert {line["response"]["body"]["model"] for line in lines} == {"registry:rows@1"}
    wait_for(lambda: len(stage.usage_rows(f"{made.id}:")) == 2, 30, "the ledger")
    for row in stage.usage_rows(f"{made.id}:"):
        assert (row["model"], row["metadata"]) == (stage.tuned, {"registry": "rows", "registry_version": 1})
