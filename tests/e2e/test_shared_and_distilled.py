"""Tasks that share a trunk, and a student of a served model, by the running platform: trained, served, led back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.artifacts import ArtifactStore
from tests.e2e.stage import SEED, TUNING, Stage
from tests.unit.training.head_samples import dialogues, write

pytestmark = [pytest.mark.timeout(1200), pytest.mark.long]


def test_tasks_on_one_trunk_are_models_of_their_own_that_share_its_bytes(
    stage: Stage, tmp_path: Path
) -> None:
    rows = dialogues(each=6)
    tasks = [
        {
            "name": name,
            "head": head,
            "training_file": stage.upload(
                f"{head}.jsonl", write(tmp_path, head, rows).read_bytes(), "fine-tune"
            ),
        }
        for name, head in (("intent", "single_label"), ("answer", "rank_pairwise"))
    ]
    asked = {"type": "multi_task", "name": "desk", "model": stage.base, "method": "lora", "tasks": tasks}
    job = stage.post(
        "/v1/training/jobs", {**asked, "hyperparameters": {"max_steps": 8, "checkpoint_every": 4}}
    )
    result = stage.succeeded(job["id"])["result"]
    assert result["models"] == {"intent": "desk.intent", "answer": "desk.answer"}
    store = ArtifactStore(stage.harness.settings.artifact_folder)
    trees = [set(store.parts_of(tree)) for tree in result["artifacts"].values()]
    assert len(trees[0] & trees[1]) >= 3, "the trunk's weights, configuration and tokenizer"
    labelled = stage.post("/v1/classifications", {"model": "desk.intent", "input": ["退款多久"]})
    assert labelled["data"][0]["predictions"]
    ranked = stage.post(
        "/v1/rerank", {"model": "desk.answer", "query": "退款多久", "documents": ["三天", "no"]}
    )
    assert len(ranked["results"]) == 2
    shown = stage.get("/v1/models/desk.intent")
    assert (shown["kind"], shown["base"]) == ("classifier", stage.base)
    assert shown["info"]["shares_trunk_with"] == ["desk.answer"]
    assert shown["info"]["parity"]["passed"]
    graph = stage.get("/v1/lineage/desk.intent", direction="upstream")
    assert tasks[0]["training_file"] in {node["id"] for node in graph["nodes"]}


def test_a_student_comes_nearer_to_the_model_that_taught_it(stage: Stage) -> None:
    # A base of this size has no answers of its own: its teacher has learned to say one short thing.
    rows = [
        {
            "messages": [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": "好的 okay"},
            ]
        }
        for row in dialogues(each=12)
    ]
    file = stage.upload("short.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode(), "fine-tune")
    taught = {"model": stage.base, "training_file": file, "suffix": "teacher", "seed": SEED}
    parameters = {**TUNING, "log_every": 32, "checkpoint_every": 32}
    method = {"type": "supervised", "supervised": {"hyperparameters": parameters}}
    began = stage.post("/v1/fine_tuning/jobs", {**taught, "method": method})
    teacher = stage.succeeded(began["id"])["result"]["fine_tuned_model"]
    asked = {
        "type": "distill",
        "teacher": teacher,
        "model": stage.base,
        "training_file": stage.version,
        "max_prompts": 64,
        "held_out_rows": 12,
        "generation": {"max_tokens": 32},
        "hyperparameters": parameters,
    }
    job = stage.post("/v1/training/jobs", asked)
    result = stage.succeeded(job["id"])["result"]
    held_out = result["held_out"]
    assert held_out["teacher"]["agreement"] == 1.0
    assert held_out["student"]["agreement"] > held_out["base"]["agreement"] + 0.3, held_out
    answers = result["answers"]
    assert answers["kept"] + sum(answers["dropped"].values()) == answers["asked"] == 64
    shown = stage.get(f"/v1/models/{result['model']}")
    assert shown["info"]["distillation"]["held_out"] == held_out
    said = [event["message"] for event in stage.events(job["id"])]
    assert any(message.startswith(f"asking {teacher}") for message in said)
    # From the student back to its file, the job that made it, and the teacher that it asked.
    graph = stage.get(f"/v1/lineage/{result['model']}", direction="upstream", depth=4)
    found = {node["id"] for node in graph["nodes"]}
    assert {result["training_file"], job["id"], teacher, stage.version} <= found
