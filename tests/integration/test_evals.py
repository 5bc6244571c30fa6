"""`client.evals` of the unmodified openai client against real gateway, queue, training and inference workers.

The model that answers and judges is a server of the test's own that says again what it was asked last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from shared.artifacts import ArtifactStore
from tests import servers
from tests.harness import Harness, platform, wait_for
from tests.local_upstream import MODEL, LocalUpstream, local_upstream
from tests.unit.inference.tiny_encoders import save_encoder

KEY = "sk-of-the-far-server"
ITEM = {
    "type": "object",
    "properties": {
        "question": {"type": "string"},
        "answer": {"type": "string"},
        "topic": {"type": "string"},
    },
    "required": ["question", "answer"],
}
EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}


class Stage:
    """A platform with the model `far`, which echoes, and the encoder `encoder`."""

    def __init__(self, harness: Harness, upstream: LocalUpstream, folder: Path) -> None:
        self.harness, self.upstream = harness, upstream
        self.url = harness.start_gateway()
        harness.start("dispatcher")
        self.client = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=harness.key(), timeout=60, max_retries=0
        )
        self.operator = httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {harness.key('operator')}"}, timeout=60
        )
        added = self.operator.post(
            "/v1/upstreams",
            json={"name": "far", "url": upstream.url, "model": MODEL, "api_key": KEY, "endpoints": ["chat"]},
        )
        assert added.status_code == 200, added.text
        artifact = ArtifactStore(harness.settings.artifact_folder).put_tree(save_encoder(folder / "encoder"))
        with harness.db.transaction(harness.tenant) as c:
            c.execute(
                "INSERT INTO training.model (tenant_id, id, kind, artifact) VALUES (%s, 'encoder', 'encoder', %s)",
                (harness.tenant, artifact),
            )
        harness.start("inference")
        self.training = harness.start("training")

    def ended(self, eval_id: str, run_id: str) -> Any:
        """The run once it has ended."""
        self.harness.wait_job(run_id)
        return self.client.evals.runs.retrieve(run_id, eval_id=eval_id)


@pytest.fixture(scope="module")
def stage(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    database = servers.new_database(postgres.url, "test_evals", template="heliu_template")
    settings = {"HELIU_UPSTREAM_HOSTS": "127.0.0.1", "HELIU_EVAL_PYTHON": "on"}
    with local_upstream(key=KEY) as upstream, platform(database, valkey.url, **settings) as harness:
        yield Stage(harness, upstream, tmp_path_factory.mktemp("models"))
    servers.drop_database(postgres.url, "test_evals")


def config(schema: dict[str, Any] = ITEM, sample: bool = True) -> Any:
    return {"type": "custom", "item_schema": schema, "include_sample_schema": sample}


def completions(source: Any, **more: Any) -> Any:
    template = [{"role": "user", "content": "{{item.question}}"}]
    return {
        "type": "completions",
        "model": "far",
        "source": source,
        "input_messages": {"type": "template", "template": template},
        **more,
    }


def test_a_run_samples_grades_and_tells_each_item(stage: Stage, tmp_path: Path) -> None:
    client = stage.client
    judge = {
        "type": "label_model",
        "name": "judge",
        "model": "far",
        "input": [{"role": "user", "content": '{"label": "{{item.topic}}"}'}],
        "labels": ["good", "bad"],
        "passing_labels": ["good"],
    }
    near = {
        "type": "text_similarity",
        "name": "near",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
        "evaluation_metric": "cosine",
        "pass_threshold": 0.9,
    }
    python = {
        "type": "python",
        "name": "short",
        "source": "def grade(sample, item):\n    return float(len(sample['output_text']) < 20)",
        "pass_threshold": 0.5,
    }
    made = client.evals.create(
        name="echo",
        data_source_config=config(),
        testing_criteria=[EXACT, judge, near, python],  # type: ignore[list-item]
        metadata={"team": "qa"},
        extra_body={
            "metrics": [
                {"type": "classification", "label": "{{item.answer}}"},
                {"type": "chrf", "reference": "{{item.answer}}"},
            ],
            "slices": ["topic"],
        },
    )
    assert (made.object, made.name, made.metadata) == ("eval", "echo", {"team": "qa"})
    rows = [
        {"question": "red", "answer": "red", "topic": "good"},
        {"question": "blue", "answer": "green", "topic": "good"},
        {"question": "红色", "answer": "红色", "topic": "bad"},
        {"question": "400 top_k", "answer": "x", "topic": "good"},
        {"question": "same", "answer": "same", "topic": "no label"},
    ]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps({"item": row}, ensure_ascii=False) + "\n" for row in rows))
    file = client.files.create(file=path.open("rb"), purpose="evals")
    run = client.evals.runs.create(
        made.id, name="first", data_source=completions({"type": "file_id", "id": file.id})
    )
    assert run.status in ("queued", "in_progress")
    run = stage.ended(made.id, run.id)
    assert (run.status, run.error) == ("completed", None)
    counts = run.result_counts
    assert (counts.total, counts.passed, counts.failed, counts.errored) == (5, 1, 2, 2)
    by_name = {one.testing_criteria: one for one in run.per_testing_criteria_results}
    assert (by_name["exact"].passed, by_name["judge"].passed) == (3, 2)
    (usage,) = run.per_model_usage
    assert usage.run_model_name == "far"
    assert usage.invocation_count == 4 + 4
    items = list(client.evals.runs.output_items.list(run.id, eval_id=made.id, limit=2))
    assert [item.datasource_item_id for item in items] == [0, 1, 2, 3, 4]
    assert [item.status for item in items] == ["pass", "fail", "fail", "error", "error"]
    assert items[0].sample.output[0].content == "red"
    assert items[0].sample.input[0].content == "red"
    assert items[2].datasource_item["question"] == "红色"
    assert items[3].sample.error.code
    judged = next(result for result in items[4].results if result.name == "judge")
    assert (judged.passed, judged.model_extra["error"]["code"]) == (False, "judge_unparsable")  # type: ignore[index]
    one = client.evals.runs.output_items.retrieve(items[1].id, eval_id=made.id, run_id=run.id)
    assert one.to_dict() == items[1].to_dict()
    passed = client.evals.runs.output_items.list(run.id, eval_id=made.id, status="pass")
    assert [item.datasource_item_id for item in passed] == [0]
    failed = client.evals.runs.output_items.list(run.id, eval_id=made.id, status="fail", order="desc")
    assert [item.datasource_item_id for item in failed] == [4, 3, 2, 1]
    extra = run.model_extra
    assert extra["slices"]["topic"]["good"]["n"] == 3
    assert extra["slices"]["language"]["chinese"]["n"] == 1
    classified, chrf = extra["metrics"]
    assert classified["figures"]["accuracy"]["value"] == 0.75
    assert (chrf["n"], sum(chrf["skipped"].values())) == (4, 1)
    # Nothing of the run's own batches is left in the tenant's lists.
    assert [entry.id for entry in client.files.list()] == [file.id]
    assert list(client.batches.list()) == []
    assert httpx.get(run.report_url, headers={"authorization": f"Bearer {client.api_key}"}).status_code == 200
