"""The unmodified openai client on what needs no worker: files, models, fine-tuning, batches, pages, errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.integration.gateway_app import RunningGateway, running_gateway

LINE = b'{"messages": []}\n'


@pytest.fixture
def gateway(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(database_url, redis_url, tmp_path) as running:
        running.add_model("base")
        yield running


@pytest.fixture
def client(gateway: RunningGateway) -> openai.OpenAI:
    return gateway.openai()


def upload(client: openai.OpenAI, purpose: str = "fine-tune", name: str = "a.jsonl") -> str:
    return client.files.create(file=(name, LINE), purpose=purpose).id  # type: ignore[arg-type]


def test_a_file_goes_up_and_comes_back_the_same(client: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "客服 对话.jsonl"
    path.write_bytes(LINE * 50_000)
    file = client.files.create(
        file=path, purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (file.bytes, file.filename, file.status) == (len(LINE) * 50_000, path.name, "processed")
    assert file.expires_at == pytest.approx(file.created_at + 3600, abs=2)
    assert client.files.wait_for_processing(file.id).id == file.id
    assert client.files.content(file.id).read() == LINE * 50_000
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_lists_are_paged_to_their_end_in_both_orders(client: openai.OpenAI) -> None:
    made = [upload(client, name=f"{i}.jsonl") for i in range(7)]
    upload(client, purpose="batch")
    newest = [f.id for f in client.files.list(limit=3, purpose="fine-tune")]
    assert newest == made[::-1]
    assert [f.id for f in client.files.list(limit=2, purpose="fine-tune", order="asc")] == made
    assert len(list(client.files.list())) == 8


def test_a_page_goes_on_after_a_file_that_was_deleted_meanwhile(client: openai.OpenAI) -> None:
    made = [upload(client) for _ in range(4)]
    page = client.files.list(limit=2)
    client.files.delete(page.data[-1].id)
    assert [f.id for f in page.get_next_page().data] == made[:2][::-1]


def test_models_are_listed_retrieved_and_deleted(client: openai.OpenAI, gateway: RunningGateway) -> None:
    gateway.add_model("ft:base:heliu:1", kind="adapter", base_id="base", base_artifact="sha256:" + "a" * 64)
    assert {m.id for m in client.models.list()} == {"base", "ft:base:heliu:1"}
    model = client.models.retrieve("ft:base:heliu:1")
    assert (model.object, model.owned_by) == ("model", "acme")
    assert client.models.delete("ft:base:heliu:1").deleted
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("ft:base:heliu:1")
    assert caught.value.code == "model_not_found"


def test_fine_tuning_is_created_listed_watched_and_cancelled(
    client: openai.OpenAI, gateway: RunningGateway
) -> None:
    file = upload(client)
    job = client.fine_tuning.jobs.create(
        model="base",
        training_file=file,
        validation_file=file,
        suffix="service",
        seed=7,
        metadata={"team": "blue"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    )
    assert (job.status, job.seed, job.training_file, job.model) == ("queued", 7, file, "base")
    assert job.hyperparameters.n_epochs == 2
    assert job.metadata == {"team": "blue"}
    old = client.fine_tuning.jobs.create(
        model="base", training_file=file, hyperparameters={"n_epochs": 3, "batch_size": "auto"}
    )
    assert old.hyperparameters.n_epochs == 3
    assert [j.id for j in client.fine_tuning.jobs.list(limit=1)] == [old.id, job.id]
    blue = client.fine_tuning.jobs.list(metadata={"team": "blue"})
    assert [j.id for j in blue] == [job.id]
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert [e.data["event"] for e in events] == [  # type: ignore[index]
        "job_cancelled",
        "job_resumed",
        "job_paused",
        "pause_requested",
        "job_queued",
    ]
    with gateway.as_tenant() as c:
        for step in (10, 20, 30):
            c.execute(
                "INSERT INTO training.checkpoint (id, tenant_id, job_id, step, epoch, artifact, model_id, metrics) "
                "VALUES (%s, %s, %s, %s, 1, 'x', 'm', '{\"train_loss\": 0.5}')",
                (f"ftckpt_{step}", gateway.tenants["acme"], job.id, step),
            )
    points = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=2))
    assert [(p.step_number, p.metrics.train_loss) for p in points] == [(30, 0.5), (20, 0.5), (10, 0.5)]


def test_a_state_that_forbids_it_is_a_conflict_that_is_not_tried_again(client: openai.OpenAI) -> None:
    job = client.fine_tuning.jobs.create(model="base", training_file=upload(client))
    client.fine_tuning.jobs.cancel(job.id)
    with pytest.raises(openai.ConflictError) as caught:
        client.fine_tuning.jobs.resume(job.id)
    assert caught.value.code == "conflict"
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_version_that_fails_its_gate_is_refused_with_the_reason(
    client: openai.OpenAI, gateway: RunningGateway
) -> None:
    gateway.add_version("dsv-good")
    gateway.add_version("dsv-bad", passed=False)
    assert client.fine_tuning.jobs.create(model="base", training_file="dsv-good").status == "queued"
    with pytest.raises(openai.BadRequestError, match="min_rows is 3, below the limit of 10") as caught:
        client.fine_tuning.jobs.create(model="base", training_file="dsv-bad")
    assert (caught.value.code, caught.value.param) == ("dataset_gate_failed", "training_file")


def test_an_error_has_type_code_param_and_trace(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.fine_tuning.jobs.create(model="basis", training_file=upload(client))
    error = caught.value
    assert (error.type, error.code, error.param) == ("invalid_request_error", "model_not_found", "model")
    assert "'basis' does not exist; did you mean 'base'?" in error.message
    assert isinstance(error.body, dict)
    assert error.body["trace_id"] == error.response.headers["x-trace-id"]


def test_a_batch_is_created_listed_and_cancelled(client: openai.OpenAI, gateway: RunningGateway) -> None:
    file = upload(client, purpose="batch")
    made = [
        client.batches.create(
            input_file_id=file,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"n": str(n)},
        )
        for n in range(3)
    ]
    assert made[0].status == "validating"
    assert [b.id for b in client.batches.list(limit=2)] == [b.id for b in made[::-1]]
    assert client.batches.cancel(made[0].id).status == "cancelled"
    assert client.batches.retrieve(made[0].id).cancelled_at is not None
    with gateway.as_tenant() as c:
        row = c.execute("SELECT payload FROM core.job WHERE id = %s", (made[0].id,)).fetchone()
    assert row is not None
    assert row["payload"]["models"]["base"]["base_artifact"] == "sha256:" + "a" * 64


def test_a_running_batch_counts_the_rows_that_are_stored(
    client: openai.OpenAI, gateway: RunningGateway
) -> None:
    batch = client.batches.create(
        input_file_id=upload(client, purpose="batch"),
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
    with gateway.as_tenant() as c:
        c.execute(
            "UPDATE core.job SET progress = %s::jsonb WHERE id = %s",
            (
                '{"phase": "rows", "finalize_on_cancel": true, "in_progress_at": 1,'
                ' "request_counts": {"total": 9, "completed": 0, "failed": 0}}',
                batch.id,
            ),
        )
        for number, status in enumerate((200, 200, 400)):
            c.execute(
                "INSERT INTO inference.batch_row (batch_id, row_no, tenant_id, custom_id, status_code, body, epoch) "
                "VALUES (%s, %s, %s, 'x', %s, '{}', 1)",
                (batch.id, number, gateway.tenants["acme"], status),
            )
    for seen in (client.batches.retrieve(batch.id), next(iter(client.batches.list()))):
        assert seen.status == "in_progress"
        assert seen.request_counts is not None
        counts = seen.request_counts
        assert (counts.total, counts.completed, counts.failed) == (9, 2, 1)
    cancelled = client.batches.cancel(batch.id)
    assert (cancelled.status, cancelled.request_counts) == ("cancelling", counts)
    assert cancelled.cancelling_at is not None


def test_a_batch_is_in_progress_only_once_its_input_was_checked(
    client: openai.OpenAI, gateway: RunningGateway
) -> None:
    batch = client.batches.create(
        input_file_id=upload(client, purpose="batch"),
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
    with gateway.as_tenant() as c:
        c.execute("UPDATE core.job SET started_at = now() WHERE id = %s", (batch.id,))
    checking = client.batches.retrieve(batch.id)
    assert (checking.status, checking.in_progress_at) == ("validating", None)


def test_the_same_idempotency_key_is_the_same_job_and_another_body_is_refused(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    file = upload(client)
    keyed = gateway.openai(default_headers={"Idempotency-Key": "one"})
    first = keyed.fine_tuning.jobs.create(model="base", training_file=file)
    assert keyed.fine_tuning.jobs.create(model="base", training_file=file).id == first.id
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        keyed.fine_tuning.jobs.create(model="base", training_file=file, seed=3)
    assert caught.value.code == "idempotency_mismatch"
    assert len(list(client.fine_tuning.jobs.list())) == 1


def test_the_same_idempotency_key_is_the_same_job_whatever_became_of_what_it_names(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    file = upload(client)
    gateway.add_version("dsv-1")
    tune = {"model": "base", "training_file": file}
    pretrain = {"type": "pretrain", "name": "tiny", "training_file": "dsv-1"}
    with gateway.http() as http:
        sent = [("/v1/fine_tuning/jobs", tune), ("/v1/training/jobs", pretrain)]
        first = [http.post(path, json=body, headers={"idempotency-key": path}) for path, body in sent]
        retries = [{"idempotency-key": path} for path, _ in sent]
        client.files.delete(file)
        gateway.add_model("tiny")
        again = [
            http.post(path, json=body, headers=headers)
            for (path, body), headers in zip(sent, retries, strict=True)
        ]
        without = [http.post(path, json=body) for path, body in sent]
    assert [answer.json()["id"] for answer in again] == [answer.json()["id"] for answer in first]
    assert [answer.status_code for answer in without] == [404, 409]


def test_a_retry_that_the_client_marks_as_one_is_the_same_job(gateway: RunningGateway) -> None:
    body = {"kind": "noop", "seconds": 1}
    with gateway.http() as http:
        first = http.post("/v1/jobs", json=body).json()["id"]
        retried = http.post("/v1/jobs", json=body, headers={"x-stainless-retry-count": "1"}).json()["id"]
        another = http.post("/v1/jobs", json=body, headers={"x-stainless-retry-count": "0"}).json()["id"]
    assert retried == first
    assert another != first


def test_a_dataset_is_made_by_its_first_version_and_shows_its_report(gateway: RunningGateway) -> None:
    with gateway.http() as http:
        file = upload(gateway.openai())
        body = {"name": "客服", "file_id": file, "recipe": {"version": 1, "steps": [{"op": "drop_empty"}]}}
        job = http.post("/v1/datasets", json=body).json()
        assert (job["object"], job["kind"], job["dataset"]) == ("job", "data.build_version", "客服")
        again = http.post("/v1/datasets", json={"name": "客服", "file_id": file}).json()
        assert again["dataset_id"] == job["dataset_id"]
        assert again["position"] is None
        assert http.get(f"/v1/jobs/{again['id']}").json()["position"] == 1
        dataset = http.get("/v1/datasets/客服").json()
        assert (dataset["id"], dataset["versions"]) == (job["dataset_id"], [])
        gateway.add_version("dsv-1")
        version = http.get("/v1/datasets/service/versions/dsv-1").json()
        assert (version["report"], version["gate"]["passed"]) == ({"rows_in": 4}, True)
        assert "report" not in http.get("/v1/datasets/service").json()["versions"][0]


def test_versions_of_a_dataset_are_listed_page_by_page(gateway: RunningGateway) -> None:
    names = [f"dsv-{n}" for n in range(5)]
    for name in names:
        gateway.add_version(name)
    path, seen, after = "/v1/datasets/service/versions", [], ""
    with gateway.http() as http:
        while True:
            page = http.get(path, params={"limit": 2, "after": after}).json()
            seen += [version["id"] for version in page["data"]]
            if not page["has_more"]:
                break
            after = page["last_id"]
        refused = http.get(path, params={"after": "dsv-nobody"})
    assert sorted(seen) == names
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after")


def test_pretraining_and_evaluation_answer_with_jobs(gateway: RunningGateway) -> None:
    gateway.add_version("dsv-1")
    with gateway.http() as http:
        body = {
            "type": "pretrain",
            "name": "tiny",
            "training_file": "dsv-1",
            "hyperparameters": {"layers": 2},
        }
        job = http.post("/v1/training/jobs", json=body).json()
        assert (job["kind"], job["queue"]) == ("training.pretrain", "training.default")
        # Found out now, and not when the training is over.
        gateway.add_model("gone")
        http.delete("/v1/models/gone")
        taken = http.post("/v1/training/jobs", json={**body, "name": "gone"})
        assert (taken.status_code, taken.json()["error"]["code"]) == (409, "model_exists")
        assert http.get(f"/v1/training/jobs/{job['id']}").json()["status"] == "queued"
        job = http.post(
            "/v1/evaluations", json={"model": "base", "dataset_version": "dsv-1", "limit": 5}
        ).json()
        assert job["kind"] == "training.evaluate"
        assert [j["id"] for j in http.get("/v1/evaluations").json()["data"]] == [job["id"]]
        assert http.get(f"/v1/training/jobs/{job['id']}").status_code == 404


def test_the_secret_of_a_webhook_is_shown_once(gateway: RunningGateway) -> None:
    with gateway.http() as http:
        made = http.post(
            "/v1/webhooks", json={"url": "https://example.com/h", "events": ["batch.completed"]}
        ).json()
        assert made["secret"].startswith("whsec_")
        changed = http.post(f"/v1/webhooks/{made['id']}", json={"events": ["job.failed", "job.dead"]}).json()
        assert (changed["url"], changed["events"]) == ("https://example.com/h", ["job.dead", "job.failed"])
        assert "secret" not in http.get(f"/v1/webhooks/{made['id']}").json()
        assert "secret" not in http.get("/v1/webhooks").json()["data"][0]
        assert http.delete(f"/v1/webhooks/{made['id']}").json()["deleted"]
        assert http.get("/v1/webhooks").json()["data"] == []
