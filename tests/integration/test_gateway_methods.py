"""What the gateway makes of a request for several tasks on one trunk or for a distillation, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.main import app
from shared import job_store
from shared.contracts.distillation import Distill
from shared.contracts.multi_task import TrainMultiTask
from shared.contracts.registry import parse_job
from tests import servers
from tests.integration.gateway_app import RunningGateway, running_gateway

JOBS = "/v1/training/jobs"


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """Models of three kinds, a version, and a file of purpose fine-tune. No worker is there to take anything."""
    name = "test_methods"
    url = servers.new_database(postgres.url, name, template="heliu_template")
    with running_gateway(url, valkey.url, tmp_path_factory.mktemp("home")) as running:
        running.add_model("small")
        running.add_model("large", artifact="sha256:" + "d" * 64)
        running.add_model("encoder", kind="encoder")
        running.add_model("taken.intent", kind="classifier")
        running.add_version("dsv-good")
        running.add_version("dsv-other")
        yield running
    servers.drop_database(postgres.url, name)


@pytest.fixture(scope="module")
def file_id(gateway: RunningGateway) -> str:
    rows = "".join(json.dumps({"text": f"text {n}", "score": n}) + "\n" for n in range(20))
    with gateway.http() as http:
        answer = http.post("/v1/files", files={"file": ("r.jsonl", rows)}, data={"purpose": "fine-tune"})
    return str(answer.json()["id"])


def several(**changes: Any) -> dict[str, Any]:
    tasks = [
        {"name": "intent", "head": "single_label", "training_file": "dsv-good", "weight": 2},
        {"name": "mood", "head": "regression", "training_file": "dsv-good", "loss": "huber"},
    ]
    return {"type": "multi_task", "name": "desk", "model": "encoder", "tasks": tasks, **changes}


def taught(**changes: Any) -> dict[str, Any]:
    return {"type": "distill", "teacher": "large", "model": "small", "training_file": "dsv-good", **changes}


def post(gateway: RunningGateway, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    with gateway.http() as http:
        answer = http.post(JOBS, json=body)
    return answer.status_code, answer.json()


def stored(gateway: RunningGateway, job_id: str) -> Any:
    with gateway.as_tenant() as connection:
        job = job_store.get(connection, job_id)
    return parse_job(job.kind, job.payload), job.queue


def test_tasks_are_stored_with_their_rows_by_content(gateway: RunningGateway, file_id: str) -> None:
    body = several()
    body["tasks"][1] |= {"training_file": file_id, "validation_file": file_id}
    status, job = post(gateway, body)
    assert status == 200, job
    contract, queue = stored(gateway, job["id"])
    assert isinstance(contract, TrainMultiTask)
    assert queue == "training.default"
    assert [(part.name, part.head, part.loss, part.weight) for part in contract.parts] == [
        ("intent", "single_label", "auto", 2.0),
        ("mood", "regression", "huber", 1.0),
    ]
    assert [part.training.kind for part in contract.parts] == ["version", "file"]
    assert contract.parts[1].validation == contract.parts[1].training


def test_a_distillation_waits_where_no_training_is_in_its_way(gateway: RunningGateway) -> None:
    status, job = post(gateway, taught(max_prompts=50, generation={"max_tokens": 64}))
    assert status == 200, job
    contract, queue = stored(gateway, job["id"])
    assert isinstance(contract, Distill)
    assert queue == "training.light"
    assert (contract.max_prompts, contract.generation.max_tokens) == (50, 64)
    assert contract.models["large"].base_artifact == "sha256:" + "d" * 64
    assert (contract.base.model, contract.untrained.name) == ("small", "small")


def test_a_key_that_has_used_up_its_tokens_has_no_teacher_asked(gateway: RunningGateway) -> None:
    made = gateway.http("operator").post(
        "/v1/keys", json={"name": "little", "tenant": "acme", "tokens_per_day": 1}
    )
    gateway.keys["little"] = made.json()["key"]
    with gateway.as_tenant() as connection:
        connection.execute(
            "INSERT INTO gateway.usage (tenant_id, api_key_id, request_id, endpoint, model, pool, status, "
            "prompt_tokens, completion_tokens, seconds) VALUES (%s, %s, 'r', 'x', 'm', 'p', 'ok', 5, 5, 1)",
            (gateway.tenants["acme"], made.json()["id"]),
        )
    with gateway.http("little") as http:
        refused, trained = http.post(JOBS, json=taught()), http.post(JOBS, json=several(name="paid"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert trained.status_code == 200, trained.text


def task(place: int, **changes: Any) -> list[dict[str, Any]]:
    tasks = several()["tasks"]
    tasks[place] |= changes
    return list(tasks)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (several(tasks=task(0)[:1]), "invalid_value", "tasks"),
        (several(tasks=task(1, name="intent")), "invalid_value", "tasks[1].name"),
        (several(tasks=task(1, loss="focal")), "invalid_value", "tasks[1].loss"),
        (several(tasks=task(0, settings={"margin": 1})), "invalid_value", "tasks[0].settings.margin"),
        (several(tasks=task(0, weight=0)), "invalid_value", "tasks[0].weight"),
        (several(tasks=task(0, training_file="dsv-none")), "not_found", "tasks[0].training_file"),
        (several(tasks=task(0, colour="red")), "unknown_parameter", "tasks[0].colour"),
        (several(name="taken"), "model_exists", "name"),
        (several(model="nobody"), "model_not_found", "model"),
        (several(method="frozen"), "invalid_value", "method"),
        (several(hyperparameters={"lora_r": 4}), "invalid_value", "hyperparameters.lora_r"),
        (several(hyperparameters={"temperature": 0.5}), "invalid_value", "hyperparameters.temperature"),
        (several(training_file="dsv-good"), "unknown_parameter", "training_file"),
        (taught(teacher="small"), "invalid_value", "model"),
        (taught(teacher="encoder"), "unsupported_model", "teacher"),
        (taught(teacher="nobody"), "model_not_found", "teacher"),
        (taught(teacher="task:nothing"), "not_found", "teacher"),
        (taught(teacher="task:no!"), "invalid_value", "teacher"),
        (taught(teacher="task:x", generation={"max_tokens": 3}), "invalid_value", "generation"),
        (taught(model="encoder"), "unsupported_model", "model"),
        (taught(generation={"max_tokens": 0}), "invalid_value", "generation.max_tokens"),
        (taught(held_out_rows=0), "invalid_value", "held_out_rows"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_place(
    gateway: RunningGateway, body: dict[str, Any], code: str, param: str
) -> None:
    status, answer = post(gateway, body)
    assert 400 <= status < 410, answer
    assert (answer["error"]["code"], answer["error"]["param"]) == (code, param), answer


def upload(gateway: RunningGateway, rows: list[dict[str, Any]]) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows)
    with gateway.http() as http:
        answer = http.post("/v1/files", files={"file": ("r.jsonl", content)}, data={"purpose": "fine-tune"})
    return str(answer.json()["id"])


TWO = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(20)]
PAIR = {"query": "q", "positive": "p", "negative": "n"}


@pytest.mark.parametrize(
    ("head", "training", "validation", "said", "param"),
    [
        ("single_label", [{"text": "x", "label": "a"}] * 3, None, "one label only, 'a'", "training_file"),
        (
            "single_label",
            TWO,
            [{"text": "x", "label": "c"}],
            "line 1: the label 'c' is in no",
            "validation_file",
        ),
        ("single_label", [{"text": "x"}], None, "line 1: `label` is None", "training_file"),
        ("multi_label", [{"text": "x", "labels": "a"}], None, "must be a list of texts", "training_file"),
        ("regression", [{"text": "x", "score": "much"}], None, "must be a number", "training_file"),
        ("rank_pairwise", TWO, None, "line 1: `query` is None", "training_file"),
        (
            "rank_pairwise",
            [PAIR],
            [PAIR, {**PAIR, "negative": "p"}],
            "line 2: `positive` and",
            "validation_file",
        ),
    ],
)
def test_a_file_that_no_head_can_learn_from_is_refused_before_a_worker_is_taken(
    gateway: RunningGateway,
    head: str,
    training: list[dict[str, Any]],
    validation: list[dict[str, Any]] | None,
    said: str,
    param: str,
) -> None:
    files: dict[str, Any] = {"training_file": upload(gateway, training)}
    if validation is not None:
        files["validation_file"] = upload(gateway, validation)
    alone = {"type": "head", "name": "never", "head": head, "method": "lstm", **files}
    status, answer = post(gateway, alone)
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (
        400,
        "invalid_training_file",
        param,
    ), answer
    assert said in answer["error"]["message"]
    status, answer = post(
        gateway, several(name="never", tasks=[several()["tasks"][0], {"name": "b", "head": head, **files}])
    )
    assert (status, answer["error"]["param"]) == (400, f"tasks[1].{param}"), answer


@pytest.mark.parametrize(
    ("head", "report", "said", "param"),
    [
        ("single_label", {"labels": {"counts": {"a": 9}}}, "one label only, 'a'", "training_file"),
        ("single_label", {"labels": {"counts": {}}}, "has no label", "training_file"),
        ("multi_label", {"labels": {"counts": {"a, a": 9}}}, "one label only, 'a'", "training_file"),
        ("regression", {"splits": {"train": 0, "validation": 2}}, "training split is empty", "training_file"),
        (
            "regression",
            {"splits": {"train": 2, "validation": 0}},
            "nothing could be measured",
            "validation_file",
        ),
        ("rank_pairwise", {}, "give a JSONL file", "training_file"),
    ],
)
def test_a_version_that_no_head_can_learn_from_is_refused_by_its_report(
    gateway: RunningGateway, head: str, report: dict[str, Any], said: str, param: str
) -> None:
    with gateway.as_tenant() as connection:
        connection.execute(
            "UPDATE data_governance.version SET report = %s WHERE id = 'dsv-other'", (json.dumps(report),)
        )
    body = {"type": "head", "name": "never", "head": head, "method": "lstm", "training_file": "dsv-other"}
    status, answer = post(gateway, body)
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (
        400,
        "invalid_training_file",
        param,
    )
    assert said in answer["error"]["message"]
    validated = {**body, "validation_file": "dsv-good"}
    if param == "validation_file":
        assert post(gateway, validated)[0] == 200


def test_the_command_line_asks_for_both(
    gateway: RunningGateway, file_id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HELIU_GATEWAY_URL", gateway.url)
    monkeypatch.setenv("HELIU_API_KEY", gateway.keys["acme"])
    run = CliRunner().invoke
    asked = [
        "train",
        "multi-task",
        "cli",
        "encoder",
        "--task",
        "a=single_label:dsv-good",
        "--no-wait",
        "--json",
    ]
    made = run(
        app, [*asked, "--task", f"b=regression:{file_id}:{file_id}", "--loss", "a=focal", "--weight", "b=3"]
    )
    assert made.exit_code == 0, made.output
    contract, _ = stored(gateway, json.loads(made.stdout)["id"])
    assert [(part.name, part.loss, part.weight) for part in contract.parts] == [
        ("a", "focal", 1.0),
        ("b", "auto", 3.0),
    ]
    made = run(
        app, ["train", "distill", "large", "small", "dsv-good", "--max-tokens", "9", "--no-wait", "--json"]
    )
    assert made.exit_code == 0, made.output
    contract, _ = stored(gateway, json.loads(made.stdout)["id"])
    assert contract.generation.max_tokens == 9
    wrong = run(app, [*asked, "--task", "b=regression"])
    assert wrong.exit_code != 0
    assert "TASK=HEAD:DATA" in str(wrong.exception)
    wrong = run(app, [*asked, "--weight", "c=3"])
    assert "the tasks are a" in str(wrong.exception)
