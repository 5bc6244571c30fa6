"""A classifier and a ranker trained on governed and uploaded rows by the running platform, and served at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stage import Stage
from tests.unit.training.head_samples import dialogues, write

pytestmark = pytest.mark.timeout(900)

LSTM = {"embedding_size": 32, "hidden_size": 32, "vocab_size": 800, "n_epochs": 12, "checkpoint_every": 40}


def test_a_classifier_of_governed_rows_is_served_when_its_job_has_ended(stage: Stage) -> None:
    lines = [
        json.dumps({"text": row["question"], "category": row["intent"]}, ensure_ascii=False)
        for row in dialogues(each=16)
    ]
    version = stage.govern("questions", "\n".join(lines).encode())["result"]["version_id"]
    asked = {
        "type": "head",
        "name": "intents",
        "head": "single_label",
        "method": "lstm",
        "training_file": version,
        "loss": "label_smoothing",
        "hyperparameters": LSTM,
    }
    job = stage.succeeded(stage.post("/v1/training/jobs", asked)["id"])
    result = job["result"]
    assert (result["model"], result["kind"], len(result["labels"])) == ("intents", "classifier", 4)
    assert result["held_out"]["accuracy"] > result["baseline"]["accuracy"]
    events = stage.events(job["id"])
    metrics = [event["data"] for event in events if event["type"] == "metrics"]
    assert metrics[-1]["step"] == result["steps"]
    assert any("valid_accuracy" in one for one in metrics)
    assert any("checkpoint at step 40" in event["message"] for event in events)
    question = dialogues(each=1)[0]
    with stage.openai() as client:
        answer: Any = client.post(
            "/classifications",
            body={"model": "intents", "input": [question["question"], "x"], "top_k": 2},
            cast_to=object,
        )
        shown = client.models.retrieve("intents").to_dict()
    assert [len(row["predictions"]) for row in answer["data"]] == [2, 2]
    assert {one["label"] for row in answer["data"] for one in row["predictions"]} <= set(result["labels"])
    assert shown["info"]["held_out"] == result["held_out"]  # type: ignore[index]
    listed = stage.get("/v1/training/jobs")["data"]
    assert listed[0]["id"] == stage.get(f"/v1/training/jobs/{job['id']}")["id"] == job["id"]


@pytest.mark.long
def test_a_ranker_stands_on_a_base_and_an_adapter(stage: Stage, tmp_path: Path) -> None:
    data = write(tmp_path, "rank_pairwise", dialogues(each=4))
    file = stage.upload("pairs.jsonl", data.read_bytes(), "fine-tune")
    for name, model, method in (("order", stage.base, "lora"), ("order-2", stage.tuned, "frozen")):
        asked = {
            "type": "head",
            "name": name,
            "head": "rank_pairwise",
            "method": method,
            "model": model,
            "training_file": file,
            "hyperparameters": {"max_steps": 4},
        }
        result = stage.succeeded(stage.post("/v1/training/jobs", asked)["id"])["result"]
        assert result["kind"] == "ranker"
        assert {"ndcg", "mrr", "pair_accuracy"} <= result["held_out"].keys()
        body = {"model": name, "query": "退款多久", "documents": ["三天", "no"]}
        ranked = stage.post("/v1/rerank", body)["results"]
        assert sorted(row["index"] for row in ranked) == [0, 1]
        assert all(0 <= row["relevance_score"] <= 1 for row in ranked)


def refused(stage: Stage, **changes: Any) -> dict[str, Any]:
    asked = {
        "type": "head",
        "name": "never",
        "head": "single_label",
        "method": "lstm",
        "training_file": stage.version,
    }
    with stage.http() as http:
        answer = http.post("/v1/training/jobs", json=asked | changes)
    assert answer.status_code in (400, 404, 409), answer.text
    return dict(answer.json()["error"])


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"loss": "hinge"}, "invalid_value", "loss"),
        ({"method": "full"}, "missing_required_parameter", "model"),
        ({"method": "full", "model": "nobody"}, "model_not_found", "model"),
        ({"model": "base"}, "invalid_value", "model"),
        ({"hyperparameters": {"lora_r": 4}}, "invalid_value", "hyperparameters.lora_r"),
        ({"hyperparameters": {"epochs": 4}}, "unknown_parameter", "hyperparameters.epochs"),
        ({"head": "poetry"}, "invalid_value", "head"),
        ({"training_file": "file-0"}, "not_found", "training_file"),
        ({"name": "base"}, "model_exists", "name"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_worker_is_taken(
    stage: Stage, changes: dict[str, Any], code: str, param: str
) -> None:
    error = refused(stage, **changes)
    assert (error["code"], error["param"]) == (code, param), error


def test_rows_of_one_label_are_refused_with_the_reason_before_a_worker_is_taken(stage: Stage) -> None:
    content = "\n".join(json.dumps({"text": f"t {i}", "label": "only"}) for i in range(20)).encode()
    file = stage.upload("one.jsonl", content, "fine-tune")
    error = refused(stage, training_file=file)
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    assert "one label only, 'only'" in error["message"]
