"""`client.evals` of the unmodified openai client against real gateway, queue, training and inference workers.

The model that answers and judges is a server of the test's own that says again what it was asked last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from services.cli.main import app
from shared.artifacts import ArtifactStore
from shared.errors import HeliuError
from shared.webhooks import sign
from tests import servers
from tests.harness import Harness, platform, wait_for
from tests.integration.eval_bodies import EXACT, completions, config, given
from tests.local_upstream import MODEL, LocalUpstream, local_upstream
from tests.unit.inference.tiny_encoders import save_encoder
from tests.unit.inference.tiny_heads import save_head
from tests.unit.inference.tiny_models import save_model

SCRIPT = Path(__file__).with_name("evals_client.py")
CLIENTS = Path(sys.prefix) / "clients"
KEY = "sk-of-the-far-server"
LABELS = ("退款", "delivery", "card")
ADD_MODEL = "INSERT INTO training.model (tenant_id, id, kind, artifact) VALUES (%s, %s, %s, %s)"
ADD_VERSION = """
INSERT INTO data_governance.version (tenant_id, id, dataset_id, job_id, artifact, rows, train_rows, validation_rows,
    gate_passed, gate, report) VALUES (%s, %s, 'ds-evals', 'dsjob-1', %s, 3, 1, 2, true, '{}', '{}')"""


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
        self.store = ArtifactStore(harness.settings.artifact_folder)
        for kind, saved in (
            ("encoder", save_encoder(folder / "encoder")),
            ("classifier", save_head(folder / "classifier", labels=LABELS)),
            ("ranker", save_head(folder / "ranker")),
            ("base", save_model(folder / "base")),
        ):
            with harness.db.transaction(harness.tenant) as c:
                c.execute(ADD_MODEL, (harness.tenant, kind, kind, self.store.put_tree(saved)))
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


def test_evals_and_runs_are_listed_renamed_and_deleted(stage: Stage) -> None:
    client = stage.client
    made = [
        client.evals.create(data_source_config=config(), testing_criteria=[EXACT], name=f"list {n}")  # type: ignore[list-item]
        for n in range(3)
    ]
    newest = [one.id for one in client.evals.list(limit=2, order="desc")]
    assert newest[:3] == [one.id for one in reversed(made)]
    changed = client.evals.update(made[0].id, name="renamed", metadata={"a": "b"})
    assert (changed.name, changed.metadata) == ("renamed", {"a": "b"})
    assert next(iter(client.evals.list(limit=1, order="desc", order_by="updated_at"))).id == made[0].id
    assert client.evals.retrieve(made[0].id).data_source_config.to_dict()["schema"]["required"] == [
        "item",
        "sample",
    ]
    source = given({"question": "a", "answer": "a"}, {"question": "a", "answer": "b"}, samples=["a", "a"])
    runs = [
        client.evals.runs.create(made[0].id, data_source={"type": "jsonl", "source": source}, name=name)
        for name in ("one", "two")
    ]
    ended = [stage.ended(made[0].id, run.id) for run in runs]
    assert [(run.status, run.model, run.result_counts.passed) for run in ended] == [("completed", "", 1)] * 2
    assert [run.id for run in client.evals.runs.list(made[0].id, limit=1)] == [run.id for run in runs]
    assert list(client.evals.runs.list(made[0].id, status="failed")) == []
    with pytest.raises(openai.NotFoundError, match="no run"):
        client.evals.runs.retrieve(runs[0].id, eval_id=made[1].id)
    gone = client.evals.runs.delete(runs[0].id, eval_id=made[0].id)
    assert (gone.deleted, gone.run_id) == (True, runs[0].id)
    assert [run.id for run in client.evals.runs.list(made[0].id)] == [runs[1].id]
    with stage.harness.db.transaction(stage.harness.tenant) as c:
        (left,) = c.execute("SELECT count(*) AS n FROM training.eval_item WHERE run_id = %s", (runs[0].id,))
    assert left["n"] == 0
    deleted = client.evals.delete(made[0].id)
    assert (deleted.deleted, deleted.eval_id) == (True, made[0].id)
    with pytest.raises(openai.NotFoundError):
        client.evals.retrieve(made[0].id)


def test_another_tenant_sees_none_of_it(stage: Stage) -> None:
    made = stage.client.evals.create(data_source_config=config(), testing_criteria=[EXACT])  # type: ignore[list-item]
    tenant = stage.operator.post("/v1/tenants", json={"name": "rival"})
    assert tenant.status_code == 200, tenant.text
    key = stage.operator.post("/v1/keys", json={"name": "rival", "tenant": "rival"}).json()["key"]
    rival = openai.OpenAI(base_url=f"{stage.url}/v1", api_key=key, max_retries=0)
    assert list(rival.evals.list()) == []
    with pytest.raises(openai.NotFoundError):
        rival.evals.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        rival.evals.runs.create(made.id, data_source={"type": "jsonl", "source": given({"question": "a"})})


def test_a_run_that_waits_is_cancelled_with_its_batch(stage: Stage) -> None:
    client = stage.client
    made = client.evals.create(data_source_config=config(), testing_criteria=[EXACT])  # type: ignore[list-item]
    stage.upstream.hold.clear()
    try:
        run = client.evals.runs.create(
            made.id, data_source=completions(given({"question": "held", "answer": "held"}))
        )
        wait_for(lambda: "sampled" in stage.harness.job(run.id).progress, 60, "the batch to be handed out")
        with pytest.raises(openai.ConflictError, match="cancel it first"):
            client.evals.delete(made.id)
        client.evals.runs.cancel(run.id, eval_id=made.id)
    finally:
        stage.upstream.hold.set()
    assert stage.ended(made.id, run.id).status == "canceled"
    with stage.harness.db.core() as c:
        (part,) = c.execute("SELECT id FROM core.job WHERE parent_id = %s", (run.id,)).fetchall()
    assert stage.harness.wait_job(part["id"]).state.value == "cancelled"


def test_webhooks_of_runs_are_as_the_client_unwraps_them(stage: Stage) -> None:
    client = stage.client
    secret = stage.operator.post(
        "/v1/webhooks",
        json={"url": "https://example.com/hook", "events": ["eval.run.succeeded", "eval.run.failed"]},
    )
    made = stage.operator.post(
        "/v1/evals",
        json={"data_source_config": config(sample=False), "testing_criteria": [{**EXACT, "input": "a"}]},
    ).json()
    source = {"type": "jsonl", "source": given({"question": "a", "answer": "a"})}
    run = stage.operator.post(f"/v1/evals/{made['id']}/runs", json={"data_source": source}).json()
    stage.harness.wait_job(run["id"])
    with stage.harness.db.core() as c:
        (sent,) = c.execute(
            "SELECT d.id, d.body FROM core.webhook_delivery d JOIN core.webhook_endpoint e ON e.id = d.endpoint_id "
            "WHERE d.body LIKE %s",
            (f"%{run['id']}%",),
        ).fetchall()
    key, now = secret.json()["secret"], int(time.time())
    headers = {
        "webhook-id": sent["id"],
        "webhook-timestamp": str(now),
        "webhook-signature": sign(key, sent["id"], now, sent["body"]),
    }
    event = client.webhooks.unwrap(sent["body"], headers, secret=key)
    assert (event.type, event.data.id) == ("eval.run.succeeded", run["id"])


def test_rows_of_a_version_are_answered_by_messages_that_stand_in_them(stage: Stage, tmp_path: Path) -> None:
    client = stage.client
    rows = [
        {
            "_row_id": f"{n}",
            "messages": [{"role": "user", "content": f"say {n}"}],
            "label": f"say {n}",
            "split": split,
        }
        for n, split in enumerate(("train", "validation", "validation"))
    ]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "part-0.parquet")
    (tmp_path / "manifest.json").write_text('{"gate": {"passed": true, "reasons": []}}')
    tenant, version = stage.harness.tenant, "dsv-" + "1" * 32
    with stage.harness.db.transaction(tenant) as c:
        c.execute(
            "INSERT INTO data_governance.dataset (id, tenant_id, name) VALUES ('ds-evals', %s, 'held')",
            (tenant,),
        )
        c.execute(ADD_VERSION, (tenant, version, stage.store.put_tree(tmp_path)))
    schema = {"type": "object", "properties": {"messages": {"type": "array"}, "label": {"type": "string"}}}
    made = client.evals.create(
        data_source_config=config(schema),
        testing_criteria=[{**EXACT, "reference": "{{item.label}}"}],  # type: ignore[list-item]
    )
    run = client.evals.runs.create(
        made.id,
        data_source={  # type: ignore[arg-type]
            "type": "responses",
            "model": "far",
            "source": {"type": "dataset_version", "id": version},
            "input_messages": {"type": "item_reference", "item_reference": "item.messages"},
            "sampling_params": {"temperature": 0, "max_completion_tokens": 16},
        },
    )
    run = stage.ended(made.id, run.id)
    assert (run.status, run.result_counts.total, run.result_counts.passed) == ("completed", 2, 2)
    slices = run.model_extra["slices"]["label"]
    assert sorted(slices) == ["say 1", "say 2"]


def test_heads_are_measured_as_classifiers_and_rankers(stage: Stage) -> None:
    """Random heads: that figures come out of their answers counts here, and not how good they are."""

    def post(path: str, body: dict[str, Any]) -> Any:
        return stage.client.post(path, body=body, cast_to=object)

    labelled = post(
        "/evals",
        {
            "data_source_config": config({"type": "object", "properties": {"text": {}, "label": {}}}),
            "testing_criteria": [{**EXACT, "reference": "{{item.label}}"}],
            "metrics": [{"type": "classification", "label": "{{item.label}}"}],
        },
    )
    items = [{"text": f"第 {n} 行 line {'x ' * n}", "label": LABELS[n % 3]} for n in range(9)]
    source = {"type": "classifications", "model": "classifier", "source": given(*items)}
    classified = post(f"/evals/{labelled['id']}/runs", {"data_source": source})
    ranked = post(
        "/evals",
        {
            "data_source_config": config(
                {"type": "object", "properties": {"query": {}, "documents": {}, "relevance": {}}}
            ),
            "testing_criteria": [{**EXACT, "input": "{{sample.output_json[0].index}}", "reference": "0"}],
            "metrics": [{"type": "ranking", "relevance": "item.relevance", "k": 2}],
        },
    )
    items = [
        {"query": "退款", "documents": ["a", "退款三天", "card"], "relevance": [0, 2, 1]},
        {"query": "card", "documents": ["a", "b"], "relevance": [1, 0]},
        {"query": "nothing", "documents": ["a", "b"], "relevance": [0, 0]},
    ]
    source = {"type": "rerank", "model": "ranker", "source": given(*items)}
    ordered = post(f"/evals/{ranked['id']}/runs", {"data_source": source})
    told = stage.ended(labelled["id"], classified["id"]).model_extra["metrics"][0]["figures"]
    assert set(told) >= {"accuracy", "macro_f1", "mcc", "auroc", "ece", "recall[退款]"}
    run = stage.ended(labelled["id"], classified["id"])
    assert told["accuracy"]["value"] == run.result_counts.passed / 9
    (metric,) = stage.ended(ranked["id"], ordered["id"]).model_extra["metrics"]
    assert set(metric["figures"]) == {"ndcg@2", "recall@2", "mrr"}
    assert (metric["n"], metric["skipped"]) == (2, {"nothing_relevant": 1})


def test_two_runs_are_compared_on_the_items_that_both_have(stage: Stage) -> None:
    client = stage.client
    made = client.evals.create(
        data_source_config=config(),
        testing_criteria=[EXACT],  # type: ignore[list-item]
        extra_body={"slices": ["topic"]},
    )
    items = [{"question": f"{n}", "answer": "right", "topic": "ab"[n % 2]} for n in range(60)]
    answers = {
        "worse": ["right" if n % 3 == 0 else "wrong" for n in range(60)],
        "better": ["right" if n % 3 != 1 else "wrong" for n in range(60)],
    }
    runs = {
        name: client.evals.runs.create(
            made.id, data_source={"type": "jsonl", "source": given(*items[:count], samples=said)}
        )
        for (name, said), count in zip(answers.items(), (60, 59), strict=True)
    }
    for run in runs.values():
        assert stage.ended(made.id, run.id).status == "completed"

    def compare(*names: str, **more: Any) -> Any:
        query = {"run": [runs[name].id for name in names], **more}
        return stage.operator.get(f"/v1/evals/{made.id}/compare", params=query)

    told = compare("worse", "better").json()
    assert told["items"] == {"paired": 59, "only_in_a": 1, "only_in_b": 0}
    assert told["verdict"] == "better"
    assert told["score"]["difference"] == pytest.approx(19 / 59)
    assert 0 < told["score"]["low"] < 19 / 59 < told["score"]["high"]
    assert (told["passed"]["a_only"], told["passed"]["b_only"]) == (0, 19)
    assert told["passed"]["mcnemar_p_value"] == pytest.approx(2 / 2**19)
    assert told["slices"]["topic"]["a"]["n"] + told["slices"]["topic"]["b"]["n"] == 59
    assert told["slices"]["topic"]["b"]["verdict"] == "inconclusive"
    assert compare("better", "worse").json()["verdict"] == "worse"
    assert compare("worse", "better", min_items=100).json()["verdict"] == "inconclusive"
    refused = compare("worse")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "run")


def test_a_worker_killed_while_it_grades_leaves_each_item_once(stage: Stage) -> None:
    client, upstream = stage.client, stage.upstream
    slow = (
        "import time\ndef grade(sample, item):\n"
        "    time.sleep(0.02)\n    return sample['output_text'] == item['answer']"
    )
    made = client.evals.create(
        data_source_config=config(),
        testing_criteria=[{"type": "python", "name": "slow", "source": slow}],
    )
    before = len(upstream.asked)
    items = [{"question": f"q{n}", "answer": f"q{n}" if n % 4 else "else"} for n in range(240)]
    run = client.evals.runs.create(made.id, data_source=completions(given(*items)))

    def stored() -> int:
        with stage.harness.db.transaction(stage.harness.tenant) as c:
            (row,) = c.execute("SELECT count(*) AS n FROM training.eval_item WHERE run_id = %s", (run.id,))
        return int(row["n"])

    wait_for(lambda: stored() >= 100, 120, "the first page of items")
    stage.training.kill()
    assert stored() < 240
    stage.training = stage.harness.start("training")
    ended = stage.ended(made.id, run.id)
    assert (ended.status, ended.result_counts.total, ended.result_counts.passed) == ("completed", 240, 180)
    numbers = [
        item.datasource_item_id
        for item in client.evals.runs.output_items.list(run.id, eval_id=made.id, limit=100)
    ]
    assert numbers == list(range(240))
    assert len(upstream.asked) - before == 240
    assert stage.harness.job(run.id).crashes == 1


def test_a_file_with_a_wrong_line_fails_its_run_with_the_line(stage: Stage, tmp_path: Path) -> None:
    made = stage.client.evals.create(data_source_config=config(), testing_criteria=[EXACT])  # type: ignore[list-item]
    for number, (line, words) in enumerate(
        (
            ("not json", "line 2: it is no JSON"),
            ('{"items": {}}', "line 2: a line is"),
            ('{"item": {}}', "item 2"),
        )
    ):
        path = tmp_path / f"{number}.jsonl"
        path.write_text('{"item": {"question": "a", "answer": "a"}}\n' + line + "\n")
        file = stage.client.files.create(file=path.open("rb"), purpose="evals")
        run = stage.client.evals.runs.create(
            made.id, data_source={"type": "jsonl", "source": {"type": "file_id", "id": file.id}}
        )
        run = stage.ended(made.id, run.id)
        assert (run.status, run.error.code) == ("failed", "invalid_eval_data")
        assert words in run.error.message


def test_graders_are_tried_and_checked_before_they_are_used(stage: Stage) -> None:
    graders = stage.client.fine_tuning.alpha.graders
    exact: Any = {**EXACT, "name": "exact"}
    tried = graders.run(grader=exact, model_sample="yes", item={"answer": "yes"})
    assert (tried.reward, tried.metadata.scores, tried.metadata.errors.other_error) == (
        1.0,
        {"exact": 1.0},
        False,
    )
    near: Any = {
        "type": "text_similarity",
        "name": "near",
        "input": "{{sample.output_json.text}}",
        "reference": "{{item.answer}}",
        "evaluation_metric": "cosine",
    }
    judge: Any = {
        "type": "score_model",
        "name": "judge",
        "model": "far",
        "range": [0, 10],
        "input": [{"role": "user", "content": '{"score": {{item.points}}}'}],
    }
    python: Any = {
        "type": "python",
        "name": "python",
        "source": "def grade(sample, item):\n    return len(item['answer'])",
    }
    several: Any = {
        "type": "multi",
        "name": "all",
        "graders": {"near": near, "judge": judge, "again": judge, "python": python},
        "calculate_output": "near + (judge + again) / 2 + max(python, 1)",
    }
    item = {"answer": "yes", "points": 7}
    tried = graders.run(grader=several, model_sample='{"text": "yes"}', item=item)
    assert tried.metadata.errors.to_dict()["other_error"] is False, tried.metadata.errors
    assert tried.reward == pytest.approx(1 + 7 + 3, abs=1e-5)
    assert tried.sub_rewards["judge"] == 7
    assert tried.metadata.token_usage
    tried = graders.run(grader=judge, model_sample="x", item={"points": 70})
    assert (tried.reward, tried.metadata.errors.api_model_grader_parse_error) == (0.0, True)
    tried = graders.run(grader=exact, model_sample="x", item={})
    assert (tried.reward, tried.metadata.errors.invalid_variable_error) == (0.0, True)
    assert (
        graders.validate(grader=several).grader.to_dict()["calculate_output"] == several["calculate_output"]
    )  # type: ignore[union-attr]
    for wrong, param, words in (
        ({**several, "calculate_output": "near + juge"}, "grader.calculate_output", "did you mean 'judge'"),
        ({**several, "calculate_output": "near ** 99"}, "grader.calculate_output", "not binop"),
        ({**python, "source": "x = 1"}, "grader.source", "def grade"),
        ({**exact, "input": "{{sample.text}}"}, "grader.input", "there are output_text"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            graders.validate(grader=wrong)
        assert refused.value.param == param
        assert words in str(refused.value)


@pytest.fixture
def heliu(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`heliu ...` in this process; what it writes to standard output."""
    monkeypatch.setenv("HELIU_GATEWAY_URL", stage.url)
    monkeypatch.setenv("HELIU_API_KEY", stage.harness.key())

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        if isinstance(result.exception, HeliuError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_the_command_line_makes_runs_shows_and_compares(heliu: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "eval.yml").write_text(
        json.dumps({"name": "by hand", "data_source_config": config(), "testing_criteria": [EXACT]})
    )
    made = json.loads(heliu("evals", "create", str(tmp_path / "eval.yml"), "--json"))
    assert made["id"] in heliu("evals", "list")
    items = tmp_path / "items.jsonl"
    rows = [{"item": {"question": f"say {n}", "answer": f"say {n % 2}"}} for n in range(4)]
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("evals", "run", made["id"], "--data", str(items), "--model", "far", "--prompt")
    told = heliu(*words, "{{item.question}}", "--temperature", "0")
    assert "exact: 2 passed, 2 failed" in told
    assert "mean score 0.500 [" in told
    run = json.loads(heliu(*words, "say 0", "--json"))
    assert run["status"] == "completed"
    shown = json.loads(heliu("evals", "show", made["id"], "--json"))
    a, b = (one["id"] for one in reversed(shown["runs"]))
    assert b == run["id"]
    assert "2/4" in heliu("evals", "show", made["id"])
    assert heliu("evals", "items", made["id"], a, "--failed").count("exact") == 2
    assert heliu("evals", "compare", made["id"], a, b).startswith("inconclusive: 4 independent items")
    heliu("evals", "report", made["id"], a, "-o", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert "by hand" in page
    assert "<script" not in page
    assert json.loads(heliu("evals", "delete", made["id"], "--json"))["deleted"] is True
    with pytest.raises(HeliuError, match="give --prompt or --messages"):
        heliu("evals", "run", made["id"], "--data", str(items), "--model", "far")


@pytest.mark.parametrize("major", ["1", "2"])
def test_older_majors_of_the_client_go_the_whole_way(stage: Stage, major: str) -> None:
    folder = CLIENTS / f"openai-{major}"
    # The newest is installed, and what all other tests use; these stand beside it.
    assert folder.is_dir(), f"{folder} is missing; make setup makes it"
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), f"{stage.url}/v1", stage.harness.key()],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen.pop("version").startswith(f"{major}.")
    assert seen == {
        "status": "completed",
        "counts": {"total": 3, "passed": 1, "failed": 2, "errored": 0},
        "items": ["pass", "fail", "fail"],
        "one": "exact",
        "renamed": "renamed",
        "cancelled": "conflict",
        "reward": 1.0,
        "runs": [True],
        "listed": True,
        "run_deleted": True,
        "deleted": True,
        "stored": {
            "said": ["red", "blue"],
            "asked": ["red"],
            "labels": "warm",
            "passed": ["completed", 1, 1],
            "deleted": [True, True],
        },
    }


def test_a_task_and_a_registered_name_are_evaluated_as_a_model_is(stage: Stage) -> None:
    spec = {
        "model": "far",
        "prompt": "{{ text }} {{ times }}",
        "variables": {"text": {}, "times": {"type": "integer"}},
    }
    assert stage.operator.post("/v1/tasks", json={"name": "say", "spec": spec}).status_code == 200
    made = stage.operator.post(
        "/v1/evals", json={"data_source_config": config({"type": "object"}), "testing_criteria": [EXACT]}
    ).json()
    items = [
        {"question": "red", "answer": "red 2", "times": 2},
        {"question": "red", "answer": "red", "times": "x"},
    ]
    source = {
        "type": "completions",
        "model": "task:say",
        "source": given(items[0]),
        "variables": {"text": "{{item.question}}", "times": "{{item.times}}"},
    }
    run = stage.operator.post(f"/v1/evals/{made['id']}/runs", json={"data_source": source}).json()
    stage.harness.wait_job(run["id"])
    told = stage.operator.get(f"/v1/evals/{made['id']}/runs/{run['id']}").json()
    assert (told["status"], told["model"], told["result_counts"]["passed"]) == ("completed", "task:say", 1)
    refused = stage.operator.post(
        f"/v1/evals/{made['id']}/runs", json={"data_source": {**source, "model": "task:say@9"}}
    )
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "data_source.model")
    pinned = {**source, "model": "task:say@1", "source": given(*items)}
    wrong = stage.operator.post(f"/v1/evals/{made['id']}/runs", json={"data_source": pinned}).json()
    stage.harness.wait_job(wrong["id"])
    told = stage.operator.get(f"/v1/evals/{made['id']}/runs/{wrong['id']}").json()
    assert [told["status"], told["result_counts"]["passed"], told["result_counts"]["errored"]] == [
        "completed",
        1,
        1,
    ]


@pytest.mark.long
def test_a_models_perplexity_is_that_of_the_references(stage: Stage) -> None:
    client = stage.client
    metric = {"type": "perplexity", "reference": "{{item.answer}}"}
    made = client.evals.create(
        data_source_config=config(),
        testing_criteria=[EXACT],  # type: ignore[list-item]
        extra_body={"metrics": [metric]},
    )
    items = [{"question": f"q {n}", "answer": f"the answer is {n}"} for n in range(6)] + [
        {"question": "q", "answer": ""}
    ]
    asked = completions(given(*items), sampling_params={"max_completion_tokens": 4, "temperature": 0})
    runs = [
        client.evals.runs.create(made.id, data_source={**asked, "model": model}) for model in ("base", "far")
    ]
    own, far = (stage.ended(made.id, run.id) for run in runs)
    assert (own.status, far.status) == ("completed", "completed")
    (told,) = own.model_extra["metrics"]
    figure = told["figures"]["perplexity"]
    # Random weights are less sure of a token than a die with a face for most of the vocabulary's 320.
    assert 100 < figure["low"] <= figure["value"] <= figure["high"]
    assert (told["n"], told["skipped"]) == (6, {"no_likelihood": 1})
    # An upstream's weights are not here.
    assert far.model_extra["metrics"][0]["skipped"] == {"no_likelihood": 7}


def test_stored_chats_are_graded_as_they_are_and_asked_again_of_another_model(stage: Stage) -> None:
    client = stage.client
    said: list[Any] = [
        client.chat.completions.create(
            model="far",
            messages=[{"role": "system", "content": "echo"}, {"role": "user", "content": text}],
            store=True,
            metadata={"use": "stored", "kind": kind},
        )
        for text, kind in (("red", "colour"), ("blue", "colour"), ("seven", "number"))
    ]
    job = stage.operator.post(
        "/v1/chat/completions",
        json={
            "model": "far",
            "messages": [{"role": "user", "content": "green"}],
            "background": True,
            "store": True,
            "metadata": {"use": "stored", "kind": "colour"},
        },
        headers={"authorization": f"Bearer {stage.harness.key()}"},
    ).json()
    stage.harness.wait_job(job["id"])
    for kind in ("stored_completions", "logs"):
        made = client.evals.create(
            name=kind,
            data_source_config={"type": kind, "metadata": {"use": "stored"}},  # type: ignore[misc,arg-type]
            testing_criteria=[
                {
                    "type": "string_check",
                    "name": "about red",
                    "input": "{{sample.output_text}} {{item.input[1].content}}",
                    "reference": "red red",
                    "operation": "eq",
                },
                {
                    "type": "string_check",
                    "name": "as before",
                    "input": "{{sample.output_text}}",
                    "reference": "{{item.output_text}}",
                    "operation": "eq",
                },
            ],
        )
        told = made.data_source_config.to_dict()
        assert (told["type"], told["metadata"]) == (kind, {"use": "stored"})
        assert set(told["schema"]["properties"]) == {"item", "sample"}  # type: ignore[index]
    assert {one.id for one in client.chat.completions.list(metadata={"use": "stored"})} >= {
        one.id for one in said
    }

    as_they_are = client.evals.runs.create(
        made.id,
        data_source={
            "type": "completions",
            "source": {"type": "stored_completions", "metadata": {"kind": "colour"}},
        },
    )
    again = client.evals.runs.create(
        made.id,
        data_source={
            "type": "completions",
            "source": {"type": "stored_completions", "model": "far", "limit": 3},
            "model": "far",
            "sampling_params": {"temperature": 0},
        },
    )
    as_they_are, again = stage.ended(made.id, as_they_are.id), stage.ended(made.id, again.id)
    assert (as_they_are.status, as_they_are.error) == ("completed", None)
    counts = as_they_are.result_counts
    assert (counts.total, counts.passed, counts.errored) == (3, 1, 1), "the one without a system message errs"
    assert "model" not in as_they_are.data_source.to_dict()
    assert as_they_are.per_model_usage == []
    items = list(client.evals.runs.output_items.list(as_they_are.id, eval_id=made.id, status="pass"))  # type: ignore[arg-type]
    assert items[0].datasource_item["id"] == said[0].id
    assert [one.content for one in items[0].sample.input] == ["echo", "red"]
    assert items[0].sample.output[0].content == "red"
    assert (again.status, again.error) == ("completed", None)
    by_name = {one.testing_criteria: one for one in again.per_testing_criteria_results}
    assert (again.result_counts.total, by_name["as before"].passed) == (3, 3)
    assert again.per_model_usage[0].invocation_count == 3
