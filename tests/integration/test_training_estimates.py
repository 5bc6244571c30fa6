"""What a training job would take, and that one which no worker of its pool can hold is refused at the door."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner

from services.cli.main import app
from shared.errors import InvalidInput
from tests import servers
from tests.integration.gateway_app import RunningGateway, running_gateway

GIB = 2**30
CONFIG = {
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "intermediate_size": 8192,
    "vocab_size": 50_000,
    "dtype": "bfloat16",
}
PARAMETERS = 1_700_000_000
REPORT = {"chars": {"mean": 600.0, "max": 3000}, "scripts": {"latin": 1.0}}


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    url = servers.new_database(postgres.url, "test_estimates", template="heliu_template")
    with running_gateway(url, valkey.url, tmp_path_factory.mktemp("home")) as running:
        store = running.platform.artifacts
        config, _ = store.put(io.BytesIO(json.dumps(CONFIG).encode()))
        weights, _ = store.put(io.BytesIO(b"not read"))
        tree = store.put_listing(
            [
                {"path": "config.json", "object": config, "bytes": 100},
                {"path": "model.safetensors", "object": weights, "bytes": 2 * PARAMETERS},
            ]
        )
        running.add_model("big", artifact=tree)
        running.add_model("strange")
        running.add_version("dsv-1")
        with running.as_tenant() as c:
            c.execute(
                "UPDATE data_governance.version SET report = %s::jsonb, train_rows = 1000 WHERE id = 'dsv-1'",
                (json.dumps(REPORT),),
            )
        yield running
    servers.drop_database(postgres.url, "test_estimates")


@contextmanager
def workers(gateway: RunningGateway, *gibibytes: float | None) -> Iterator[None]:
    """Living training workers with so much memory; None has not told of it."""
    with gateway.platform.db.core() as c:
        for number, size in enumerate(gibibytes):
            info = {"device": "cpu", "device_name": "Test CPU"}
            known = {**info, "memory_bytes": round(size * GIB)} if size is not None else {}
            c.execute(
                "INSERT INTO core.worker (id, name, service, pool, queues, host, pid, slots, info) VALUES "
                "(%s, %s, 'training', 'default', '{training.default}', 'h', 1, 1, %s::jsonb)",
                (f"w{number}", f"w{number}", json.dumps(known)),
            )
    try:
        yield
    finally:
        with gateway.platform.db.core() as c:
            c.execute("DELETE FROM core.worker")


def body(model: str = "big", **parameters: Any) -> dict[str, Any]:
    return {"type": "sft", "model": model, "training_file": "dsv-1", "hyperparameters": parameters}


def ask(gateway: RunningGateway, asked: dict[str, Any], path: str = "/v1/training/estimates") -> Any:
    answer = gateway.http().post(path, json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def jobs(gateway: RunningGateway) -> int:
    return len(gateway.http().get("/v1/training/jobs").json()["data"])


def test_an_estimate_tells_memory_by_part_steps_time_and_what_each_goes_by(gateway: RunningGateway) -> None:
    with workers(gateway, 64, 8):
        told = ask(gateway, body(n_epochs=2, batch_size=10))
    assert told["object"] == "training.estimate"
    assert told["memory"]["weights"] == PARAMETERS * 4
    assert told["memory"]["total"] == sum(v for name, v in told["memory"].items() if name != "total")
    assert (told["parameters"], told["steps"], told["epochs"]) == (PARAMETERS, 200, 2)
    assert 200_000 < told["tokens"] < 600_000
    assert told["seconds"] > 0
    assert told["basis"]["seconds"].startswith("a guess")
    assert told["basis"]["tokens"] == "the version's report"
    assert (told["fits"], told["would_fit"]) == (True, [])
    assert [(w["name"], w["fits"]) for w in told["workers"]] == [("w0", True), ("w1", True)]


def test_what_does_not_fit_is_told_with_what_would(gateway: RunningGateway) -> None:
    with workers(gateway, 16, 24):
        told = ask(gateway, body(method="full"))
    assert told["fits"] is False
    (change,) = [one for one in told["would_fit"] if one["change"] == {"method": "lora"}]
    assert change["memory"] < 24 * GIB


def test_a_job_that_no_worker_of_its_pool_can_hold_is_refused_before_any_is_taken(
    gateway: RunningGateway,
) -> None:
    before = jobs(gateway)
    with workers(gateway, 16, 24):
        for path, asked in (
            ("/v1/training/jobs", body(method="full")),
            (
                "/v1/fine_tuning/jobs",
                {"model": "big", "training_file": "dsv-1", "hyperparameters": {"method": "full"}},
            ),
        ):
            answer = gateway.http().post(path, json=asked)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "does_not_fit"), error
            assert "24.0 GiB (Test CPU)" in error["message"]
            assert "method lora" in error["message"]
        with pytest.raises(openai.BadRequestError, match="what would fit: method lora"):
            gateway.openai().fine_tuning.jobs.create(
                model="big", training_file="dsv-1", hyperparameters={"method": "full"}
            )
    assert jobs(gateway) == before


@pytest.mark.parametrize("pool", [(), (16, None), (64,)])
def test_a_job_is_let_through_where_it_fits_and_where_nobody_knows(
    gateway: RunningGateway, pool: tuple[float | None, ...]
) -> None:
    with workers(gateway, *pool):
        assert ask(gateway, body(method="full", n_epochs=len(pool) + 1), "/v1/training/jobs")["id"]


def test_a_model_of_an_unknown_shape_has_no_estimate_and_is_let_through(gateway: RunningGateway) -> None:
    with workers(gateway, 1):
        told = ask(gateway, body("strange"))
        assert (told["memory"], told["fits"]) == (None, None)
        assert told["basis"]["memory"].startswith("unknown")
        assert ask(gateway, body("strange"), "/v1/training/jobs")["id"]


def test_texts_of_unknown_length_are_no_reason_to_refuse(gateway: RunningGateway) -> None:
    """Of a version without a report only weights, gradients and the optimizer's means are known to be needed."""
    gateway.add_version("dsv-2")
    with workers(gateway, 24):
        asked = body(batch_size=4096, max_length=131_072) | {"training_file": "dsv-2"}
        assert ask(gateway, asked)["fits"] is True


def test_time_is_measured_by_the_earlier_jobs_of_this_tenant_and_pool(gateway: RunningGateway) -> None:
    measured = {
        "device": "cpu",
        "parameters": PARAMETERS,
        "tokens_per_step": 2000,
        "seconds_per_step": 8.0,
        "other_seconds": 40.0,
    }
    for tenant in ("acme", "rival"):
        with gateway.as_tenant(tenant) as c:
            c.execute(
                "INSERT INTO core.job (id, tenant_id, kind, queue, state, payload, result, max_attempts, max_crashes,"
                " finished_at) VALUES (%s, %s, 'training.fine_tune', 'training.default', 'succeeded', %s::jsonb,"
                " %s::jsonb, 3, 3, now())",
                (
                    f"done-{tenant}",
                    gateway.tenants[tenant],
                    json.dumps({"hyperparameters": {"method": "lora"}}),
                    json.dumps({"measured": measured}),
                ),
            )
    with workers(gateway, 64):
        told = ask(gateway, body(n_epochs=2, batch_size=10))
    assert told["basis"]["seconds"] == "measured: 1 earlier job of this way and like shape on this pool"
    assert told["seconds"] == pytest.approx(40 + told["tokens"] / 2000 * 8, rel=0.01)


def test_a_distillation_takes_the_training_of_its_student_and_all_answers(gateway: RunningGateway) -> None:
    asked = {
        "type": "distill",
        "teacher": "strange",
        "model": "big",
        "training_file": "dsv-1",
        "max_prompts": 300,
        "held_out_rows": 50,
        "generation": {"max_tokens": 100},
        "hyperparameters": {"n_epochs": 1, "batch_size": 10},
    }
    with workers(gateway, 64):
        told = ask(gateway, asked)
        # Nothing is known of the teacher's size, nor of how fast it answers.
        assert (told["steps"], told["fits"], told["seconds"]) == (30, True, None)
        assert "'strange'" in told["basis"]["seconds"]
        answered(gateway, "strange", rows=10, tokens=400, seconds=20.0)
        answered(gateway, "big", rows=10, tokens=900, seconds=90.0)
        told = ask(gateway, asked)
        small = ask(gateway, body(n_epochs=1, max_steps=30, batch_size=10))
    # 40 tokens an answer: 350 rows of the teacher's, and twice the held-out ones at the student's speed.
    assert told["answering_seconds"] == pytest.approx(6 + 350 * 40 * 20 / 400 + 100 * 40 * 90 / 900, rel=0.01)
    assert told["seconds"] == pytest.approx(small["seconds"] + told["answering_seconds"], rel=0.02)
    assert "40 tokens an answer, as in earlier batches" in told["basis"]["seconds"]


def answered(gateway: RunningGateway, model: str, *, rows: int, tokens: int, seconds: float) -> None:
    """A batch that this tenant's model answered."""
    result = {
        "model": model,
        "request_counts": {"total": rows, "completed": rows, "failed": 0},
        "usage": {"input_tokens": 5, "output_tokens": tokens, "total_tokens": 5 + tokens},
    }
    with gateway.as_tenant() as c:
        c.execute(
            "INSERT INTO core.job (id, tenant_id, kind, queue, state, payload, result, max_attempts, max_crashes,"
            " created_at, finished_at) VALUES (%s, %s, 'inference.batch', 'inference.default.batch', 'succeeded', '{}',"
            " %s::jsonb, 3, 3, now() - %s * interval '1 second', now())",
            (f"batch-of-{model}", gateway.tenants["acme"], json.dumps(result), seconds),
        )


def test_a_run_of_several_tasks_has_steps_by_all_of_their_rows(gateway: RunningGateway) -> None:
    tasks = [{"name": name, "head": "single_label", "training_file": "dsv-1"} for name in ("intent", "topic")]
    asked = {"type": "multi_task", "name": "shared", "model": "big", "method": "lora", "tasks": tasks}
    with workers(gateway, 64):
        told = ask(gateway, {**asked, "hyperparameters": {"n_epochs": 2, "batch_size": 20}})
    assert (told["steps"], told["epochs"]) == (200, 2)
    assert told["seconds"] > 0


def test_an_estimate_refuses_what_the_job_would_be_refused_for(gateway: RunningGateway) -> None:
    asked = body(lora_r=0)
    answers = [
        gateway.http().post(path, json=asked) for path in ("/v1/training/estimates", "/v1/training/jobs")
    ]
    assert answers[0].status_code == answers[1].status_code == 400
    assert answers[0].json()["error"]["message"] == answers[1].json()["error"]["message"]
    missing = gateway.http().post("/v1/training/estimates", json=body("nobody"))
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_the_command_line_tells_it_in_lines(
    gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIU_GATEWAY_URL", gateway.url)
    monkeypatch.setenv("HELIU_API_KEY", gateway.keys["acme"])
    (tmp_path / "job.json").write_text(json.dumps(body(method="full")))
    with workers(gateway, 24):
        ran = CliRunner().invoke(app, ["train", "estimate", str(tmp_path / "job.json")])
        read = CliRunner().invoke(
            app, ["train", "estimate", "-", "--json"], input=json.dumps(body(method="full"))
        )
    assert ran.exit_code == 0, ran.output
    assert "does not fit" in ran.stdout
    assert "instead   method=lora: " in ran.stdout
    assert json.loads(read.stdout)["fits"] is False
    (tmp_path / "job.json").write_text("[]")
    with pytest.raises(InvalidInput, match="one JSON object"):
        CliRunner().invoke(app, ["train", "estimate", str(tmp_path / "job.json")], catch_exceptions=False)
